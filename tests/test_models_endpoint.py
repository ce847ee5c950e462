"""What a key may use, in the format its SDK knows; the headers that describe a request; and whether the process is well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from carrying_kit import error_code, serving
from http_kit import add_key, check_head, one_loop, plain, say

from muxx.testing import RawResponse, RunningGateway, chat

CONFIG = {
    "models": [
        {"name": "house/deep-model", "targets": ["openai/gpt-4o"]},
        {"name": "fast-*", "targets": ["openai/gpt-*"]},
        {"name": "plain", "targets": ["google/gemini-1.5-pro"]},
    ],
    "providers": {"house": {"base_url": "http://127.0.0.1:9", "api_key": "x"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[RunningGateway]:
    async with serving(config=CONFIG) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared: RunningGateway) -> RunningGateway:
    shared.upstream.script(chat())
    return shared


async def get(gateway: RunningGateway, path: str, *headers: tuple[str, str]) -> RawResponse:
    async with await gateway.connect() as client:
        await client.request("GET", path, headers or [("Authorization", f"Bearer {gateway.key}")])
        response = await client.read_response()
        check_head(response)
        return response


# ── GET /v1/models ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
async def test_models_are_listed_in_openais_shape_names_without_a_wildcard_first(gateway: RunningGateway) -> None:
    answer = (await get(gateway, "/v1/models")).json()
    assert answer["object"] == "list"
    names = [item["id"] for item in answer["data"]]
    assert names[:2] == ["house/deep-model", "plain"]
    assert len(names) == len(set(names))
    starred = ["*" in name for name in names]
    assert starred == sorted(starred)
    assert {
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4-turbo",
        "gpt-4",
        "gpt-3.5-turbo",
        "claude-3-5-sonnet",
        "gemini-1.5-flash",
        "mock",
        "fast-*",
    } <= set(names)
    for item in answer["data"]:
        assert set(item) == {"id", "object", "created", "owned_by"}
        assert (item["object"], type(item["created"])) == ("model", int)
    assert {item["id"]: item["owned_by"] for item in answer["data"]}["plain"] == "google"


@one_loop
async def test_models_are_listed_in_googles_shape_for_its_sdk(gateway: RunningGateway) -> None:
    answer = (await get(gateway, "/v1/models", ("x-goog-api-key", gateway.key))).json()
    assert set(answer) == {"models"}
    methods = ["generateContent", "streamGenerateContent", "countTokens"]
    expected = {"name": "models/gpt-4o", "displayName": "gpt-4o", "supportedGenerationMethods": methods}
    assert expected in answer["models"]
    assert (await get(gateway, "/v1beta/models", ("x-goog-api-key", gateway.key))).json() == answer


@one_loop
async def test_models_are_listed_in_anthropics_shape_for_its_sdk(gateway: RunningGateway) -> None:
    answer = (await get(gateway, "/v1/models", ("x-api-key", gateway.key), ("anthropic-version", "2023-06-01"))).json()
    assert set(answer) == {"data", "has_more", "first_id", "last_id"}
    assert answer["has_more"] is False
    assert (answer["first_id"], answer["last_id"]) == (answer["data"][0]["id"], answer["data"][-1]["id"])
    assert {(item["type"], type(item["display_name"]), item["created_at"][-1]) for item in answer["data"]} == {
        ("model", str, "Z")
    }


@one_loop
@pytest.mark.parametrize("name", ["gpt-4o", "plain", "fast-4o", "fast-*", "openai/anything", "house/deep-model", "mock/slow"])
async def test_one_model_is_shown_in_each_shape_and_2f_is_decoded_inside_its_id(name: str, gateway: RunningGateway) -> None:
    path = f"/v1/models/{name.replace('/', '%2F')}"
    assert (await get(gateway, path)).json()["id"] == name
    assert (await get(gateway, path.replace("%2F", "%2f"), ("x-goog-api-key", gateway.key))).json()["name"] == f"models/{name}"
    shown = await get(gateway, path, ("x-api-key", gateway.key), ("anthropic-version", "2023-06-01"))
    assert (shown.json()["type"], shown.json()["id"]) == ("model", name)


@one_loop
@pytest.mark.parametrize("path", ["openai/gpt-4o", "house/deep-model", "gpt-4o/", "a/b/c"])
async def test_a_slash_that_is_not_escaped_ends_the_id(path: str, gateway: RunningGateway) -> None:
    response = await get(gateway, f"/v1/models/{path}")
    assert (response.status, error_code(response)) == (404, "not_found")


@one_loop
@pytest.mark.parametrize(
    "name", ["no-such-model", "nobody%2Fmodel", "%2F", "openai%2F", "..", "%2e%2e", "%00", "%ff", "nope%0d%0a", "a" * 2000]
)
async def test_a_model_nobody_serves_is_404(name: str, gateway: RunningGateway) -> None:
    response = await get(gateway, f"/v1/models/{name}")
    assert (response.status, error_code(response)) == (404, "model_not_found")


@one_loop
async def test_escapes_other_than_the_slash_are_decoded_in_the_id_only(gateway: RunningGateway) -> None:
    assert (await get(gateway, "/v1/models/gpt%2D4o")).json()["id"] == "gpt-4o"
    assert (await get(gateway, "/v1/model%73/gpt-4o")).status == 404


@one_loop
@pytest.mark.parametrize(
    ("allowed", "usable", "refused"),
    [
        (("gpt-4o",), ["gpt-4o"], ["gpt-4o-mini", "plain"]),
        (("gpt-4*",), ["gpt-4o", "gpt-4", "gpt-4o-mini"], ["gpt-3.5-turbo", "o1"]),
        (("plain", "fast-*"), ["plain", "fast-4o", "fast-*"], ["gpt-4o"]),
        (("*",), ["gpt-4o", "plain", "mock"], []),
    ],
)
async def test_an_allow_list_bounds_what_is_listed_shown_and_called(
    allowed: tuple[str, ...], usable: list[str], refused: list[str], gateway: RunningGateway
) -> None:
    key = await add_key(gateway, models=allowed)
    bearer = ("Authorization", f"Bearer {key}")
    listed = {item["id"] for item in (await get(gateway, "/v1/models", bearer)).json()["data"]}
    for name in usable:
        assert (await get(gateway, f"/v1/models/{name}", bearer)).status == 200
    for name in refused:
        assert name not in listed
        shown = await get(gateway, f"/v1/models/{name}", bearer)
        assert (shown.status, error_code(shown)) == (404, "model_not_found")
        called = await gateway.chat(model=name, headers=dict([bearer]))
        assert (called.status, error_code(called)) == (403, "model_not_allowed")
    callable_names = [name for name in usable if "*" not in name]
    for name in callable_names:
        assert name in listed or any("*" in pattern for pattern in listed)
        assert (await gateway.chat(model=name, headers=dict([bearer]))).status == 200


@one_loop
async def test_an_allow_list_fits_the_resolved_name_too(gateway: RunningGateway) -> None:
    key = await add_key(gateway, models=("gemini-1.5-pro",))
    assert (await gateway.chat(model="plain", headers={"Authorization": f"Bearer {key}"})).status == 200
    assert gateway.upstream.last.model == "gemini-1.5-pro"


@one_loop
@pytest.mark.parametrize(
    ("others", "is_allowed"),
    [
        (["gpt-4o-mini", "gpt-4o"], True),
        ([], True),
        (None, True),
        (["gpt-4o-mini", "o1-pro"], False),
        ("o1-pro", False),
        ([{"model": "gpt-4o"}], False),
    ],
)  # fmt: skip
async def test_an_allow_list_bounds_the_models_that_a_body_names_besides_its_own(
    others: Any, is_allowed: bool, gateway: RunningGateway
) -> None:
    """OpenRouter answers with any of `models`."""
    key = await add_key(gateway, models=("gpt-4o*",))
    asked = len(gateway.upstream.requests)
    answer = await gateway.chat(model="gpt-4o", models=others, headers={"Authorization": f"Bearer {key}"})
    assert answer.status == (200 if is_allowed else 403)
    assert len(gateway.upstream.requests) == asked + is_allowed
    if not is_allowed:
        assert (answer.error["code"], answer.error["param"]) == ("model_not_allowed", "models")
    assert (await gateway.chat(model="gpt-4o", models=others)).status == 200, "a key without an allow-list may use any"


@one_loop
@pytest.mark.parametrize(
    ("allowed", "usable", "refused"),
    [
        ("gemini-1.5-pro", "plain", "gpt-4o"),
        ("google/gemini-1.5-pro", "plain", "gpt-4o"),
        ("openai/gpt-4*", "house/deep-model", "plain"),
        ("house/deep-model", "house/deep-model", "gpt-4o"),
    ],
)
async def test_what_an_allow_list_opens_by_its_resolved_name_is_listed_and_shown(
    allowed: str, usable: str, refused: str, gateway: RunningGateway
) -> None:
    bearer = ("Authorization", f"Bearer {await add_key(gateway, models=(allowed,))}")
    for name, status in ((usable, 200), (refused, 403)):
        assert (await gateway.chat(model=name, headers=dict([bearer]))).status == status
    listed = {item["id"] for item in (await get(gateway, "/v1/models", bearer)).json()["data"]}
    assert usable in listed
    assert refused not in listed
    assert (await get(gateway, f"/v1/models/{usable.replace('/', '%2F')}", bearer)).status == 200
    assert (await get(gateway, f"/v1/models/{refused}", bearer)).status == 404


@one_loop
@pytest.mark.parametrize(
    ("allowed", "listed"),
    [
        (("fast-4o", "plain"), ["fast-4o", "plain"]),
        (("fast-m*", "gpt-4o-2024-11-20"), ["gpt-4o-2024-11-20", "fast-m*"]),
        (("house/x", "nobody/x", "nothing"), ["house/x"]),
        (("groq/llama",), []),
    ],
)
async def test_names_of_an_allow_list_that_wildcards_stand_for_are_listed(
    allowed: tuple[str, ...], listed: list[str], gateway: RunningGateway
) -> None:
    bearer = ("Authorization", f"Bearer {await add_key(gateway, models=allowed)}")
    names = [item["id"] for item in (await get(gateway, "/v1/models", bearer)).json()["data"]]
    assert sorted(names) == sorted(listed)


@one_loop
@pytest.mark.parametrize("name", ["house/deep-model", "house%2Fdeep-model", "openai/org/model", "plain"])
async def test_googles_sdks_escape_no_slash_of_the_model_they_get(name: str, gateway: RunningGateway) -> None:
    for version in ("v1", "v1beta"):
        shown = await get(gateway, f"/{version}/models/{name}", ("x-goog-api-key", gateway.key))
        assert shown.json()["name"] == f"models/{name.replace('%2F', '/')}"


@one_loop
@pytest.mark.parametrize("name", ["house//x", "house/../plain", "./plain", "house/x/", "house/..", "."])
async def test_a_path_that_could_mean_another_names_no_model(name: str, gateway: RunningGateway) -> None:
    assert (await get(gateway, f"/v1beta/models/{name}", ("x-goog-api-key", gateway.key))).status == 404


async def test_a_provider_without_a_key_is_not_listed() -> None:
    async with serving(config={"providers": {"anthropic": {"api_key": ""}}}) as gateway:
        names = {item["id"] for item in (await get(gateway, "/v1/models")).json()["data"]}
        assert "gpt-4o" in names
        assert "claude-3-5-sonnet" not in names
        response = await gateway.chat(model="claude-3-5-sonnet")
        assert (response.status, error_code(response)) == (502, "upstream_auth")
        assert "ANTHROPIC_API_KEY" in response.error["message"]


# ── X-Muxx-Metadata and X-Muxx-User-Id ──────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"team":"a"}',
        '{"n":1,"deep":{"a":[1,null,true]}}',
        ' {"a": "b"} ',
        '{"umlaut":"ü"}',
        orjson.dumps({str(n): n for n in range(64)}).decode(),
        '{"a":"%s"}' % ("x" * 4087),
    ],
)
async def test_metadata_is_a_json_object_and_stands_in_the_row(text: str, gateway: RunningGateway) -> None:
    [response] = (await say(gateway, plain("X-Muxx-Metadata: " + on_the_wire(text)), most=1)).responses
    assert response.status == 200
    assert (await gateway.get_row(response.request_id))["metadata"] == orjson.loads(text)


def on_the_wire(text: str) -> str:
    """UTF-8, as a header has to be written where the client writes Latin-1."""
    return text.encode().decode("latin-1")


BAD_METADATA = [
    "", "[]", "null", "1", '"text"', "{", "{'a':1}", '{"a":1}{"b":2}', '{"a":NaN}', "\xff",
    orjson.dumps({str(n): n for n in range(65)}).decode(),
    '{"a":"%s"}' % ("x" * 4089), "[" * 4000,
]  # fmt: skip


@one_loop
@pytest.mark.parametrize("text", BAD_METADATA)
async def test_any_other_metadata_is_refused_before_anything_is_sent(text: str, gateway: RunningGateway) -> None:
    asked = len(gateway.upstream.requests)
    response = await gateway.chat(headers={"X-Muxx-Metadata": text})
    assert (response.status, error_code(response)) == (400, "invalid_metadata")
    assert response.error["param"] == "X-Muxx-Metadata"
    assert len(gateway.upstream.requests) == asked


@one_loop
@pytest.mark.parametrize(
    ("header", "code"), [('X-Muxx-Metadata: {"a":1}', "invalid_metadata"), ("X-Muxx-User-Id: a", "invalid_type")]
)
async def test_a_header_that_says_whose_the_request_is_comes_once(header: str, code: str, gateway: RunningGateway) -> None:
    asked = len(gateway.upstream.requests)
    [response] = (await say(gateway, plain(header, header), most=1)).responses
    assert (response.status, error_code(response)) == (400, code)
    assert len(gateway.upstream.requests) == asked


@one_loop
@pytest.mark.parametrize("user", ["me", "a" * 256, "Zoë", "a b", "<script>", "0"])
async def test_the_user_stands_in_the_row_and_is_not_sent_up(user: str, gateway: RunningGateway) -> None:
    [response] = (await say(gateway, plain("X-Muxx-User-Id: " + on_the_wire(user)), most=1)).responses
    assert response.status == 200
    assert (await gateway.get_row(response.request_id))["user_id"] == user
    assert gateway.upstream.last.header("x-muxx-user-id") is None


@one_loop
@pytest.mark.parametrize("user", ["a" * 257, on_the_wire("ü" * 129), "\x80\x81"])
async def test_a_user_that_is_too_long_or_no_text_is_refused(user: str, gateway: RunningGateway) -> None:
    [response] = (await say(gateway, plain("X-Muxx-User-Id: " + user), most=1)).responses
    assert (response.status, response.error["param"]) == (400, "X-Muxx-User-Id")


@one_loop
async def test_a_header_that_describes_the_request_twice_is_no_error_of_the_server(gateway: RunningGateway) -> None:
    twice = ("X-Muxx-Metadata: {}", "X-Muxx-Metadata: []", "X-Muxx-User-Id: a", "X-Muxx-User-Id: b")
    [response] = (await say(gateway, plain(*twice), most=1)).responses
    assert response.status in (200, 400)


# ── /healthz, /readyz ───────────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/ready"])
async def test_health_needs_no_key_and_says_nothing_of_what_runs(path: str, gateway: RunningGateway) -> None:
    """FAULTS Y05."""
    response = await get(gateway, path, ("X-Nothing", "x"))
    assert (response.status, response.json()) == (200, {"status": "ok"})


async def test_readyz_is_503_when_a_row_could_not_be_written_and_healthz_is_not() -> None:
    async with serving() as gateway:
        gateway.gateway.journal.healthy = False
        assert (await get(gateway, "/readyz", ("X", "x"))).status == 503
        assert (await get(gateway, "/healthz", ("X", "x"))).status == 200


async def test_readyz_is_503_while_draining_and_healthz_is_not() -> None:
    async with serving() as gateway:
        running_service(gateway).draining = True
        for path, status in (("/readyz", 503), ("/healthz", 200)):
            response = await get(gateway, path, ("X", "x"))
            assert response.status == status
            assert response.header("connection") == "close"
        running_service(gateway).draining = False


def running_service(gateway: RunningGateway) -> Any:
    """The service behind a running gateway: what a test can turn on and off from inside."""
    running: Any = gateway._running
    return running.worker.service

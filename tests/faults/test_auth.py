"""FAULTS A01 to A06, A08, A09 through a running gateway: who may come in, and what one may do who has."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import statistics
import time
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from carrying_kit import delta, error_code, finish, serving
from http_kit import BODY, PATH, add_key, chat_bytes, check_head, check_refusal, one_loop, plain, request, revoke, say
from multidict import CIMultiDict, CIMultiDictProxy

from muxx import Exchange, HttpRequest, Reply, Route, hookimpl
from muxx.endpoints import HEALTH_PATHS, KERNEL_PATHS, Table
from muxx.testing import DONE, RawResponse, RunningGateway, eventually, leak, sse, wait
from muxx_std.keys import format
from muxx_std.keys.plugin import Keys
from muxx_std.keys.store import KeyStore, new_row


async def ask(gateway: RunningGateway, *headers: str, path: str = PATH) -> RawResponse:
    """A chat request with these header lines and no others that could say who asks."""
    data = plain("Connection: close", *headers, line=f"POST {path} HTTP/1.1").replace(b"X-Muxx-Api-Key: <KEY>\r\n", b"")
    [response] = (await say(gateway, data)).responses
    return response


def key_header(key: str) -> str:
    return f"X-Muxx-Api-Key: {key}"


# ── A01: one and the same answer ────────────────────────────────────────────────────────────────────────────────────────────


def without_id(response: RawResponse) -> tuple[Any, ...]:
    """Everything of a response that may not differ: its status, its headers in order, its body."""
    own = {"date", "x-muxx-request-id", "x-request-id", "request-id", "server-timing"}
    body = response.body.replace((response.request_id or "").encode(), b"")
    return response.status, [(name, value) for name, value in response.headers if name.lower() not in own], body


async def refused_keys(gateway: RunningGateway) -> dict[str, str]:
    """Keys that do not work, each for a reason of its own."""
    good = await add_key(gateway)
    revoked = await add_key(gateway)
    await revoke(gateway, revoked)
    return {
        "malformed": "muxx_sk_live_short",
        "of another form": "sk-proj-0123456789",
        "empty": "",
        "bad checksum": good[:-1] + ("a" if good[-1] != "a" else "b"),
        "another environment": good.replace("_live_", "_test_"),
        "unknown": format.generate("live"),
        "unknown admin": format.generate("admin"),
        "revoked": revoked,
        "expired": await add_key(gateway, expires_at=time.time() - 1),
        "too long": good + "a",
    }


@one_loop
async def test_A01_keys_that_do_not_work_get_identical_bytes_but_for_the_id(gateway: RunningGateway) -> None:
    answers = {}
    for reason, key in (await refused_keys(gateway)).items():
        response = await ask(gateway, key_header(key))
        check_refusal(response, 401, "invalid_api_key")
        assert response.header("x-should-retry") == "false"
        assert response.header("www-authenticate") == "Bearer"
        answers[reason] = without_id(response)
    assert len({repr(answer) for answer in answers.values()}) == 1, answers
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize(
    "headers",
    [(), ("Authorization: Bearer sk-mine",), ("Authorization: Basic bXV4eDp4",), ("x-api-key: sk-ant",), ("Cookie: a=b",)],
)
async def test_A01_no_muxx_key_at_all_is_said_to_be_missing(headers: tuple[str, ...], gateway: RunningGateway) -> None:
    response = await ask(gateway, *headers)
    check_refusal(response, 401, "missing_api_key")
    assert response.error["type"] == "authentication_error"


@one_loop
async def test_A01_a_misspelt_key_costs_no_query(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an unknown one: keys are held in memory and read again only when one has changed."""
    assert (await gateway.chat()).status == 200
    queries: list[str] = []
    read = gateway.gateway.db.read

    async def counted(sql: str, *parameters: Any) -> Any:
        queries.append(sql)
        return await read(sql, *parameters)

    monkeypatch.setattr(gateway.gateway.db, "read", counted)
    gateway.gateway.host.shared.bump("keys")
    assert (await ask(gateway, key_header(gateway.key[:-1] + "!"))).status == 401
    assert queries == []
    assert (await ask(gateway, key_header(format.generate("live")))).status == 401
    assert len(queries) == 1
    assert (await ask(gateway, key_header(format.generate("live")))).status == 401
    assert len(queries) == 1


@one_loop
async def test_A01_a_refused_request_has_a_row_that_names_nobody(gateway: RunningGateway) -> None:
    response = await ask(gateway, key_header(format.generate("live")), "X-Muxx-User-Id: stranger")
    admin = await add_key(gateway, "admin", None)
    await eventually(lambda: len(gateway.gateway.calls) == 0)
    [row] = (await say(gateway, admin_get(f"/v1/logs/{response.request_id}", admin))).responses
    assert (row.json()["status"], row.json()["phase"], row.json()["project"], row.json()["error_code"]) == (
        401,
        "auth",
        None,
        "invalid_api_key",
    )
    assert (await gateway.get(f"/v1/logs/{response.request_id}")).status == 404


def admin_get(path: str, key: str) -> bytes:
    return request("Connection: close", line=f"GET {path} HTTP/1.1", body=b"").replace(b"<KEY>", key.encode())


# ── A02: which header counts ────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize(
    "names",
    [
        ("X-Muxx-Api-Key", "X-Muxx-Api-Key"), ("Authorization", "Authorization"), ("x-api-key", "x-api-key"),
        ("x-goog-api-key", "X-GOOG-API-KEY"),
    ],
)  # fmt: skip
async def test_A02_a_credential_header_that_comes_twice_is_refused_even_when_both_agree(
    names: tuple[str, str], gateway: RunningGateway
) -> None:
    value = f"Bearer {gateway.key}" if names[0] == "Authorization" else gateway.key
    response = await ask(gateway, *(f"{name}: {value}" for name in names))
    assert response.status in (400, 401)
    assert error_code(response) in ("invalid_api_key", "malformed_http")
    assert gateway.upstream.requests == []


@one_loop
async def test_A02_two_keys_that_differ_are_refused_and_two_that_agree_are_not(gateway: RunningGateway) -> None:
    other = await add_key(gateway)
    carriers = {"X-Muxx-Api-Key: {}", "Authorization: Bearer {}", "x-api-key: {}", "x-goog-api-key: {}"}
    for one, two in itertools.permutations(sorted(carriers), 2):
        check_refusal(await ask(gateway, one.format(gateway.key), two.format(other)), 401, "invalid_api_key")
        assert (await ask(gateway, one.format(gateway.key), two.format(gateway.key))).status == 200


@one_loop
@pytest.mark.parametrize("join", ["{0},{0}", "{0}, {0}", "{0};{0}", "{0} {0}", "Bearer {0}, Bearer {0}"])
@pytest.mark.parametrize("carrier", ["X-Muxx-Api-Key: {}", "Authorization: Bearer {}", "x-api-key: {}"])
async def test_A02_joined_keys_are_none(join: str, carrier: str, gateway: RunningGateway) -> None:
    response = await ask(gateway, carrier.format(join.format(gateway.key)))
    assert response.status == 401
    assert error_code(response) in ("invalid_api_key", "missing_api_key")


@one_loop
@pytest.mark.parametrize(
    "foreign", ["Authorization: Bearer sk-mine", "Authorization: Basic bXV4eA==", "x-api-key: sk-ant-mine", "Cookie: session=1"]
)
async def test_A02_beside_the_keys_own_header_foreign_credentials_are_ignored(foreign: str, gateway: RunningGateway) -> None:
    assert (await ask(gateway, key_header(gateway.key), foreign)).status == 200
    assert not [value for _, value in gateway.upstream.last.headers if "mine" in value]


@one_loop
@pytest.mark.parametrize(
    "carrier",
    [
        "X-Muxx-Api-Key: {}",
        "x-muxx-api-key: {}",
        "Authorization: Bearer {}",
        "AUTHORIZATION: bearer {}",
        "x-api-key: {}",
        "X-Goog-Api-Key: {}",
    ],
)
async def test_A02_a_key_is_taken_from_every_header_sdks_put_it_in(carrier: str, gateway: RunningGateway) -> None:
    assert (await ask(gateway, carrier.format(gateway.key))).status == 200


# ── A03, A04: where a key is none, and what is none ─────────────────────────────────────────────────────────────────────────


@one_loop
async def test_A03_a_key_anywhere_else_is_ignored_and_is_nowhere_in_what_is_kept(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    canary = await add_key(gateway)
    asked = [
        await ask(gateway, path=f"{PATH}?api_key={canary}&key={canary}&access_token={canary}"),
        await ask(gateway, f"Cookie: X-Muxx-Api-Key={canary}; key={canary}"),
        await ask(gateway, f"Proxy-Authorization: Bearer {canary}"),
        await ask(gateway, f"X-Api-Token: {canary}", f"Api-Key: {canary}"),
        *(
            await say(
                gateway,
                plain("Connection: close", line=f"POST http://{canary}@x{PATH} HTTP/1.1").replace(
                    b"X-Muxx-Api-Key: <KEY>\r\n", b""
                ),
            )
        ).responses,
        *(
            await say(
                gateway,
                plain("Connection: close", body=chat_bytes(api_key=canary, key=canary)).replace(
                    b"X-Muxx-Api-Key: <KEY>\r\n", b""
                ),
            )
        ).responses,
    ]
    assert [response.status for response in asked] == [401, 401, 401, 401, 400, 401]
    await eventually(lambda: len(gateway.gateway.calls) == 0)
    assert leak.find([canary], gateway.directory, caplog.text, *(response.body for response in asked)) == []


def naughty() -> list[str]:
    key = format.generate("live")
    return [
        "\xfe\xff", "\x80", "\u00e9" * 3, key + "\x80", "a" * 8000, "muxx_sk_live_" + "0" * 8000, f"{key} x", f"'{key}'",
        f'"{key}"', f"${{{key}}}",
        "muxx_sk_live_" + "\u00b2" * 38, key.replace("m", "\u00b5"), "None", "null", "undefined", "true", "[object Object]",
        "{}", "-1", "%00", "' OR 1=1 --",
        "../../etc/passwd", "muxx_sk_", "muxx_sk_live_", "MUXX_SK_LIVE_" + key[13:], key.upper(), key[:-1], key + key, "\t",
        "   ",
    ]  # fmt: skip


@one_loop
@pytest.mark.parametrize("carrier", ["X-Muxx-Api-Key: {}", "Authorization: Bearer {}"])
async def test_A04_whatever_stands_in_a_key_header_is_401_and_never_500(carrier: str, gateway: RunningGateway) -> None:
    for text in naughty():
        response = await ask(gateway, carrier.format(text))
        check_head(response)
        assert response.status == 401, text
        assert error_code(response) in ("invalid_api_key", "missing_api_key")
    assert gateway.upstream.requests == []


@one_loop
async def test_A04_a_nul_in_a_key_never_gets_that_far(gateway: RunningGateway) -> None:
    check_refusal(await ask(gateway, key_header(gateway.key + "\0")), 400, "malformed_http")


@one_loop
async def test_A04_spaces_around_a_key_are_the_headers_and_not_the_keys(gateway: RunningGateway) -> None:
    """RFC 9110: optional white space is no part of a field's value."""
    assert (await ask(gateway, f"X-Muxx-Api-Key: \t {gateway.key}  ")).status == 200
    check_refusal(await ask(gateway, f"Authorization: Bearer  {gateway.key}"), 401, "invalid_api_key")


# ── A05: time ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
async def test_A05_a_near_miss_takes_as_long_as_any_other_wrong_key(gateway: RunningGateway) -> None:
    """What is compared is a keyed hash, so what a guess has in common with a key has nothing in common with the time it takes."""
    keys = next(p.instance for p in gateway.gateway.plugins.plugins if isinstance(p.instance, Keys))
    near = gateway.key[:-8] + "zz"
    near += format.checksum(near)
    guesses = {"near": near, "far": format.generate("live")}
    times: dict[str, list[float]] = {name: [] for name in guesses}
    for name in itertools.islice(itertools.cycle(guesses), 2000):
        head = HttpRequest("POST", PATH, "", headers_with(guesses[name]), None)
        started = time.perf_counter()
        with pytest.raises(Exception, match="Invalid API key"):
            await keys.authenticate(gateway.gateway, head)
        times[name].append(time.perf_counter() - started)
    slow, fast = sorted(map(statistics.median, times.values()))[::-1]
    assert slow < 2 * fast


def headers_with(key: str) -> Any:
    return CIMultiDictProxy(CIMultiDict({"X-Muxx-Api-Key": key}))


# ── A06: SQL ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

SQL = [
    "' OR '1'='1", "'; DROP TABLE keys; --", "' UNION SELECT hmac FROM keys --", '" OR ""="', "1); DELETE FROM generations; --",
    "RANDOMBLOB(1000000000)",
    "%' OR 1=1 --", "_%", "'||(SELECT 1)||'", "\\'; --", "id DESC; --", "CASE WHEN 1 THEN RANDOMBLOB(1000000000) END",
]  # fmt: skip


async def schema(gateway: RunningGateway) -> list[tuple[str, str]]:
    db = gateway.gateway.db
    sql = "SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name"
    return [tuple(row) for rows in (await db.read(sql), await db.read_logs(sql)) for row in rows]


def quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


@one_loop
async def test_A06_sql_is_text_wherever_it_stands(gateway: RunningGateway) -> None:
    while "logs_text_changed" not in dict(before := await schema(gateway)):  # the log makes its indexes soon after the start
        await asyncio.sleep(0.01)
    started = time.monotonic()
    for payload in SQL:
        assert (await ask(gateway, key_header(payload))).status == 401
        assert (await gateway.chat(model=payload)).status == 404
        metadata = json.dumps({"team": payload, payload: 1})
        member = await gateway.chat(headers={"X-Muxx-User-Id": payload, "X-Muxx-Metadata": metadata})
        assert member.status == 200
        row = await gateway.get_row(member.request_id)
        assert (row["user_id"], row["metadata"]["team"], row["metadata"][payload]) == (payload, payload, 1)
        assert (await gateway.get(f"/v1/logs/{quoted(payload)}")).status == 404
        assert (await gateway.get(f"/v1/models/{quoted(payload)}")).status == 404
        for name in (
            "q",
            "model",
            "provider",
            "user_id",
            "after",
            "limit",
            "from",
            "to",
            "status",
            "cache",
            "environment",
            "metadata.team",
            "sort",
            payload,
        ):
            listed = await gateway.get(f"/v1/logs?{quoted(name)}={quoted(payload)}")
            assert listed.status in (200, 400)
            if listed.status == 200 and name in ("model", "provider"):
                assert {row["model_requested"] for row in listed.json()["data"]} <= {payload}
        await listed_alone(gateway, f"user_id={quoted(payload)}", member.request_id)
        await listed_alone(gateway, f"metadata.{quoted(payload)}=1", member.request_id)
    assert await schema(gateway) == before
    assert time.monotonic() - started < 40
    assert (await gateway.chat()).status == 200


async def listed_alone(gateway: RunningGateway, query: str, request_id: str | None) -> None:
    """The one row that fits, as soon as it is listed."""
    deadline = time.monotonic() + 5
    while (rows := (await gateway.get(f"/v1/logs?{query}")).json()["data"]) == []:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert [row["request_id"] for row in rows] == [request_id]


# ── A08: the very next request obeys ────────────────────────────────────────────────────────────────────────────────────────


@one_loop
async def test_A08_a_revoked_key_is_refused_on_the_next_request_of_an_open_connection(gateway: RunningGateway) -> None:
    key = await add_key(gateway)
    async with await gateway.connect() as client:
        for _ in range(3):
            await client.send(plain().replace(b"<KEY>", key.encode()))
            assert (await client.read_response()).status == 200
        await revoke(gateway, key)
        await client.send(plain().replace(b"<KEY>", key.encode()))
        check_refusal(await client.read_response(), 401, "invalid_api_key")
    assert (await gateway.chat()).status == 200


@one_loop
async def test_A08_a_stream_that_runs_when_its_key_is_revoked_finishes(gateway: RunningGateway) -> None:
    key, release = await add_key(gateway), asyncio.Event()
    first, *rest = sse(chunks=[delta("a"), delta("b"), finish(), DONE])
    gateway.upstream.script([first, rest[0], wait(release), *rest[1:]])
    async with await gateway.connect() as client:
        await client.post_chat(key, {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "stream": True})
        assert (await client.read_head()).status == 200
        await revoke(gateway, key)
        release.set()
        await client.readuntil(DONE)


@one_loop
async def test_A08_a_key_dies_at_its_time_and_not_before(gateway: RunningGateway) -> None:
    key = await add_key(gateway, expires_at=time.time() + 0.5)
    assert (await ask(gateway, key_header(key))).status == 200
    await asyncio.sleep(0.6)
    check_refusal(await ask(gateway, key_header(key)), 401, "invalid_api_key")


# ── A09: routes and roles ───────────────────────────────────────────────────────────────────────────────────────────────────

ADMINS_ONLY = {"nobody": 401, "project": 403, "test": 403}

RULES: dict[tuple[str, str], dict[str, int]] = {
    # What each role gets; whoever adds a route adds its rule here, or the test below fails. Where an id stands in the path, that
    # is of something that does not exist; `own` is what keys of the project get for what is theirs, `found` what admins do.
    ("POST", "/v1/chat/completions"): {"nobody": 401, "project": 200, "test": 200, "admin": 403},
    # The request is one for chat, which lacks what the other endpoints need: only who may call gets as far as that.
    **{
        ("POST", path): {"nobody": 401, "project": 400, "test": 400, "admin": 403}
        for path in (
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
            "/v1beta/models/{model}:generateContent",
            "/v1beta/models/{model}:countTokens",
        )
    },
    ("POST", "/v1/messages/count_tokens"): {"nobody": 401, "project": 200, "test": 200, "admin": 403},
    ("GET", "/v1/models"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/models/{id}"): {"nobody": 401, "project": 404, "test": 404, "admin": 404, "own": 200, "found": 200},
    ("GET", "/v1beta/models"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1beta/models/{id}"): {"nobody": 401, "project": 404, "test": 404, "admin": 404, "own": 200, "found": 200},
    ("GET", "/metrics"): {"nobody": 200, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/logs"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    # It has to be told in which form.
    ("GET", "/v1/logs/export"): {"nobody": 401, "project": 400, "test": 400, "admin": 400},
    ("GET", "/v1/logs/{request_id}"): {"nobody": 401, "project": 404, "test": 404, "admin": 404, "own": 200, "found": 200},
    ("GET", "/v1/analytics/spend"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/analytics/cache"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/cache"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("DELETE", "/v1/cache"): {**ADMINS_ONLY, "admin": 200},
    ("GET", "/v1/keys"): {**ADMINS_ONLY, "admin": 200},
    ("POST", "/v1/keys"): {**ADMINS_ONLY, "admin": 201},
    ("GET", "/v1/keys/{id}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("PATCH", "/v1/keys/{id}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("POST", "/v1/keys/{id}/rotate"): {**ADMINS_ONLY, "admin": 404, "found": 201},
    ("DELETE", "/v1/keys/{id}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("GET", "/v1/project"): {"nobody": 401, "project": 200, "test": 200, "admin": 404},
    ("GET", "/v1/projects"): {**ADMINS_ONLY, "admin": 200},
    ("POST", "/v1/projects"): {**ADMINS_ONLY, "admin": 201},
    ("GET", "/v1/projects/{id}"): {"nobody": 401, "project": 404, "test": 404, "admin": 404, "own": 200, "found": 200},
    ("PATCH", "/v1/projects/{id}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("DELETE", "/v1/projects/{id}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("POST", "/v1/projects/{id}/restore"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("GET", "/v1/projects/{id}/provider-keys"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("PUT", "/v1/projects/{id}/provider-keys/{provider}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("DELETE", "/v1/projects/{id}/provider-keys/{provider}"): {**ADMINS_ONLY, "admin": 404, "found": 200},
    ("GET", "/v1/audit"): {**ADMINS_ONLY, "admin": 200},
    ("GET", "/v1/openapi.json"): {"nobody": 200, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/alerts"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/alerts/events"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    # There is no such receiver.
    ("POST", "/v1/alerts/test"): {**ADMINS_ONLY, "admin": 400},
    ("GET", "/v1/caps"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    ("GET", "/v1/limits"): {"nobody": 401, "project": 200, "test": 200, "admin": 200},
    **{("GET", path): {"nobody": 200, "project": 200, "test": 200, "admin": 200} for path in HEALTH_PATHS},
}

RESTORE = ("POST", "/v1/projects/{id}/restore")
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    # A valid body for every route that says it takes one, or looks whether there is one.
    ("POST", "/v1/keys"): {"project": "default", "name": "made by the matrix"},
    ("PATCH", "/v1/keys/{id}"): {"name": "named by the matrix"},
    ("POST", "/v1/keys/{id}/rotate"): {"overlap_s": 60},
    ("POST", "/v1/alerts/test"): {"receiver": "nobody"},
    ("POST", "/v1/projects"): {"name": "matrix"},
    RESTORE: {},
    ("PATCH", "/v1/projects/{id}"): {"settings": {"cache": {"ttl": 5}}},
    ("PUT", "/v1/projects/{id}/provider-keys/{provider}"): {"key": "sk-of-the-matrix-0123456789"},
}
WAYS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes_of(gateway: RunningGateway) -> dict[tuple[str, str], Any]:
    """Every route there is; None for those outside the table."""
    found: dict[tuple[str, str], Any] = {(route.method, route.path): route for route in Table(gateway.gateway).routes}
    found |= {(method, path): None for path, method in KERNEL_PATHS.items()} | {("GET", path): None for path in HEALTH_PATHS}
    return found


async def roles_of(gateway: RunningGateway) -> dict[str, str]:
    """A key of each kind: of nobody, of the project whose things are asked for, of another one, of admins."""
    revoked = await add_key(gateway)
    await revoke(gateway, revoked)
    return {
        "none": "",
        "nobody": format.generate("live"),
        "revoked": revoked,
        "project": gateway.key,
        "test": await add_key(gateway, "test"),
        "other": await add_key(gateway, project="strangers"),
        "admin": await add_key(gateway, "admin", None),
    }


async def call(gateway: RunningGateway, method: str, path: str, key: str, body: Any = None) -> RawResponse:
    """One request with this key, or with none."""
    line = f"{method} {path} HTTP/1.1"
    if method in ("GET", "DELETE"):
        data = request("Connection: close", line=line, body=b"")
    else:
        data = plain("Connection: close", line=line, body=BODY if body is None else orjson.dumps(body))
    text = data.replace(b"<KEY>", key.encode()) if key else data.replace(b"X-Muxx-Api-Key: <KEY>\r\n", b"")
    [response] = (await say(gateway, text)).responses
    check_head(response)
    return response


def filled(path: str, ids: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], path)


NOTHING = {"id": "proj_0", "request_id": "req_0", "provider": "openai", "model": "gpt-4o"}


async def things_of(gateway: RunningGateway, path: str) -> dict[str, str]:
    """Ids for this path that exist and belong to the project `default`, or to nobody else; new ones, for a route may use them up."""
    row = await gateway.chat()
    await gateway.get_row(row.request_id)
    host = gateway.gateway.host
    id = "gpt-4o"
    if path.startswith("/v1/keys"):
        made = new_row(format.generate("live"), host.derive("keys"), project="default")
        await KeyStore(host.db).add(made)
        id = made.id
    elif path.startswith("/v1/projects"):
        id = (await host.projects.named("default")).id
        await host.projects.set_provider_key("default", "openai", "sk-of-the-project-0123456789")
    return {**NOTHING, "id": id, "request_id": row.request_id or ""}


@one_loop
async def test_A09_every_route_has_a_rule_and_every_role_meets_it(gateway: RunningGateway) -> None:
    routes, roles = routes_of(gateway), await roles_of(gateway)
    assert routes.keys() == RULES.keys(), "a route without a rule, or a rule without a route"
    assert {name for name, route in routes.items() if route is not None and route.body is not None} == BODIES.keys() - {RESTORE}
    refusals: dict[bool, set[str]] = {True: set(), False: set()}
    for (method, path), expected in RULES.items():
        for role, key in roles.items():
            as_role = {"none": "nobody", "revoked": "nobody", "other": "project"}.get(role, role)
            response = await call(gateway, method, filled(path, NOTHING), key, BODIES.get((method, path)))
            assert response.status == expected[as_role], (method, path, role, response.text)
            if response.status == 401 and role != "none" and not path.startswith(("/v1beta", "/v1/messages")):
                refusals[path in KERNEL_PATHS].add(repr(without_id(response)))
            if response.status == 403 and routes[method, path] is not None:
                assert error_code(response) == "admin_required"
    assert [len(answers) for answers in refusals.values()] == [1, 1], "keys that do not work are answered with the same bytes everywhere"


@one_loop
async def test_A09_what_exists_is_there_for_its_project_and_admins_and_for_others_as_if_it_were_not(gateway: RunningGateway) -> None:
    roles = await roles_of(gateway)
    for (method, path), expected in RULES.items():
        if not {"own", "found"} & expected.keys():
            assert not re.search(r"\{(id|request_id)\}", path), "a route with an id says what is answered where there is such a thing"
            continue
        body, shared = BODIES.get((method, path)), "models" in path
        missing = await call(gateway, method, filled(path, NOTHING), roles["other"], body)
        for role, key in roles.items():
            response = await call(gateway, method, filled(path, await things_of(gateway, path)), key, body)
            if role == "other" and not shared:
                assert without_id(response) == without_id(missing), (method, path)
            elif role in ("project", "test"):
                assert response.status == expected.get("own", expected[role]), (method, path, role)
            elif role == "admin":
                assert response.status == expected["found"], (method, path, response.text)
                await gateway.gateway.host.projects.restore("default")


@one_loop
async def test_A09_another_method_is_405_for_everybody_and_says_which_there_are(gateway: RunningGateway) -> None:
    routes, roles = routes_of(gateway), await roles_of(gateway)
    for path in {path for _, path in routes}:
        allowed = sorted(method for method, where in routes if where == path)
        for method in set(WAYS) - set(allowed):
            if path in HEALTH_PATHS or (method == "GET" and "{model}:" in path):  # a model's name may end in anything
                continue
            answers = [await call(gateway, method, filled(path, NOTHING), roles[role], {}) for role in ("none", "project", "admin")]
            assert {answer.status for answer in answers} == {405}, (method, path)
            assert set((answers[0].header("allow") or "").split(", ")) >= set(allowed), (method, path)
            assert len({repr(without_id(answer)) for answer in answers}) == 1


async def everything(gateway: RunningGateway) -> dict[str, list[Any]]:
    """All rows of all tables that the management API may change."""
    tables = ("projects", "provider_keys", "keys", "audit")
    return {name: [tuple(row) for row in await gateway.gateway.db.read("SELECT * FROM " + name)] for name in tables}


@one_loop
@pytest.mark.parametrize("extra", ["role", "budget", "is_admin", "id", "environment_", "__proto__", ""])
async def test_A09_members_that_no_route_takes_are_400_and_have_no_effect(extra: str, gateway: RunningGateway) -> None:
    admin = (await roles_of(gateway))["admin"]
    for (method, path), body in BODIES.items():
        ids = await things_of(gateway, path)
        before = await everything(gateway)
        response = await call(gateway, method, filled(path, ids), admin, {**body, extra: 10**9})
        assert (response.status, response.error["type"]) == (400, "invalid_request_error"), (method, path)
        assert response.error["param"] == (extra or '""')
        assert await everything(gateway) == before


@one_loop
async def test_A09_another_projects_row_is_answered_as_one_that_does_not_exist(gateway: RunningGateway) -> None:
    mine = await gateway.chat()
    await gateway.get_row(mine.request_id)
    other = await add_key(gateway, project="other")
    test = await add_key(gateway, "test", project="other")
    for key in (other, test):
        foreign = [*(await say(gateway, admin_get(f"/v1/logs/{mine.request_id}", key))).responses]
        missing = [*(await say(gateway, admin_get("/v1/logs/req_00000000000000000000000000", key))).responses]
        assert [without_id(response) for response in foreign] == [without_id(response) for response in missing]
        assert foreign[0].status == 404
        [listed] = (await say(gateway, admin_get("/v1/logs?environment=all", key))).responses
        assert listed.json()["data"] == []
    assert (await gateway.get_row(mine.request_id))["request_id"] == mine.request_id


@one_loop
async def test_A09_an_admin_key_makes_no_calls_and_a_project_key_administers_nothing(gateway: RunningGateway) -> None:
    admin = await add_key(gateway, "admin", None)
    response = await ask(gateway, key_header(admin))
    assert (response.status, response.error["type"]) == (403, "permission_error")
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize(
    "extra",
    [{"role": "admin"}, {"is_admin": True}, {"budget": 10**9}, {"project": "other"}, {"key": "x"}, {"environment": "admin"}],
)
async def test_A09_members_of_a_body_give_nobody_a_right(extra: dict[str, Any], gateway: RunningGateway) -> None:
    limited = await add_key(gateway, project="limited", models=("gpt-4o-mini",))
    data = plain("Connection: close", body=chat_bytes(**extra)).replace(b"<KEY>", limited.encode())
    [refused] = (await say(gateway, data)).responses
    check_refusal(refused, 403, "model_not_allowed")
    data = plain("Connection: close", body=chat_bytes(model="gpt-4o-mini", **extra)).replace(b"<KEY>", limited.encode())
    [allowed] = (await say(gateway, data)).responses
    assert allowed.status == 200
    [row] = (await say(gateway, admin_get(f"/v1/logs/{allowed.request_id}", limited))).responses
    assert (row.json()["project"], row.json()["environment"]) == ("limited", "live")


async def test_A09_a_plugins_routes_are_guarded_by_the_role_they_name() -> None:
    called: list[tuple[str, str | None]] = []

    async def handle(gateway: Any, request: HttpRequest) -> Reply:
        called.append((request.path, request.identity.role if request.identity else None))
        return Reply.json({"params": dict(request.params), "query": request.query})

    class Routes:
        @hookimpl
        def register_routes(self) -> list[Route]:
            return [
                Route("GET", "/house/public/{name}", handle, "public"),
                Route("GET", "/house/project", handle, "project"),
                Route("POST", "/house/admin", handle, "admin"),
            ]

        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            raise AssertionError("a route is no exchange")

    async with serving(plugins={"routes": Routes}) as gateway:
        admin, project, wrong = await add_key(gateway, "admin", None), gateway.key, format.generate("live")
        expected = {
            ("GET", "/house/public/a%2Fb?x=1&x=2"): {admin: 200, project: 200, wrong: 200, "": 200},
            ("GET", "/house/project"): {admin: 200, project: 200, wrong: 401, "": 401},
            ("POST", "/house/admin"): {admin: 200, project: 403, wrong: 401, "": 401},
        }
        for (method, path), statuses in expected.items():
            for key, status in statuses.items():
                line = f"{method} {path} HTTP/1.1"
                data = plain("Connection: close", line=line, body=BODY if method == "POST" else b"")
                data = data.replace(b"<KEY>", key.encode()) if key else data.replace(b"X-Muxx-Api-Key: <KEY>\r\n", b"")
                [response] = (await say(gateway, data)).responses
                check_head(response)
                assert response.status == status
                if status == 403:
                    assert error_code(response) == "admin_required"
                if "public" in path:
                    assert response.json() == {"params": {"name": "a/b"}, "query": {"x": "2"}}
    assert {role for path, role in called if path == "/house/admin"} == {"admin"}
    assert {role for path, role in called if path == "/house/project"} == {"admin", "project"}

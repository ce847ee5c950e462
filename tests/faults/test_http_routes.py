"""FAULTS H03 to H06 over raw sockets: which route a request meets, which headers count, and which cross."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from carrying_kit import error_code
from http_kit import (
    PATH,
    chat_bytes,
    check_head,
    check_refusal,
    one_loop,
    plain,
    refused,
    request,
    say,
)
from hypothesis import given
from hypothesis import strategies as st

from muxx import Gateway, MuxxError, Route
from muxx.endpoints import KERNEL_ROUTES, Table
from muxx.testing import (
    PROVIDER_KEY,
    RecordedRequest,
    RunningGateway,
    Script,
    chat,
    json,
)

# ── H03: the Host header decides nothing ────────────────────────────────────────────────────────────────────────────────────

BAD_HOSTS = [
    "evil/?", "a b@c", "a, b", "x:99999", "x:", "[::1", "x:80:80", "", "x/y", "x?", "x#", "x@y", "x\\y", "\xe9", "x:+8", "x:8a",
    "%78", "*", "x;y",
    "x\ty", "'x'", "${x}", "[v1.x]", "x:-1",
]  # fmt: skip
ODD_HOSTS = [
    "x",
    "x:0",
    "x:65535",
    "[::1]",
    "[::1]:80",
    "1.2.3.4:80",
    "xn--e",
    "a_b",
    "-",
    "..",
    "X.EVIL.EXAMPLE",
    "localhost",
    "127.0.0.1",
    "a.b.c.d",
    "0",
    "muxx",
]
SOME_PATHS = [
    ("POST", PATH), ("GET", "/v1/models"), ("GET", "/v1/models/gpt-4o"), ("GET", "/v1/logs"), ("GET", "/v1/logs/x"),
    ("GET", "/healthz"), ("GET", "/nothing"),
]  # fmt: skip


def asking(method: str, path: str, host: str, *, key: bool) -> bytes:
    line = f"{method} {path} HTTP/1.1"
    if method == "POST":
        data = plain("Connection: close", line=line, host=host)
    else:
        data = request("Connection: close", line=line, body=b"", host=host)
    return data if key else data.replace(b"X-Muxx-Api-Key: <KEY>\r\n", b"")


@one_loop
@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_H03_a_host_that_is_none_is_refused_on_every_route_with_and_without_a_key(
    host: str, gateway: RunningGateway
) -> None:
    for method, path in SOME_PATHS:
        for key in (True, False):
            check_refusal(await refused(gateway, asking(method, path, host, key=key)), 400, "invalid_host")


@one_loop
@pytest.mark.parametrize("key", [True, False])
async def test_H03_whatever_host_is_named_the_answer_is_the_same(key: bool, gateway: RunningGateway) -> None:
    for method, path in SOME_PATHS:
        answers = set()
        for host in ODD_HOSTS:
            [response] = (await say(gateway, asking(method, path, host, key=key))).responses
            answers.add((response.status, error_code(response) if response.status >= 400 else None))
        assert len(answers) == 1, (method, path, answers)


@one_loop
@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"http://evil{PATH}", 400, "invalid_host"),
        (f"http://u@x{PATH}", 400, "invalid_host"),
        (f"http://x:80{PATH}", 400, "invalid_host"),
        (f"http://x:99999{PATH}", 400, "malformed_http"),
        (f"http://{PATH}", 400, "malformed_http"),
        ("http://x", 404, "not_found"),
        (f"ftp://x{PATH}", 404, "not_found"),
        (f"http://x//{PATH}", 404, "not_found"),
    ],
)
async def test_H03_an_absolute_target_has_to_name_the_host(target: str, status: int, code: str, gateway: RunningGateway) -> None:
    told = await say(gateway, plain("Connection: close", line=f"POST {target} HTTP/1.1"))
    check_refusal(told.responses[0], status, code)
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
async def test_H03_an_absolute_target_that_does_is_served(scheme: str, gateway: RunningGateway) -> None:
    [response] = (await say(gateway, plain("Connection: close", line=f"POST {scheme}://x{PATH} HTTP/1.1"))).responses
    assert response.status == 200


# ── H04: routes come from the raw target ────────────────────────────────────────────────────────────────────────────────────

TWISTS: dict[str, Callable[[str], str]] = {
    "//": lambda path: "/" + path,
    "// within": lambda path: path.replace("/v1/", "/v1//"),
    "trailing /": lambda path: path + "/",
    "%2f": lambda path: path.replace("/", "%2f").replace("%2f", "/", 1),
    "%2F at the end": lambda path: path + "%2F",
    "a letter escaped": lambda path: path.replace("v", "%76", 1).replace("h", "%68", 1),
    "dot segments": lambda path: "/v1/.." + path,
    "a dot": lambda path: "/." + path,
    "a dot at the end": lambda path: path + ".",
    "escaped dots": lambda path: "/v1/%2e%2e" + path,
    "capitals": lambda path: path.upper(),
    "a parameter": lambda path: path + ";x",
    "a NUL": lambda path: path + "%00",
    "a line break": lambda path: path + "%0d%0a",
    "a space": lambda path: path + "%20",
    "a fragment": lambda path: path + "#x",
    "a backslash": lambda path: path.replace("/", "\\").replace("\\", "/", 1),
    "twice": lambda path: path + path,
    "admin behind it": lambda path: path + "/../admin",
}
FIXED_PATHS = [
    ("POST", PATH),
    ("GET", "/v1/models"),
    ("GET", "/v1/logs"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/admin"),
]


@one_loop
@pytest.mark.parametrize("twist", TWISTS)
async def test_H04_a_path_that_is_almost_a_route_is_none(twist: str, gateway: RunningGateway) -> None:
    for method, path in FIXED_PATHS:
        twisted = TWISTS[twist](path)
        if twisted == path:
            continue
        for key in (True, False):
            [response] = (await say(gateway, asking(method, twisted, "x", key=key))).responses
            if twisted.startswith(("/v1/models", "/v1/logs")) and response.status == 401:
                continue  # one segment more: a model or a row of that name, which it takes a key to ask for
            check_head(response)
            assert (response.status, error_code(response)) in [(404, "not_found"), (404, "model_not_found")]
    assert gateway.upstream.requests == []


SEGMENTS = st.sampled_from(
    ["v1", "chat", "completions", "models", "logs", "healthz", "gpt-4o", "..", ".", "", "%2f", "%2e", "V1", "x;y", "%00"]
)


@given(st.lists(SEGMENTS, max_size=5).map(lambda segments: "/" + "/".join(segments)))
def test_H04_only_the_very_path_finds_a_route(path: str) -> None:
    """Nothing is normalised before routing, so nothing normalised can be another route."""
    routes = [*KERNEL_ROUTES, Route("GET", "/v1/logs", handler), Route("GET", "/v1/logs/{request_id}", handler)]
    table = Table(cast(Gateway, SimpleNamespace(routes=routes[len(KERNEL_ROUTES) :])))
    try:
        route, params = table.find("GET", path)
    except MuxxError:
        return
    if "{" not in route.path:
        assert path == route.path
    else:
        assert len(path.split("/")) == len(route.path.split("/"))
        assert path.rpartition("/")[0] == route.path.rpartition("/")[0]
        assert list(params) == [route.path.rpartition("/")[2].strip("{}")]


def test_H04_parameters_are_those_of_the_route_that_was_found() -> None:
    routes = [
        Route("GET", "/things/{id}", handler),
        Route("DELETE", "/things/{other}", handler),
        Route("GET", "/things/all", handler),
    ]
    table = Table(cast(Gateway, SimpleNamespace(routes=routes)))
    assert table.find("GET", "/things/a%2Fb") == (routes[0], {"id": "a/b"})
    assert table.find("DELETE", "/things/7") == (routes[1], {"other": "7"})
    assert table.find("GET", "/things/all") == (routes[2], {})


async def handler(gateway: Any, request: Any) -> Any: ...


@one_loop
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("PUT", PATH),
        ("HEAD", "/v1/models"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/logs"),
        ("PATCH", "/v1/logs/x"),
        ("OPTIONS", PATH),
    ],
)
async def test_a_known_path_with_another_method_is_405(method: str, path: str, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.request(method, path, {"X-Muxx-Api-Key": gateway.key})
        response = await client.read_head()
        check_head(response)
        assert response.status == 405
        if method != "HEAD":
            response.body = await client.readexactly(int(response.header("content-length") or 0))
            check_refusal(response, 405, "method_not_allowed")


@one_loop
@pytest.mark.parametrize("action", ["generateContent", "streamGenerateContent", "countTokens"])
async def test_what_is_asked_of_a_model_is_never_shown_as_part_of_its_name(action: str, gateway: RunningGateway) -> None:
    for way in ("GET", "DELETE"):
        async with await gateway.connect() as client:
            await client.request(way, f"/v1beta/models/gemini-1.5-flash:{action}", {"X-Muxx-Api-Key": gateway.key})
            refused = await client.read_response()
        check_head(refused)
        assert (refused.status, refused.header("allow"), refused.error["code"]) == (405, "POST", 405)


@one_loop
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/chat/completions", "/metrics/x", "/favicon.ico", "/v1/chat", "/.env", "/v1/completions/x"]
)
async def test_an_unknown_path_is_404_with_and_without_a_key(path: str, gateway: RunningGateway) -> None:
    for key in (True, False):
        [response] = (await say(gateway, asking("GET", path, "x", key=key))).responses
        check_refusal(response, 404, "not_found")


@one_loop
@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/v1/audio/speech", "does not serve this endpoint"),
        ("/v1/messages/batches", "does not serve this endpoint"),
        ("/v1beta/cachedContents", "does not serve this endpoint"),
        ("/v1beta/models/gemini-embedding-001:batchEmbedContents", "does not serve this endpoint"),
        ("/v1/models/gemini-embedding-001:embedContent", "does not serve this endpoint"),
        ("/upload/v1beta/files", "does not serve this endpoint"),
        ("/v1beta/openai/gpt-4o:generateContent", "write models/NAME"),
        ("/v1alpha/models/gemini-1.5-pro:streamGenerateContent?alt=sse", "Take api_version out"),
        ("/v1alpha/models", "Take api_version out"),
        ("/models/gemini-1.5-pro:generateContent", "End the base URL in /v1beta"),
        ("/v1/v1/messages", "Take /v1 off the end of the base URL"),
        ("/v1/v1beta/models/gemini-1.5-pro:generateContent", "Take /v1 off the end of the base URL"),
        ("/chat/completions", "OpenAI's SDKs want it to end in /v1"),
        ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "instead of its AzureOpenAI"),
        ("/v1/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "instead of its AzureOpenAI"),
        ("/openai/responses?api-version=preview", "instead of its AzureOpenAI"),
        ("/v1beta1/publishers/google/models/gemini-1.5-pro:generateContent", "without vertexai"),
        ("/v1/chat/completions/chat/completions", "has the endpoint twice"),
        ("/v1/messages/v1/messages", "has the endpoint twice"),
        ("/openai/v1/chat/completions", "between the gateway's address and /v1"),
        ("/anthropic/v1/messages", "between the gateway's address and /v1"),
        ("/gemini/v1beta/models/gemini-1.5-pro:generateContent", "between the gateway's address and /v1"),
    ],
)
async def test_a_404_tells_a_wrong_base_url_from_an_endpoint_that_is_not_served(
    path: str, advice: str, gateway: RunningGateway
) -> None:
    [response] = (await say(gateway, plain("Connection: close", line=f"POST {path} HTTP/1.1"))).responses
    assert response.status == 404
    assert advice in response.json()["error"]["message"]


# ── H05, H06: which headers count, and which cross ──────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize(
    "name", ["X_Muxx_Api_Key", "X-Muxx_Api-Key", "XMuxxApiKey", "X-Muxx-Api-Key-", "HTTP_X_MUXX_API_KEY", "x.muxx.api.key"]
)
async def test_H05_a_name_that_is_almost_the_keys_is_not_the_keys(name: str, gateway: RunningGateway) -> None:
    data = plain("Connection: close").replace(b"X-Muxx-Api-Key:", name.encode() + b":")
    response = await refused(gateway, data)
    check_refusal(response, 401, "missing_api_key")


@one_loop
async def test_H05_underscored_framing_headers_frame_nothing_and_are_not_forwarded(gateway: RunningGateway) -> None:
    odd = ("Transfer_Encoding: chunked", "Content_Length: 5", "X_Muxx_Api_Key: other")
    told = await say(gateway, plain(*odd) + plain("Connection: close"))
    assert [response.status for response in told.responses] == [200, 200]
    for upstream_request in gateway.upstream.requests:
        assert not [name for name, _ in upstream_request.headers if "_" in name]


SENT_UP = {
    "host", "content-type", "accept-encoding", "authorization", "content-length", "accept", "user-agent", "openai-beta",
    "anthropic-version",
    "anthropic-beta", "idempotency-key", "traceparent",
}  # fmt: skip
FORBIDDEN_UP = {
    "Keep-Alive": "timeout=5", "TE": "trailers", "Trailer": "X-T", "Upgrade": "foo/2", "Proxy-Connection": "keep-alive",
    "Cookie": "a=b",
    "Proxy-Authorization": "Basic abc", "Forwarded": "for=1.2.3.4", "X-Forwarded-For": "1.2.3.4", "X-Real-IP": "1.2.3.4",
    "X-Muxx-User-Id": "u",
    "X-Muxx-Metadata": "{}", "X-Api-Key": "sk-mine", "X-Goog-Api-Key": "sk-mine", "Authorization": "Bearer sk-mine",
    "Origin": "http://evil",
    "Referer": "http://evil", "X-Custom": "1", "OpenAI-Organization": "org-mine", "Content-Language": "en", "Via": "1.1 x",
}  # fmt: skip


@one_loop
@pytest.mark.parametrize(
    "nominated", ["close, x-muxx-api-key, authorization", "x-muxx-api-key", "close, content-type, host, content-length"]
)
async def test_H06_the_upstream_sees_an_allow_list_and_nominating_a_header_changes_nothing(
    nominated: str, gateway: RunningGateway
) -> None:
    allowed = {"Accept": "a/b", "User-Agent": "me", "OpenAI-Beta": "x=1", "Idempotency-Key": "7", "Traceparent": "00-1-2-03"}
    lines = [f"{name}: {value}" for name, value in (allowed | FORBIDDEN_UP).items()]
    told = await say(gateway, plain(*lines, f"Connection: {nominated}"), most=1)
    assert told.responses[0].status == 200
    sent = {name.lower(): value for name, value in gateway.upstream.last.headers}
    assert set(sent) <= SENT_UP
    assert {name: sent[name.lower()] for name in allowed} == allowed
    assert sent["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert sent["content-type"] == "application/json"


@one_loop
@pytest.mark.parametrize("stream", [False, True])
async def test_H06_the_client_sees_an_allow_list_of_the_upstreams_headers(stream: bool, gateway: RunningGateway) -> None:
    evil = {
        "OpenAI-Processing-Ms": "7", "Set-Cookie": "a=b", "Server": "evil/1", "X-Powered-By": "evil", "Keep-Alive": "timeout=9",
        "Via": "1.1 x",
        "X-Request-Id": "req-theirs", "X-Muxx-Request-Id": "req_theirs", "X-Muxx-Cost": "9", "Proxy-Authenticate": "Basic",
        "Alt-Svc": 'h3=":443"',
        "X-RateLimit-Limit": "5", "OpenAI-Organization": "org", "Access-Control-Allow-Origin": "*", "Location": "http://evil",
        "Trailer": "X-T",
        "Connection": "x-muxx-request-id",
    }  # fmt: skip
    ours = {
        "date", "content-length", "transfer-encoding", "content-type", "x-muxx-request-id", "x-request-id", "x-muxx-cache",
        "x-muxx-cost", "server-timing",
        "cache-control", "x-accel-buffering", "openai-processing-ms",
    }  # fmt: skip

    def answer(request: RecordedRequest) -> Script:
        first, *rest = chat()(request)
        assert isinstance(first, bytes)
        lines = "".join(f"{name}: {value}\r\n" for name, value in evil.items()).encode()
        status_line, _, others = first.partition(b"\r\n")
        return [status_line + b"\r\n" + lines + others, *rest]

    gateway.upstream.script(answer)
    response = await gateway.chat(stream=stream)
    check_head(response)
    assert response.status == 200
    names = [name.lower() for name, _ in response.headers]
    assert set(names) <= ours
    assert len(names) == len(set(names))
    assert response.header("openai-processing-ms") == "7"
    assert response.header("x-muxx-cost") != "9"


@one_loop
async def test_H06_a_header_of_the_upstream_cannot_break_the_response(gateway: RunningGateway) -> None:
    """DESIGN §6: one CR or LF in a response header costs the whole connection."""
    gateway.upstream.script(json({"choices": []}, headers={"OpenAI-Processing-Ms": "7\x0b\x1f"}), chat())
    async with await gateway.connect() as client:
        for _ in range(2):
            await client.send(plain().replace(b"<KEY>", gateway.key.encode()))
            check_head(await client.read_response())


# ── every response ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
async def test_every_response_has_an_id_of_its_own_and_names_no_server(gateway: RunningGateway) -> None:
    ids = set()
    for data in (
        plain(),
        plain(body=chat_bytes(stream=True)),
        plain(body=b"{"),
        plain("X-Muxx-Request-Id: req_mine", "X-Request-Id: mine"),
        plain().replace(b"<KEY>", b"wrong"),
        request(line="GET /v1/models HTTP/1.1", body=b""),
        request(line="GET /v1/logs HTTP/1.1", body=b""),
        request(line="GET /healthz HTTP/1.1", body=b""),
        request(line="GET /readyz HTTP/1.1", body=b""),
        request(line="GET /nothing HTTP/1.1", body=b""),
        request(line="PUT /v1/models HTTP/1.1", body=b""),
        b"garbage\r\n\r\n",
    ):
        [response] = (await say(gateway, data, most=1)).responses
        check_head(response)
        assert response.header("date") is not None
        ids.add(response.request_id)
    assert len(ids) == 12


@one_loop
async def test_ids_sort_by_time(gateway: RunningGateway) -> None:
    ids = [(await gateway.get("/healthz")).request_id for _ in range(20)]
    assert ids == sorted(ids, key=str)


@pytest.mark.parametrize("path", ["/v1/logs", "/v1/cache"])
async def test_a_query_of_more_than_a_hundred_parameters_is_refused(path: str) -> None:
    async with RunningGateway() as gateway:
        response = await gateway.get(f"{path}?{'&'.join(['x=1'] * 101)}")
        assert (response.status, response.error["message"]) == (400, "There are too many query parameters.")

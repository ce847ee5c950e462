"""FAULTS H01, H02, H07 over raw sockets: what is not plain HTTP/1.1 is refused whole, and what follows it never runs."""

from __future__ import annotations

from typing import Any

import pytest
from http_kit import (
    BODY,
    CANARY,
    CHUNKED,
    HIDDEN,
    IN_CHUNKS,
    LENGTH,
    PATH,
    SHORT_LIMITS,
    SIZE,
    chat_bytes,
    check_head,
    check_refusal,
    one_loop,
    plain,
    refused,
    request,
    say,
)

from muxx.testing import (
    RunningGateway,
    eventually,
)

GATEWAY_CONFIG = SHORT_LIMITS

# ── H01: malformed messages ─────────────────────────────────────────────────────────────────────────────────────────────────


def lengths() -> dict[str, bytes]:
    n = len(BODY)
    values = [
        f"+{n}",
        f"-{n}",
        hex(n),
        f"{n}_0",
        f"{n} 0",
        "",
        f"{n},{n}",
        f"{n}, {n}",
        f"{n}e0",
        f"{n}.0",
        f"{n};",
        "\xb2",
        f"\x0b{n}",
        f"{n}\x00",
        "x",
    ]
    return {f"Content-Length {value!r}": request(f"Content-Length: {value}") for value in values}


def codings() -> dict[str, bytes]:
    values = [
        "chunked, chunked",
        "xchunked",
        "chunked;q=1",
        "identity",
        "chunked, gzip",
        "\x0bchunked",
        '"chunked"',
        "chunked\x00",
        "cow",
        "chunked,",
        "",
    ]
    return {f"Transfer-Encoding {value!r}": request(f"Transfer-Encoding: {value}", body=IN_CHUNKS) for value in values}


def headers() -> dict[str, bytes]:
    lines = [
        "Transfer-Encoding : chunked", "X: a\r\n b", "X: a\r\n\tb", " X: a", "\tX: a", "X:\r\n a", "X: a\rb", "X: a\nb",
        "X: a\r", "X: a\x00b",
        "X\x00: a", "X Y: a", ": a", "X(: a", "X@: a", "X[]: a", "X\xff: a", "X", "X: \x7f", "X: \x01", "Content-Length\x0b: 5",
        "Host: y", "Host: x",
    ]  # fmt: skip
    return {f"header {line!r}": plain(line) for line in lines}


def chunkings() -> dict[str, bytes]:
    bodies = {
        "size 0x": b"0x%b\r\n%b\r\n0\r\n\r\n",
        "size +": b"+%b\r\n%b\r\n0\r\n\r\n",
        "size -": b"-%b\r\n%b\r\n0\r\n\r\n",
        "size _": b"0_%b\r\n%b\r\n0\r\n\r\n",
        "space before the size": b" %b\r\n%b\r\n0\r\n\r\n",
        "space after the size": b"%b \r\n%b\r\n0\r\n\r\n",
        "tab after the size": b"%b\t\r\n%b\r\n0\r\n\r\n",
        "size that is no hex": b"%bg\r\n%b\r\n0\r\n\r\n",
        "LF in an extension": b"%b;a\nb\r\n%b\r\n0\r\n\r\n",
        "CR in an extension": b"%b;a\rb\r\n%b\r\n0\r\n\r\n",
        "NUL in an extension": b"%b;a\x00b\r\n%b\r\n0\r\n\r\n",
        "open quotes in an extension": b'%b;a="b\r\n%b\r\n0\r\n\r\n',
        "bare LF": b"%b\n%b\n0\n\n",
        "no line end after the data": b"%b\r\n%b0\r\n\r\n",
        "more data than said": b"%b\r\n%bXX0\r\n\r\n",
        "bare LF after the last size": b"%b\r\n%b\r\n0\n\r\n",
        "a length in the trailer": b"%b\r\n%b\r\n0\r\nContent-Length: 5\r\n\r\n",
        "a coding in the trailer": b"%b\r\n%b\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "a trailer that is none": b"%b\r\n%b\r\n0\r\nbad trailer\r\n\r\n",
        "bare LF in the trailer": b"%b\r\n%b\r\n0\r\nX: a\n\r\n",
    }
    cases = {name: body % (SIZE, BODY) for name, body in bodies.items()}
    cases |= {"size beyond 64 bits": b"FFFFFFFFFFFFFFFFF\r\n" + BODY, "no size": b"\r\n" + BODY}
    return {f"chunk with {name}": request(CHUNKED, body=body) for name, body in cases.items()}


def first_lines() -> dict[str, bytes]:
    lines = [
        f"POST {PATH} HTTP/1.1 x", f"post {PATH} HTTP/1.1", f"POST\t{PATH} HTTP/1.1",
        f"P(ST {PATH} HTTP/1.1", f"POST {PATH} HTTP/1.10",
        f"POST {PATH} HTTP/01.1", f"POST {PATH} http/1.1", f"POST {PATH} HTTP/1.2", f"POST {PATH} HTTP/3", f"POST {PATH} HTTP/11",
        "POST /v1/chat/compl etions HTTP/1.1", f"POST {PATH}\x00 HTTP/1.1", f"POST {PATH}\xff HTTP/1.1",
        f"POST {PATH}\x7f HTTP/1.1",
        f" POST {PATH} HTTP/1.1", f"BREW {PATH} HTTP/1.1", "PRI * HTTP/2.0", "POST v1/chat/completions HTTP/1.1",
        "POST * HTTP/1.1",
    ]  # fmt: skip
    return {f"line {line!r}": plain(line=line) for line in lines}


MALFORMED: dict[str, bytes] = {
    "a length and a coding": request(LENGTH, CHUNKED, body=IN_CHUNKS),
    "a coding and a length of 0": request(CHUNKED, "Content-Length: 0", body=IN_CHUNKS),
    "the same length twice": request(LENGTH, LENGTH),
    "two lengths": request("Content-Length: 5", LENGTH),
    "two codings": request(CHUNKED, CHUNKED, body=IN_CHUNKS),
    "two codings that differ": request("Transfer-Encoding: cow", CHUNKED, body=IN_CHUNKS),
    "a coding on HTTP/1.0": request(CHUNKED, line=f"POST {PATH} HTTP/1.0", body=IN_CHUNKS),
    "bare LF": request(LENGTH, newline="\n"),
    "bare CR": request(LENGTH, newline="\r"),
    "no Host": request(LENGTH, host=None),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "no HTTP at all": b"hello\r\n\r\n",
    **lengths(),
    **codings(),
    **headers(),
    **chunkings(),
    **first_lines(),
}


@one_loop
@pytest.mark.parametrize("case", MALFORMED)
async def test_H01_a_malformed_message_is_refused_and_what_follows_it_never_runs(case: str, gateway: RunningGateway) -> None:
    data = MALFORMED[case].replace(b"\r\nHost:", b"\r\nX-Muxx-User-Id: h01\r\nHost:", 1)
    response = await refused(gateway, data + HIDDEN)
    check_refusal(response, 400, "malformed_http")


@one_loop
@pytest.mark.parametrize("case", MALFORMED)
async def test_H01_it_is_refused_all_the_same_when_it_comes_in_pieces(case: str, gateway: RunningGateway) -> None:
    data = MALFORMED[case]
    told = await say(gateway, *(data[start : start + 23] for start in range(0, len(data), 23)), HIDDEN)
    assert told.closed
    assert len(told.responses) <= 1, "more was answered than was asked"
    for response in told.responses:
        check_refusal(response, 400, "malformed_http")
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize("pieces", [10_000, 7])
@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    ("header", "query", "status"),
    [(CHUNKED, "", 400), (f"X-Note: {'n' * 9000}", "", 431), ("X-Note: n", f"?{'n' * 9000}", 414)],
    ids=["malformed", "header", "target"],
)
async def test_H01_what_is_no_request_is_refused_in_the_format_of_the_endpoint_it_was_meant_for(
    header: str, query: str, status: int, before: bool, pieces: int, gateway: RunningGateway
) -> None:
    google = "/v1beta/models/gemini-1.5-flash:generateContent"
    for path in (PATH, "/v1/messages", google):
        data = plain(header, line=f"POST {path}{query} HTTP/1.1")
        sent = [data[start : start + pieces] for start in range(0, min(len(data), 8 * pieces), pieces)] + [data[8 * pieces :]]
        async with await gateway.connect() as client:
            if before:
                await client.request("GET", "/healthz")
                assert (await client.read_response()).status == 200
            for piece in sent:
                await client.send(piece)
            response = await client.read_response()
        members = {PATH: {"message", "type", "param", "code"}, "/v1/messages": {"type", "message"}}
        assert (response.status, set(response.error)) == (status, members.get(path, {"code", "message", "status"}))
        assert (response.header("request-id") is not None) == (path == "/v1/messages")


@one_loop
async def test_H01_a_request_that_never_was_one_has_no_row(gateway: RunningGateway) -> None:
    """After the tests above: none of theirs is there."""
    assert (await gateway.get("/v1/logs?user_id=h01")).json()["data"] == []


@one_loop
@pytest.mark.parametrize("broken", [b"XX", b"0x5\r\n", b"5\nhello", b"\r\n"])
async def test_H01_a_body_that_breaks_after_its_head_was_read_is_refused(broken: bytes, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(request(CHUNKED, body=b'5\r\n{"a":\r\n').replace(b"<KEY>", gateway.key.encode()))
        await eventually(lambda: len(gateway.gateway.calls) == 1)
        await client.send(broken + HIDDEN.replace(b"<KEY>", gateway.key.encode()))
        response = await client.read_response()
        check_refusal(response, 400, "malformed_http")
        assert await client.closed()
    assert gateway.upstream.requests == []


GOOD: dict[str, bytes] = {
    "a length": plain(),
    "a length with a zero before it": request(f"Content-Length: 0{len(BODY)}"),
    "one chunk": request(CHUNKED, body=IN_CHUNKS),
    "the coding in capitals": request("Transfer-Encoding: CHUNKED", body=IN_CHUNKS),
    "an extension": request(CHUNKED, body=SIZE + b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a trailer": request(CHUNKED, body=SIZE + b"\r\n" + BODY + b"\r\n0\r\nX-Muxx-Api-Key: none\r\n\r\n"),
    "a byte a chunk": request(CHUNKED, body=b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "empty lines before": b"\r\n\r\n" + plain(),
    "letters that are not ASCII in a value": plain("X-Note: \xff\xfe"),
}


@one_loop
@pytest.mark.parametrize("case", GOOD)
async def test_H01_what_is_well_formed_is_answered(case: str, gateway: RunningGateway) -> None:
    told = await say(gateway, GOOD[case], most=1)
    assert [response.status for response in told.responses] == [200]
    assert [request.json() for request in gateway.upstream.requests] == [chat_json()]


@one_loop
@pytest.mark.parametrize(
    "field", ["X-Muxx-Api-Key: muxx_sk_live_other", "X-Muxx-User-Id: h01-trailer", "Authorization: Bearer sk-mine"]
)
@pytest.mark.parametrize("apart", [False, True])
async def test_H01_a_trailer_says_nothing_of_the_next_request(field: str, apart: bool, gateway: RunningGateway) -> None:
    """aiohttp's parser puts a trailer's last field among the headers of the request after it, whoever sends that."""
    first = request(CHUNKED, body=SIZE + b"\r\n" + BODY + b"\r\n0\r\n" + field.encode() + b"\r\n\r\n")
    told = await say(gateway, *([first, HIDDEN] if apart else [first + HIDDEN]))
    assert [response.status for response in told.responses] == [200]
    assert told.closed
    assert [request.target for request in gateway.upstream.requests] == [PATH]
    assert (await gateway.get("/v1/logs?user_id=h01-trailer")).json()["data"] == []


def chat_json() -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": CANARY}]}


# ── H02: framing the parser lets in ─────────────────────────────────────────────────────────────────────────────────────────

FRAMING: dict[str, tuple[bytes, int, str]] = {
    **{
        f"version {version!r}": (plain(line=f"POST {PATH}{version}"), 505, "http_version_not_supported")
        for version in ("", " HTTP/0.9", " HTTP/2.0")
    },
    **{
        f"a body on {method}": (plain(line=f"{method} /v1/models HTTP/1.1"), 400, "malformed_http")
        for method in ("GET", "DELETE")
    },
    "chunks on GET": (request(CHUNKED, line="GET /v1/models HTTP/1.1", body=IN_CHUNKS), 400, "malformed_http"),
    "chunked after gzip": (request("Transfer-Encoding: gzip, chunked", body=IN_CHUNKS), 501, "not_implemented"),
    "chunked after a comma": (request("Transfer-Encoding: ,chunked", body=IN_CHUNKS), 501, "not_implemented"),
    "chunks on HTTP/1.0": (request(CHUNKED, line=f"POST {PATH} HTTP/1.0", body=IN_CHUNKS), 400, "malformed_http"),
}


@one_loop
@pytest.mark.parametrize("case", FRAMING)
async def test_H02_odd_framing_is_refused_and_the_connection_closed(case: str, gateway: RunningGateway) -> None:
    data, status, code = FRAMING[case]
    response = await refused(gateway, data)
    check_refusal(response, status, code)
    assert response.error["type"] == ("invalid_request_error" if status == 400 else "api_error")
    told = await say(gateway, data + HIDDEN)
    assert len(told.responses) == 1
    assert told.closed
    assert told.responses[0].status in (status, 400)
    assert gateway.upstream.requests == []


@one_loop
async def test_H02_a_head_request_with_a_body_is_refused_without_one(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(plain(line="HEAD /v1/models HTTP/1.1").replace(b"<KEY>", gateway.key.encode()))
        response = await client.read_head()
        assert response.status == 400
        check_head(response)
        assert await client.closed()


@one_loop
async def test_H02_http_1_0_is_served_and_closed_unless_it_asks_otherwise(gateway: RunningGateway) -> None:
    line = f"POST {PATH} HTTP/1.0"
    told = await say(gateway, plain(line=line))
    assert [response.status for response in told.responses] == [200]
    assert told.closed
    told = await say(gateway, plain("Connection: keep-alive", line=line) + plain("Connection: close"))
    assert [response.status for response in told.responses] == [200, 200]
    streamed = await say(gateway, plain(line=line, body=chat_bytes(stream=True)))
    [response] = streamed.responses
    assert response.header("transfer-encoding") is None
    assert response.done
    assert streamed.closed


# ── H07: sizes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

TOO_LARGE: dict[str, tuple[bytes, int, str]] = {
    "129 headers": (plain(*(f"X-{number}: a" for number in range(126))), 431, "headers_too_large"),
    "1000 headers": (plain(*(f"X-{number}: a" for number in range(1000))), 431, "headers_too_large"),
    "a field of 8191 bytes": (plain("X: " + "a" * 8191), 431, "headers_too_large"),
    "a field of 100 KB": (plain("X: " + "a" * 100_000), 431, "headers_too_large"),
    "a field that begins like a target": (plain("Referer: /" + "a" * 8191), 431, "headers_too_large"),
    "a field that is an address": (plain("Referer: https://x/" + "a" * 8191), 431, "headers_too_large"),
    "a field that begins like a request": (plain("X: GET /" + "a" * 8191), 431, "headers_too_large"),
    "a name of 8191 bytes": (plain("a" * 8191 + ": a"), 431, "headers_too_large"),
    "a target of 8191 bytes": (plain(line=f"POST /{'a' * 8190} HTTP/1.1"), 414, "uri_too_long"),
    "a target of 100 KB": (plain(line=f"POST {PATH}?{'a' * 100_000} HTTP/1.1"), 414, "uri_too_long"),
    "a target of another kind": (plain(line=f"POST *{'a' * 8191} HTTP/1.1"), 414, "uri_too_long"),
    "a target that names its host": (plain(line=f"POST http://x/{'a' * 8191} HTTP/1.1"), 414, "uri_too_long"),
}


@one_loop
@pytest.mark.parametrize("case", TOO_LARGE)
async def test_H07_what_is_too_large_is_refused_by_its_name(case: str, gateway: RunningGateway) -> None:
    data, status, code = TOO_LARGE[case]
    check_refusal(await refused(gateway, data + HIDDEN), status, code)


@one_loop
async def test_H07_what_just_fits_is_served(gateway: RunningGateway) -> None:
    for data in (
        plain(*(f"X-{number}: a" for number in range(125))),
        plain("X: " + "a" * 8190),
        plain(line=f"POST {PATH}?{'a' * (8190 - len(PATH) - 1)} HTTP/1.1"),
    ):
        [response] = (await say(gateway, data, most=1)).responses
        assert response.status == 200


@one_loop
@pytest.mark.parametrize(
    "data", [b"\r\n" * 1000 + plain(), request(CHUNKED, body=SIZE + b";" + b"a" * 20_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n")]
)
async def test_H07_empty_lines_and_long_extensions_are_answered_or_closed(data: bytes, gateway: RunningGateway) -> None:
    told = await say(gateway, data, most=1)
    assert told.closed or told.responses[0].status in (200, 400)

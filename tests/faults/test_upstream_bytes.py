"""FAULTS U07 to U11: a provider's bytes are taken for an answer only when they are one, and only for the request they answer."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from carrying_kit import (
    ANSWER,
    ASKED,
    REFUSAL,
    STREAM,
    both_transports,
    delta,
    error_code,
    finish,
    serving,
)
from thoroughness import examples

from muxx.config import ProviderConfig
from muxx.testing import (
    DONE,
    Connection,
    RecordedRequest,
    RunningGateway,
    Script,
    ScriptedUpstream,
    chat_body,
    fin,
    head,
    hold,
    json,
    pause,
    sse,
)

# ── U07: malformed answers ──────────────────────────────────────────────────────────────────────────────────────────────────

BODY = b'{"choices":[],"id":"canary"}'
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"


def status_line(line: bytes) -> bytes:
    return line + b"\r\n" + LENGTH + b"\r\n" + BODY


def fields(*lines: bytes) -> bytes:
    return OK + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + BODY


MALFORMED = {
    "garbage": b"banana\r\n\r\n",
    "binary": bytes(range(256)),
    "a page": b"<html><body>hi</body></html>",
    "no head": BODY,
    "another version": status_line(b"HTTP/9.9 200 OK"),
    "no status": status_line(b"HTTP/1.1"),
    "letters for a status": status_line(b"HTTP/1.1 abc OK"),
    "a status of four digits": status_line(b"HTTP/1.1 2000 OK"),
    "a status of two digits": status_line(b"HTTP/1.1 99 OK"),
    "an endless status line": status_line(b"HTTP/1.1 200 " + b"a" * 20000),
    "an endless header": fields(b"X: " + b"a" * 20000, LENGTH.strip()),
    "very many headers": fields(*(b"X-%d: a" % number for number in range(200)), LENGTH.strip()),
    "a length and chunks": OK + LENGTH + CHUNKS + b"1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "two lengths": fields(b"Content-Length: 14", LENGTH.strip()),
    "the same length twice": fields(LENGTH.strip(), LENGTH.strip()),
    "a negative length": fields(b"Content-Length: -1"),
    "a length with a sign": fields(b"Content-Length: +28"),
    "a hexadecimal length": fields(b"Content-Length: 0x1c"),
    "a length beyond 64 bits": fields(b"Content-Length: 99999999999999999999999"),
    "NUL in a value": fields(b"X: a\0b", LENGTH.strip()),
    "NUL in a name": fields(b"X\0: b", LENGTH.strip()),
    "CR in a value": fields(b"X: a\rb: c", LENGTH.strip()),
    "no colon": fields(b"nonsense", LENGTH.strip()),
    "no name": fields(b": a", LENGTH.strip()),
    "a 204 with a body": b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\n" + BODY,
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + BODY,
    "a chunk size with 0x": OK + CHUNKS + b"0x1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": OK + CHUNKS + b"f" * 20 + b"\r\n" + BODY,
    "a chunk that does not end": OK + CHUNKS + b"1c\r\n" + BODY + b"XX0\r\n\r\n",
}


@both_transports
async def test_U07_a_malformed_answer_is_a_502_and_its_connection_is_dropped(transport: str) -> None:
    async with serving(transport) as gateway:
        for number, (name, raw) in enumerate(MALFORMED.items(), 1):
            gateway.upstream.script([raw])
            response = await gateway.chat(stream=bool(number % 2))
            assert (response.status, error_code(response)) == (502, "upstream_protocol_error"), name
            assert b"canary" not in response.body, name
            assert len(gateway.upstream.requests) == number, "answered, so not replayed"
            await gateway.upstream.last.peer_left()
            row = await gateway.get_row(response.request_id)
            assert (row["ended_by"], row["cost_usd"]) == ("upstream", "0"), name


STRICTLY_REFUSED = ("bare LF", "a space before the colon", "a folded header")
"""What aiohttp's client bears and the lean transport's parser does not."""

LENIENT = {
    "bare LF": (OK + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "no reason": status_line(b"HTTP/1.1 200"),
    "HTTP/1.0": status_line(b"HTTP/1.0 200 OK"),
    "a space before the colon": fields(LENGTH.strip().replace(b":", b" :")),
    "a folded header": fields(b"X: a", b" b", LENGTH.strip()),
    "empty lines first": b"\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "eight bits in a value": fields(b"X: \xff\xfe", LENGTH.strip()),
    "an early hint": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "a chunk extension": OK + CHUNKS + b"1c;a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a trailer": OK + CHUNKS + b"1c\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n",
}


@both_transports
async def test_U07_what_the_response_parser_forgives_is_pinned(transport: str) -> None:
    async with serving(transport) as gateway:
        for name, raw in LENIENT.items():
            gateway.upstream.script([raw, fin()])
            response = await gateway.chat()
            if transport == "lean" and name in STRICTLY_REFUSED:
                assert (response.status, error_code(response)) == (502, "upstream_protocol_error"), name
            else:
                assert (response.status, response.body) == (200, BODY), name


@pytest.mark.parametrize(("transport", "status"), [("lean", 502), ("aiohttp", 200)])
async def test_U07_endless_interim_answers_are_no_answer_to_the_lean_transport(transport: str, status: int) -> None:
    """aiohttp's client bears any number of them, within the time for the first byte."""
    async with serving(transport) as gateway:
        gateway.upstream.script([b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK + LENGTH + b"\r\n" + BODY])
        assert (await gateway.chat()).status == status


@both_transports
async def test_U07_a_connection_that_ends_in_the_head_is_disconnected(transport: str) -> None:
    async with serving(transport) as gateway:
        for part in (b"H", OK, OK + b"Content-Type: appl", OK + LENGTH):
            gateway.upstream.script([part, pause(0.01), fin()])
            response = await gateway.chat()
            assert (response.status, error_code(response)) == (502, "upstream_disconnected")


@both_transports
async def test_U07_a_status_nobody_knows_is_no_answer(transport: str) -> None:
    async with serving(transport) as gateway:
        for status in (b"000", b"099", b"300", b"304", b"600", b"999"):
            gateway.upstream.script([b"HTTP/1.1 %b Odd\r\nContent-Length: 0\r\n\r\n" % status])
            assert (await gateway.chat()).status == 502


# ── U08, U09, U10: what must not be followed, unpacked, passed on ───────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_U08_a_redirect_is_not_followed(transport: str, status: int) -> None:
    async with ScriptedUpstream() as elsewhere, serving(transport) as gateway:
        for location in (elsewhere.url + "/v1/chat/completions", "/v1/elsewhere", "https://127.0.0.1/", "//evil"):
            gateway.upstream.script([head(status, {"Location": location, "Content-Length": "0"})])
            response = await gateway.chat()
            assert (response.status, error_code(response)) == (502, "upstream_error")
            assert response.header("location") is None
        assert len(gateway.upstream.requests) == 4
        assert elsewhere.connections == []


@both_transports
async def test_U09_identity_is_asked_for_and_nothing_else_is_taken(transport: str) -> None:
    async with serving(transport) as gateway:
        for coding in ("gzip", "br", "deflate", "gzip, gzip", "unknown"):
            for options, script in (
                ({}, json(b"\x1f\x8b\x08" + bytes(100), headers={"Content-Encoding": coding})),
                ({"stream": True}, sse(b"\x1f\x8b\x08", headers={"Content-Encoding": coding})),
            ):
                gateway.upstream.script(script)
                response = await gateway.chat(**options)
                assert (response.status, error_code(response)) == (502, "upstream_protocol_error")
                assert gateway.upstream.last.header("accept-encoding") == "identity"
        gateway.upstream.script(json(ANSWER, headers={"Content-Encoding": "identity"}))
        assert (await gateway.chat()).json() == ANSWER


@both_transports
@pytest.mark.parametrize("status", [200, 500])
async def test_U09_a_plain_answer_over_the_limit_is_not_kept(transport: str, status: int) -> None:
    async with serving(transport, {"server": {"max_response_bytes": 50_000}}) as gateway:
        whole = b'{"choices": []}'
        for size in (50_001, 5_000_000):
            gateway.upstream.script(json(whole + b" " * (size - len(whole)), status))
            response = await gateway.chat()
            assert (response.status, error_code(response)) == (502, "upstream_protocol_error")
        await gateway.upstream.last.peer_left()
        gateway.upstream.script(json(whole + b" " * (50_000 - len(whole))))
        response = await gateway.chat()
        assert (response.status, len(response.body)) == (200, 50_000)


HOSTILE = [
    ("Set-Cookie", "session=stolen"),
    ("Strict-Transport-Security", "max-age=99"),
    ("OpenAI-Organization", "org-secret"),
    ("X-Request-Id", "req_theirs"),
    ("X-Muxx-Request-Id", "req_theirs"),
    ("X-Muxx-Cost", "0"),
    ("X-Should-Retry", "true"),
    ("Connection", "openai-processing-ms"),
    ("Keep-Alive", "timeout=5"),
    ("Trailer", "X-Evil"),
    ("Access-Control-Allow-Origin", "*"),
    ("OpenAI-Processing-Ms", "12\x80\xff"),
    ("Server", "evil/1.0"),
]
OURS = {"date", "content-type", "x-muxx-request-id", "x-request-id", "x-muxx-cache", "server-timing"}


@both_transports
async def test_U10_of_the_providers_headers_only_the_listed_reach_the_client(transport: str) -> None:
    async with serving(transport) as gateway:
        for script, options, more in (
            (json(ANSWER, headers=dict(HOSTILE)), {}, {"content-length", "x-muxx-cost"}),
            (sse(STREAM, headers=dict(HOSTILE)), ASKED, {"cache-control", "x-accel-buffering", "transfer-encoding"}),
            (json(REFUSAL, 400, dict(HOSTILE)), {}, {"content-length", "x-should-retry"}),
        ):
            gateway.upstream.script(script)
            response = await gateway.chat(**options)
            assert {name.lower() for name, _ in response.headers} - {"openai-processing-ms"} == OURS | more
            assert response.request_id is not None
            assert response.request_id != "req_theirs"
            assert all(value.isprintable() for _, value in response.headers)
            assert response.header("x-should-retry") in (None, "false")


async def test_U10_a_row_may_let_more_headers_down_but_no_credentials() -> None:
    config = {"providers": {"openai": {"response_headers": ["OpenAI-Version"]}}}
    async with serving(config=config) as gateway:
        gateway.upstream.script(json(ANSWER, headers={"openai-version": "2020", "X-Muxx-Cost": "9", "Cookie": "a"}))
        response = await gateway.chat()
        assert response.header("openai-version") == "2020"
        assert response.header("x-muxx-cost") == "0.000075"
        assert response.header("cookie") is None


async def test_U10_no_header_comes_twice_that_a_provider_and_a_plugin_both_have() -> None:
    config = {
        "providers": {"openai": {"response_headers": ["X-RateLimit-Limit", "X-RateLimit-Reset"]}},
        "project": {"limits": {"rpm": 50}},
    }
    theirs = {"X-RateLimit-Limit": "9", "X-RateLimit-Reset": "9"}
    async with serving(config=config) as gateway:
        gateway.upstream.script(json(ANSWER, headers=theirs), sse(STREAM, headers=theirs), json(REFUSAL, 400, theirs))
        for options in ({}, ASKED, {}):
            response = await gateway.chat(**options)
            names = [name.lower() for name, _ in response.headers]
            assert len(names) == len(set(names))
            assert response.header("x-ratelimit-limit") == "50"


def test_U10_a_header_that_muxx_writes_itself_is_none_to_let_down() -> None:
    for name in ("X-Request-Id", "request-id", "retry-after", "content-type"):
        with pytest.raises(ValueError, match="is a header that muxx writes itself"):
            ProviderConfig(response_headers=(name,))


# ── U11: connections are not mixed up ───────────────────────────────────────────────────────────────────────────────────────


def tagged(request: RecordedRequest) -> Script:
    """An answer that says its request's content again and again, with pauses of random length."""
    asked = request.json()
    tag = asked["messages"][0]["content"]
    dice = random.Random(tag)
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"content": tag * 5}, "finish_reason": "stop"}
        return [pause(dice.random() / 500), *json({"id": tag, "choices": [choice]})]
    pieces = [delta(tag, id=tag), delta(tag, id=tag), finish(id=tag), DONE]
    return [pause(dice.random() / 500), *sse(chunks=pieces, gap=dice.random() / 1000)]


async def one_of_many(gateway: RunningGateway, number: int, most: float) -> bytes:
    """A request with a tag of its own, left at a random moment; all that came of the answer."""
    dice = random.Random(number)
    got = b""
    async with await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body(f"<{number}>", stream=dice.random() < 0.7))
        try:
            async with asyncio.timeout(dice.random() * most):
                while piece := await client.read_some():
                    got += piece
        except (TimeoutError, ConnectionError):
            dice.choice([client.close, client.reset, client.half_close])()
    return got


AT_ONCE = 16
EACH_ONE = 2
"""Times as long as one answer takes alone, and as many more as there are at once: most clients wait for theirs."""


async def tags_stay_apart(transport: str, total: int, most: float = 0.15) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(tagged)
        started = time.monotonic()
        await gateway.chat("<0>", stream=True)
        most = max(most, EACH_ONE * AT_ONCE * (time.monotonic() - started))  # on a machine that has other things to do as well
        queue = iter(range(total))
        answered = 0

        async def worker() -> None:
            nonlocal answered
            for number in queue:
                got = await one_of_many(gateway, number, most)
                body = got.partition(b"\r\n\r\n")[2]
                answered += b"<" in body
                assert body.replace(b"<%d>" % number, b"").count(b"<") == 0

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        assert answered > total / 10, "too few answers for the test to mean anything"
        reused = sum(len(connection.requests) > 1 for connection in gateway.upstream.connections)
        assert reused > 0


@both_transports
async def test_U11_no_answer_ever_carries_another_requests_tag(transport: str) -> None:
    await tags_stay_apart(transport, examples(1000))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@both_transports
async def test_U11_no_answer_of_very_many_ever_carries_another_requests_tag(transport: str) -> None:
    await tags_stay_apart(transport, 20_000)


@both_transports
async def test_U11_bytes_nobody_asked_for_are_no_answer(transport: str) -> None:
    extra = b"".join(step for step in json(ANSWER | {"id": "stray"}) if isinstance(step, bytes))
    async with serving(transport) as gateway:
        for script in ([*json(ANSWER), extra], [*json(ANSWER), pause(0.02), extra]):
            for _ in range(3):
                gateway.upstream.script(script)
                await gateway.chat()
                await asyncio.sleep(0.05)
                gateway.upstream.script(json(ANSWER | {"id": "mine"}))
                response = await gateway.chat()
                assert response.status != 200 or response.json()["id"] == "mine"


class ReadsNothing:
    """A provider that takes no more of the request than the kernels do."""

    async def play(self, connection: Connection) -> None:
        connection.transport.pause_reading()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@both_transports
async def test_U11_a_connection_that_has_not_taken_its_request_is_given_no_other(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.greeting = [ReadsNothing(), pause(0.05), *json(REFUSAL, 413), hold()]
        assert (await gateway.chat("a" * 9_000_000)).status == 413
        gateway.upstream.greeting = ()
        assert (await gateway.chat()).status == 200
        assert [len(connection.requests) for connection in gateway.upstream.connections] == [0, 1]

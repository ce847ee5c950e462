"""FAULTS U01 to U04: a provider that cannot be reached or refuses: the client gets a plain word, and no request goes twice."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest
from carrying_kit import (
    ANSWER,
    ASKED,
    ERROR_MEMBERS,
    REFUSAL,
    STREAM,
    both_transports,
    delta,
    error_code,
    hang,
    never_accepting,
    part_of,
    serving,
    without_comment,
)
from orjson import dumps, loads

from muxx.testing import (
    PROVIDER_KEY,
    RecordedRequest,
    Script,
    ScriptedUpstream,
    Step,
    error,
    fin,
    head,
    json,
    pause,
    rst,
    sse,
    unused_port,
)

STREAM_HEAD = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})


def provider(base_url: str) -> dict[str, Any]:
    return {"providers": {"openai": {"base_url": base_url}}}


def two_targets(second: str, **first: Any) -> dict[str, Any]:
    """The model at its own provider, then at another."""
    return {
        "providers": {"second": {"base_url": second, "api_key": "sk-second", "prices": "openai"}},
        "models": [{"name": "gpt-4o", "targets": [{"target": "openai/gpt-4o"} | first, "second/gpt-4o"]}],
    }


# ── U01: no connection ──────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "http://nobody.invalid/v1", "https://127.0.0.1:{plain}/v1"])
async def test_U01_no_connection_is_a_502_and_costs_nothing(transport: str, url: str) -> None:
    async with ScriptedUpstream() as plain:
        base = url.format(port=unused_port(), plain=plain.port)
        plain.greeting = [b"this is no TLS\r\n", fin()]
        async with serving(transport, provider(base)) as gateway:
            for options in ({}, {"stream": True}):
                response = await gateway.chat(**options)
                assert (response.status, error_code(response)) == (502, "upstream_unreachable")
                assert response.header("x-should-retry") == "true"
                assert "127.0.0.1" not in response.text
                assert "nobody" not in response.text
                row = await gateway.get_row(response.request_id)
                expected = {"status": 502, "ended_by": "upstream", "phase": "connect", "usage_source": "none", "cost_usd": "0"}
                assert part_of(row, expected) == expected
                assert row["attempts"] == 2, "nothing was sent, so one replay is free"


@both_transports
async def test_U01_a_connection_that_takes_too_long_is_given_up(transport: str) -> None:
    with never_accepting() as port:
        config = provider(f"http://127.0.0.1:{port}/v1") | {"server": {"connect_timeout_s": 0.2}}
        async with serving(transport, config) as gateway:
            response = await gateway.chat()
            assert (response.status, error_code(response)) == (502, "upstream_unreachable")
            row = await gateway.get_row(response.request_id)
            assert (row["phase"], row["cost_usd"]) == ("connect", "0")
            assert row["duration_ms"] < 4000


# ── U02: a pooled connection that the provider has closed ───────────────────────────────────────────────────────────────────


class ClosingUpstream:
    """Answers every request but those sent on a connection that has served `after` before: those see it closed without a byte."""

    def __init__(self, after: int, end: Step) -> None:
        self.after, self.end = after, end

    def __call__(self, request: RecordedRequest) -> Script:
        return [self.end] if len(request.connection.requests) > self.after else json(ANSWER)


@both_transports
@pytest.mark.parametrize("end", [fin(), rst()])
async def test_U02_a_pooled_connection_that_closes_costs_one_replay(transport: str, end: Step) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(ClosingUpstream(2, end))
        replayed = 0
        for _ in range(30):
            before = len(gateway.upstream.requests)
            response = await gateway.chat()
            assert (response.status, response.json()) == (200, ANSWER)
            row = await gateway.get_row(response.request_id)
            assert row["attempts"] == len(gateway.upstream.requests) - before <= 2
            replayed += row["attempts"] - 1
        assert replayed >= 10


@both_transports
async def test_U02_a_connection_closed_while_idle_is_not_used(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script([*json(ANSWER), pause(0.02), fin()])
        for number in range(1, 6):
            response = await gateway.chat()
            assert response.status == 200
            assert (await gateway.get_row(response.request_id))["attempts"] == 1
            await asyncio.sleep(0.05)
            assert len(gateway.upstream.requests) == number


@both_transports
@pytest.mark.parametrize("end", [fin(), rst()])
async def test_U02_a_fresh_connection_that_closes_is_a_502(transport: str, end: Step) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script([end])
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (502, "upstream_disconnected")
        assert response.header("x-should-retry") == "true"
        assert len(gateway.upstream.requests) == 1
        row = await gateway.get_row(response.request_id)
        assert (row["attempts"], row["phase"], row["cost_usd"]) == (1, "head", "0")


# ── U03: no replay ──────────────────────────────────────────────────────────────────────────────────────────────────────────

AFTER_A_BYTE: dict[str, list[Step]] = {
    "a stream's first byte": [STREAM_HEAD, b"1\r\nd\r\n", pause(0.01), rst()],
    "a stream's first event": [STREAM_HEAD, b"%x\r\n%b\r\n" % (len(delta("a")), delta("a")), pause(0.01), rst()],
    "half a plain body": [head(200, {"Content-Type": "application/json", "Content-Length": "50"}), b"{", pause(0.01), rst()],
    "garbage in a stream": sse(b"data: {}}\n\n"),
}


@both_transports
@pytest.mark.parametrize("name", AFTER_A_BYTE)
async def test_U03_after_a_byte_of_a_2xx_nothing_is_tried_again(transport: str, name: str) -> None:
    async with ScriptedUpstream() as second, serving(transport, two_targets(second.base_url)) as gateway:
        gateway.upstream.script(json(ANSWER), AFTER_A_BYTE[name])
        await gateway.chat()
        response = await gateway.chat(stream="stream" in name)
        row = await gateway.get_row(response.request_id)
        assert row["ended_by"] == "upstream"
        assert row["attempts"] == 1
        assert (len(gateway.upstream.requests), len(second.requests)) == (2, 0)


@both_transports
async def test_U03_retries_are_as_many_as_configured(transport: str) -> None:
    config = {"models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o"], "retries": 2}]}
    async with serving(transport, config) as gateway:
        gateway.upstream.script(error(429, retry_after="0"), error(503, retry_after="0"), json(ANSWER))
        response = await gateway.chat()
        assert response.status == 200
        assert (await gateway.get_row(response.request_id))["attempts"] == len(gateway.upstream.requests) == 3
        gateway.upstream.script(error(500, retry_after="0"))
        response = await gateway.chat()
        assert response.status == 500
        assert (await gateway.get_row(response.request_id))["attempts"] == 3
        gateway.upstream.script(error(400))
        assert (await gateway.get_row((await gateway.chat()).request_id))["attempts"] == 1


@both_transports
@pytest.mark.parametrize(
    "script", [error(500), error(503), error(429), error(401), error(404), [fin()], sse(b""), json(b"<html>", 502)]
)
async def test_U03_the_second_target_is_asked_when_the_first_has_no_answer(transport: str, script: Script) -> None:
    async with ScriptedUpstream() as second, serving(transport, two_targets(second.base_url)) as gateway:
        gateway.upstream.script(script)
        second.script(sse(STREAM))
        response = await gateway.chat(**ASKED)
        assert without_comment(response) == STREAM
        assert second.last.header("authorization") == "Bearer sk-second"
        assert PROVIDER_KEY not in str(second.last.headers)
        row = await gateway.get_row(response.request_id)
        expected = {"status": 200, "attempts": 2, "provider": "second", "ended_by": None, "error_code": None}
        assert part_of(row, expected) == expected


async def test_U03_the_second_target_is_asked_when_the_first_refuses_or_hangs() -> None:
    async with ScriptedUpstream() as second:
        config = two_targets(second.base_url, first_byte_timeout_s=0.2)
        async with serving(config=config) as gateway:
            gateway.upstream.script([hang()])
            assert (await gateway.chat()).status == 200
            await gateway.upstream.last.peer_left()
        config["providers"]["openai"] = {"base_url": f"http://127.0.0.1:{unused_port()}/v1"}
        async with serving(config=config) as gateway:
            response = await gateway.chat()
            assert response.status == 200
            assert (await gateway.get_row(response.request_id))["attempts"] == 3


async def test_U03_a_request_the_provider_finds_wrong_goes_nowhere_else() -> None:
    async with ScriptedUpstream() as second, serving(config=two_targets(second.base_url)) as gateway:
        gateway.upstream.script(error(400, "no such thing", "invalid_request_error", "unsupported_value"))
        assert (await gateway.chat()).status == 400
        assert second.requests == []


async def test_U03_when_all_targets_fail_the_last_failure_is_told() -> None:
    async with ScriptedUpstream() as second, serving(config=two_targets(second.base_url)) as gateway:
        gateway.upstream.script(error(500, "first"))
        second.script(error(503, "second"))
        response = await gateway.chat()
        assert (response.status, response.error["message"]) == (503, "second")


# ── U04: refusals and their Retry-After ─────────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_U04_status_and_body_of_a_refusal_are_the_providers(transport: str, status: int) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(json(REFUSAL, status))
        for options in ({}, {"stream": True}):
            response = await gateway.chat(**options)
            assert (response.status, response.body) == (status, REFUSAL)
            assert response.header("x-should-retry") == "true"
            assert response.header("retry-after") is None
            row = await gateway.get_row(response.request_id)
            expected = {"status": status, "ended_by": "upstream", "error_code": "rate_limit_exceeded", "cost_usd": "0"}
            assert part_of(row, expected) == expected


@pytest.mark.parametrize(
    ("fields", "wait", "retry"),
    [
        ({"Retry-After": "7"}, (7, 7), "true"),
        ({"Retry-After": "0.5"}, (1, 1), "true"),
        ({"Retry-After": "60"}, (60, 60), "true"),
        ({"Retry-After": "61"}, (61, 61), "false"),
        ({"Retry-After": "300"}, (300, 300), "false"),
        ({"retry-after-ms": "1500"}, (2, 2), "true"),
        ({"retry-after-ms": "1500", "Retry-After": "300"}, (2, 2), "true"),
        ({"retry-after-ms": "90000"}, (90, 90), "false"),
        ({"Retry-After": "31622401"}, None, "false"),
        ({"Retry-After": "-5"}, None, "true"),
        ({"Retry-After": "soon"}, None, "true"),
        ({"Retry-After": "1e3"}, None, "true"),
        ({"Retry-After": "٣"}, None, "true"),
        ({"retry-after-ms": "-1"}, None, "true"),
        ({"retry-after-ms": "9" * 400}, None, "false"),
        ({"retry-after-ms": "9" * 5000}, None, "false"),
        ({"Retry-After": "9" * 5000}, None, "false"),
    ],
)
async def test_U04_a_wait_is_passed_on_when_it_is_sane(fields: dict[str, str], wait: tuple[int, int] | None, retry: str) -> None:
    encoded = {name: value.encode().decode("latin-1") for name, value in fields.items()}
    async with serving() as gateway:
        gateway.upstream.script(json(REFUSAL, 429, encoded))
        response = await gateway.chat()
        assert (response.status, response.header("x-should-retry")) == (429, retry)
        if wait is None:
            assert response.header("retry-after") is None
            assert response.header("retry-after-ms") is None
        else:
            assert wait[0] <= int(response.header("retry-after") or -1) <= wait[1]
            assert int(response.header("retry-after-ms") or -1) <= wait[1] * 1000


async def test_U04_a_wait_until_a_date_is_a_wait() -> None:
    async with serving() as gateway:
        for seconds, retry in ((20, "true"), (3600, "false")):
            gateway.upstream.script(json(REFUSAL, 503, {"Retry-After": formatdate(time.time() + seconds, usegmt=True)}))
            response = await gateway.chat()
            assert response.header("x-should-retry") == retry
            assert seconds - 10 <= int(response.header("retry-after") or -1) <= seconds


@both_transports
@pytest.mark.parametrize("status", [401, 403])
async def test_U04_a_refusal_of_the_gateways_own_key_is_its_operators_business(transport: str, status: int) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(error(status, f"Incorrect API key provided: {PROVIDER_KEY}", code="invalid_api_key"))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (502, "upstream_auth")
        assert response.header("x-should-retry") == "false"
        assert PROVIDER_KEY not in response.text


async def test_U04_a_known_secret_in_a_refusal_is_masked() -> None:
    async with serving() as gateway:
        gateway.upstream.script(error(400, f"cannot use {PROVIDER_KEY} here"))
        response = await gateway.chat()
        assert response.error["message"] == "cannot use *** here"
        row = await gateway.get_row(response.request_id)
        assert PROVIDER_KEY not in str(row)


@pytest.mark.parametrize("body", [b"", b"\x00oops", b"\xff", b"[]", b"{}", b'{"error": null}', b'{"detail": [{"loc": []}]}'])
async def test_U04_a_refusal_that_says_nothing_gets_a_body(body: bytes) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(body, 422, {"Content-Type": "text/plain"}))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (422, "upstream_error")
        assert set(response.error) == ERROR_MEMBERS
        assert response.error["message"] == "The model provider refused the request."


ODD_REFUSALS = {
    b'{"detail": "no %b"}': ("no ***", "upstream_error"),
    b'{"detail": [{"loc": ["body", "top_k"], "msg": "no %b", "type": "missing"}]}': ("body.top_k: no ***", "upstream_error"),
    b'{"object": "error", "message": "no %b", "type": "BadRequestError", "code": 400}': ("no ***", "BadRequestError"),
    b'{"object": "error", "message": {"detail": [{"loc": ["n"], "msg": "no %b"}]}, "type": "bad"}': ("n: no ***", "bad"),
    b'{"message": "no %b"}': ("no ***", "upstream_error"),
    b'{"type": "error", "code": "", "message": "no %b"}': ("no ***", "upstream_error"),
    b'{"errors": [{"message": "no %b", "code": 7}]}': ("no ***", "upstream_error"),
}
"""Bodies of refusals without an `error`, each with what it says and what the row calls it."""


@pytest.mark.parametrize("body", ODD_REFUSALS)
async def test_U04_a_refusal_without_an_error_member_keeps_its_body(body: bytes) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(body % PROVIDER_KEY.encode(), 422))
        response = await gateway.chat()
        assert (response.status, response.body) == (422, body % b"***")
        row = await gateway.get_row(response.request_id)
        assert (row["error_code"], row["output"]) == (ODD_REFUSALS[body][1], loads(response.body))


@pytest.mark.parametrize("body", ODD_REFUSALS)
async def test_U04_what_a_refusal_without_an_error_member_says_reaches_clients_of_other_formats(body: bytes) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(body % PROVIDER_KEY.encode(), 422))
        response = await gateway.ask("messages", model="gpt-4o")
        message, code = ODD_REFUSALS[body]
        assert (response.status, response.error["message"]) == (422, message)
        assert (await gateway.get_row(response.request_id))["error_code"] == code


@pytest.mark.parametrize("body", [b"no such thing as %b\n", b'"no such thing as %b"'])
async def test_U04_a_refusal_in_plain_text_is_told_in_the_envelope(body: bytes) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(body % PROVIDER_KEY.encode(), 503, {"Content-Type": "text/plain"}))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (503, "upstream_error")
        assert response.error["message"] == "no such thing as ***"


@both_transports
async def test_U04_a_refusal_has_the_providers_headers_that_an_answer_has(transport: str) -> None:
    config = {"providers": {"openai": {"response_headers": ["x-ratelimit-remaining-requests"]}}}
    headers = {"OpenAI-Processing-Ms": "12", "X-RateLimit-Remaining-Requests": "0", "X-Request-Id": "theirs", "Retry-After": "7"}
    async with serving(transport, config) as gateway:
        gateway.upstream.script(json(REFUSAL, 429, headers))
        response = await gateway.chat()
        assert (response.header("openai-processing-ms"), response.header("x-ratelimit-remaining-requests")) == ("12", "0")
        assert response.header("retry-after") == "7"
        assert response.header("x-request-id") == response.request_id != "theirs"


# ── what an answer's beginning and end may not do ──


async def test_U03_a_compressed_answer_has_come_and_no_other_provider_is_asked() -> None:
    async with ScriptedUpstream() as second, serving(config=two_targets(second.base_url)) as gateway:
        gateway.upstream.script(json(b"\x1f\x8b" + b"x" * 1000, headers={"Content-Encoding": "gzip"}))
        response = await gateway.chat()
        assert (response.status, len(second.requests)) == (502, 0)


async def test_U04_a_wait_is_told_where_the_refusal_is_a_page() -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(b"<html>busy</html>", 429, headers={"Retry-After": "300", "Content-Type": "text/html"}))
        response = await gateway.chat()
        assert (response.status, response.header("x-should-retry"), response.header("retry-after")) == (502, "false", "300")


def trailing(fields: bytes) -> Script:
    body = dumps(ANSWER)
    lines = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [lines + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + fields + b"\r\n"]


@both_transports
async def test_U10_what_stands_in_a_trailer_says_nothing_of_the_answer(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(trailing(b"Content-Type: text/html\r\nContent-Encoding: gzip\r\nOpenAI-Processing-Ms: 666\r\n"))
        response = await gateway.chat()
        assert (response.status, response.header("content-type")) == (200, "application/json")
        assert response.header("openai-processing-ms") is None


async def test_U07_an_endless_trailer_is_refused() -> None:
    async with serving() as gateway:
        gateway.upstream.script(trailing(b"".join(b"X-%d: %b\r\n" % (number, b"a" * 100) for number in range(1000))))
        assert (await gateway.chat()).status == 502


async def test_U02_of_a_reused_connection_that_began_to_answer_nothing_is_asked_again() -> None:
    async with serving() as gateway:
        gateway.upstream.script(json(ANSWER), [b"HTTP/1.1 200 OK\r\nContent-Ty", fin()], json(ANSWER))
        assert [(await gateway.chat()).status for _ in range(2)] == [200, 502]
        assert len(gateway.upstream.requests) == 2

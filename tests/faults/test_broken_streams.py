"""FAULTS S05 to S08, S11, S12: a stream that breaks never looks like success, and one that is complete never looks broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from carrying_kit import (
    ASKED,
    STREAM,
    WORDS,
    booking,
    both_transports,
    broken_with,
    chunks_of,
    delta,
    error_code,
    events_of,
    finish,
    hang,
    is_finished,
    part_of,
    prefixes,
    sample,
    serving,
    tokens,
    usage_event,
    without_comment,
    written,
)
from orjson import dumps

from muxx.testing import DONE, PROVIDER_KEY, RawResponse, RunningGateway, Script, Step, event, fin, head, json, pause, rst, sse

LAST_CHUNK = b"0\r\n\r\n"


def chunked(body: bytes, end: Step) -> Script:
    return sse(body, end=end)


def until_close(body: bytes, end: Step) -> Script:
    return sse(body, chunked=False, end=end)


def with_length(body: bytes, end: Step) -> Script:
    """More is announced than comes."""
    fields = {"Content-Type": "text/event-stream", "Content-Length": str(len(body) + 100)}
    return [head(200, fields), body, end]


async def in_the_log(gateway: RunningGateway, response: RawResponse, **expected: Any) -> dict[str, Any]:
    row = await gateway.get_row(response.request_id)
    assert part_of(row, expected) == expected
    return row


async def assert_broken(gateway: RunningGateway, response: RawResponse, came: bytes, code: str) -> None:
    """The client got whole events and one error; the row says who broke it and what it cost."""
    row = await in_the_log(gateway, response, error_code=code, ended_by="upstream", stream=True, attempts=1)
    if not came:
        assert (response.status, error_code(response)) == (502, code)
        assert (row["status"], row["output_tokens"]) == (502, 0)
        return
    assert broken_with(response.body, code) == came
    assert (response.status, response.complete) == (200, True)
    reported = [chunk["usage"] for chunk in chunks_of(came) if chunk.get("usage")]
    assert (row["status"], row["phase"]) == (200, "stream")
    assert row["usage_source"] == ("partial" if reported else "estimated")
    assert row["output_tokens"] == (reported[-1]["completion_tokens"] if reported else tokens(written(came)))
    assert float(row["cost_usd"]) > 0


async def assert_complete(gateway: RunningGateway, response: RawResponse, came: bytes) -> None:
    """An answer that has its finish reasons is whole; nothing is added to it."""
    assert (response.status, response.complete, response.body) == (200, True, came)
    await in_the_log(gateway, response, status=200, ended_by=None, phase=None, error_code=None, **booking(came))


async def break_after_every_event(gateway: RunningGateway, stream: bytes, script: Callable[[bytes], Script], code: str) -> None:
    for came in prefixes(stream)[:-1]:
        gateway.upstream.script(script(came))
        response = await gateway.chat(**ASKED)
        if is_finished(came):
            await assert_complete(gateway, response, came)
        else:
            await assert_broken(gateway, response, came, code)


# ── S05: the provider hangs up ──────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("framing", [chunked, until_close])
async def test_S05_a_clean_end_after_any_event_is_truncated_unless_the_answer_is_finished(
    transport: str, framing: Callable[[bytes, Step], Script]
) -> None:
    end = LAST_CHUNK if framing is chunked else fin()
    async with serving(transport) as gateway:
        for stream in (STREAM, *sample(2, seed=5, most=8000)):
            await break_after_every_event(gateway, stream, lambda came: framing(came, end), "upstream_truncated")


@pytest.mark.soak
@both_transports
async def test_S05_a_clean_end_after_any_event_of_twenty_recordings(transport: str) -> None:
    async with serving(transport) as gateway:
        for stream in sample(20, seed=50, most=100_000):
            await break_after_every_event(gateway, stream, lambda came: chunked(came, LAST_CHUNK), "upstream_truncated")


@both_transports
async def test_S05_an_unfinished_event_is_dropped_before_the_error(transport: str) -> None:
    async with serving(transport) as gateway:
        for rest in (b"da", b'data: {"choices":[{"delta":{"content":"lost"', delta("lost")[:-1], delta("lost")[:-2]):
            gateway.upstream.script(chunked(delta("kept") + rest, LAST_CHUNK))
            response = await gateway.chat(**ASKED)
            assert broken_with(response.body, "upstream_truncated") == delta("kept")
            row = await in_the_log(
                gateway, response, status=200, error_code="upstream_truncated", ended_by="upstream", phase="stream"
            )
            assert tokens("kept") <= row["output_tokens"] <= tokens("keptlost")


async def test_S05_after_the_error_event_the_connection_closes() -> None:
    async with serving() as gateway:
        gateway.upstream.script(chunked(delta("a"), LAST_CHUNK))
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **ASKED})
            assert (await client.read_response()).complete
            assert await client.closed()


async def test_S05_an_answer_of_two_choices_needs_both_finish_reasons() -> None:
    def of_choice(index: int, reason: str | None) -> bytes:
        return event({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": reason}]})

    async with serving() as gateway:
        came = of_choice(0, None) + of_choice(0, "stop")
        gateway.upstream.script(chunked(came, LAST_CHUNK))
        await assert_broken(gateway, await gateway.chat(**ASKED, n=2), came, "upstream_truncated")
        came += of_choice(1, "stop")
        gateway.upstream.script(chunked(came, LAST_CHUNK))
        await assert_complete(gateway, await gateway.chat(**ASKED, n=2), came)


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
async def test_S05_an_answer_of_two_candidates_needs_both_finish_reasons(config: str) -> None:
    def of_candidate(index: int, **more: str) -> bytes:
        return event({"candidates": [{"index": index, "content": {"role": "model", "parts": [{"text": "x"}]}, **more}]})

    first, second = of_candidate(0, finishReason="STOP"), of_candidate(1, finishReason="STOP")
    asked = {"model": "gemini-1.5-flash", "stream": True, config: {"candidateCount": 2}}
    async with serving() as gateway:
        for came, whole in ((first, False), (first + of_candidate(1), False), (first + second, True)):
            gateway.upstream.script(chunked(came, LAST_CHUNK))
            response = await gateway.ask("generate_content", **asked)
            assert response.body.startswith(came)
            assert (response.body == came) == whole
            row = await gateway.get_row(response.request_id)
            assert row["error_code"] == (None if whole else "upstream_truncated")


# ── S06: the provider's connection breaks ───────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("name", ["chunked, reset", "chunked, closed", "length, reset", "length, closed"])
async def test_S06_a_broken_connection_after_any_event_is_disconnected_unless_the_answer_is_finished(
    transport: str, name: str
) -> None:
    framing = chunked if name.startswith("chunked") else with_length
    end = rst() if name.endswith("reset") else fin()
    async with serving(transport) as gateway:
        for stream in (STREAM, *sample(1, seed=6, most=8000)):
            await break_after_every_event(gateway, stream, lambda came: framing(came, end), "upstream_disconnected")


@both_transports
async def test_S06_a_reset_at_any_byte_leaves_whole_events(transport: str) -> None:
    ends = [len(came) for came in prefixes(STREAM)]
    async with serving(transport) as gateway:
        for k in range(1, len(STREAM) - len(DONE), 37):
            came = STREAM[: max(end for end in ends if end <= k)]
            gateway.upstream.script(chunked(STREAM[:k], rst()))
            response = await gateway.chat(**ASKED)
            if is_finished(came):
                await assert_complete(gateway, response, came)
            else:
                await assert_broken(gateway, response, came, "upstream_disconnected")


@both_transports
async def test_S06_a_chunk_cut_short_or_spoilt_breaks_the_stream(transport: str) -> None:
    start = [head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})]
    whole = b"%x\r\n%b\r\n" % (len(delta("a")), delta("a"))
    async with serving(transport) as gateway:
        for rest, codes in (
            (b"ff\r\nshort", {"upstream_disconnected"}),
            (b"zz\r\n", {"upstream_protocol_error", "upstream_disconnected"}),
        ):
            gateway.upstream.script([*start, whole, rest, pause(0.01), fin()])
            response = await gateway.chat(**ASKED)
            row = await gateway.get_row(response.request_id)
            assert row["error_code"] in codes
            assert broken_with(response.body, row["error_code"]) == delta("a")


@both_transports
async def test_S06_a_reset_is_no_end_of_a_body_that_ends_with_its_connection(transport: str) -> None:
    for_stream, for_plain = head(200, {"Content-Type": "text/event-stream"}), head(200, {"Content-Type": "application/json"})
    whole = dumps({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]})
    async with serving(transport) as gateway:
        gateway.upstream.script([for_stream + delta("a"), pause(0.02), rst()])
        response = await gateway.chat(**ASKED)
        assert broken_with(response.body, "upstream_disconnected") == delta("a")
        for end, status in ((fin(), 200), (rst(), 502)):
            gateway.upstream.script([for_plain + whole, pause(0.02), end])
            response = await gateway.chat()
            assert response.status == status
        assert response.error["code"] == "upstream_disconnected"


# ── S07: the provider's own error event ─────────────────────────────────────────────────────────────────────────────────────


@both_transports
async def test_S07_an_error_event_is_relayed_once_unchanged_and_ends_the_stream(transport: str) -> None:
    error = b'data: {"error": {"message": "overloaded",  "code": "engine_overloaded"}}\n\n'
    async with serving(transport) as gateway:
        for came in prefixes(b"".join(map(delta, WORDS))):
            gateway.upstream.script(sse(chunks=[came, error, delta("more"), DONE]))
            response = await gateway.chat(**ASKED)
            assert (response.status, response.complete, response.body) == (200, True, came + error)
            row = await in_the_log(
                gateway, response, status=200, ended_by="upstream", phase="stream", error_code="engine_overloaded"
            )
            assert row["output_tokens"] == tokens(written(came))
            assert row["usage_source"] == "estimated"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400}, "BadRequestError"),
        ({"error": {"object": "error", "message": "no", "type": "InternalServerError", "code": 500}}, "InternalServerError"),
        ({"error": "no"}, "upstream_error"),
    ],
)
async def test_S07_an_error_is_known_in_the_words_of_whoever_serves_the_model(error: dict[str, Any], code: str) -> None:
    endpoints = {"chat": "gpt-4o", "text_completion": "gpt-4o", "responses": "gpt-4o"}
    endpoints |= {"messages": "claude-3-5-haiku", "generate_content": "gemini-1.5-flash"}
    async with serving() as gateway:
        gateway.upstream.script(sse(event(error)))
        for endpoint, model in endpoints.items():
            response = await gateway.ask(endpoint, model=model, stream=True)
            assert (response.status, response.body) == (200, event(error)), endpoint
            await in_the_log(gateway, response, status=200, ended_by="upstream", phase="stream", error_code=code)


@pytest.mark.parametrize("error", [None, {"code": "server_error", "message": "Sorry."}])
async def test_S07_a_response_that_failed_is_an_error_in_the_row(error: dict[str, str] | None) -> None:
    answer = {"id": "resp_1", "object": "response", "status": "failed", "model": "gpt-4o", "output": [], "error": error}
    last = b"event: response.failed\n" + event({"type": "response.failed", "sequence_number": 0, "response": answer})
    async with serving() as gateway:
        gateway.upstream.script(sse(last), json(answer))
        for stream in (True, False):
            response = await gateway.ask("responses", model="gpt-4o", stream=stream)
            assert (response.status, last in response.body if stream else response.json() == answer) == (200, True)
            code = "server_error" if error else "upstream_error"
            await in_the_log(gateway, response, status=200, ended_by="upstream", phase="stream", error_code=code)


async def test_S07_a_secret_muxx_knows_is_masked_in_an_error_event() -> None:
    async with serving() as gateway:
        gateway.upstream.script(
            sse(delta("a") + event({"error": {"message": f"wrong key {PROVIDER_KEY}", "code": "invalid_api_key"}}))
        )
        response = await gateway.chat(stream=True)
        assert response.body == delta("a") + event({"error": {"message": "wrong key ***", "code": "invalid_api_key"}})
        assert PROVIDER_KEY not in str(await gateway.get_row(response.request_id))


async def test_S07_usage_reported_before_an_error_is_kept() -> None:
    used = event({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}})
    async with serving() as gateway:
        gateway.upstream.script(
            sse(delta("a") + used + event({"error": {"message": "no", "type": "server_error", "code": None}}))
        )
        response = await gateway.chat(stream=True)
        await in_the_log(
            gateway,
            response,
            usage_source="partial",
            input_tokens=100,
            output_tokens=50,
            error_code="server_error",
            cost_usd="0.00075",
        )


async def test_S07_data_that_is_no_json_is_a_protocol_error() -> None:
    async with serving() as gateway:
        for garbage in (
            b"data: <html>\n\n",
            b"data: [1]\n\n",
            b"data: {\n\n",
            b'data: "x"\n\n',
            b"data: NaN\n\n",
            b"data: \xff\n\n",
        ):
            gateway.upstream.script(sse(delta("a") + garbage + delta("b") + DONE))
            await assert_broken(gateway, await gateway.chat(**ASKED), delta("a"), "upstream_protocol_error")


# ── S08: something else than a stream ───────────────────────────────────────────────────────────────────────────────────────

COMPLETION = {
    "id": "c-1",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}


@both_transports
async def test_S08_a_whole_completion_passes_with_its_own_content_type(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(json(COMPLETION, headers={"Content-Type": "application/json; charset=utf-8"}))
        response = await gateway.chat(stream=True)
        assert (response.status, response.json()) == (200, COMPLETION)
        assert response.header("content-type") == "application/json; charset=utf-8"
        assert response.header("x-muxx-cost") == "0.000075"
        await in_the_log(gateway, response, status=200, usage_source="provider", cost_usd="0.000075", ended_by=None)


@both_transports
@pytest.mark.parametrize("stream", [True, False])
async def test_S08_an_error_or_a_page_in_a_200_is_a_502(transport: str, stream: bool) -> None:
    page = {"Content-Type": "text/html"}
    async with serving(transport) as gateway:
        for script, code in (
            (json({"error": {"message": "no such model", "code": 404}}), "upstream_error"),
            (json(b"<html><body>Bad gateway</body></html>", headers=page), "upstream_error"),
            (json(b"", headers=page), "upstream_protocol_error"),
            (json(b"[]"), "upstream_protocol_error"),
            (json(b'{"choices": ['), "upstream_protocol_error"),
        ):
            gateway.upstream.script(script)
            response = await gateway.chat(stream=stream)
            assert (response.status, error_code(response)) == (502, code)
            assert "html" not in response.text
            await in_the_log(gateway, response, status=502, ended_by="upstream", error_code=code, cost_usd="0")


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"message": "No credits left for KEY.", "code": 402}, 502, "upstream_error"),
        ({"message": "No GPU is free for KEY.", "type": "out_of_capacity"}, 502, "upstream_error"),
        ({"message": "KEY: the prompt is too long.", "code": "context_length_exceeded"}, 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
async def test_S08_an_error_in_a_200_is_told_in_the_providers_words_without_the_key(
    endpoint: str, told: dict[str, Any], status: int, code: str
) -> None:
    async with serving() as gateway:
        gateway.upstream.script(json({"error": {**told, "message": told["message"].replace("KEY", PROVIDER_KEY)}}))
        response = await gateway.ask(endpoint, model="gpt-4o")
        assert (response.status, error_code(response)) == (status, code)
        assert response.error["message"].endswith(told["message"].replace("KEY", "***"))
        assert PROVIDER_KEY not in response.text
        await in_the_log(gateway, response, status=status, ended_by="upstream", error_code=code, cost_usd="0")


@pytest.mark.parametrize("body", [b"{}", b'{"id": "x", "model": "gpt-4o"}', b'{"object": "error", "message": "no", "code": 400}'])
async def test_S08_an_object_that_says_nothing_an_answer_says_is_none(body: bytes) -> None:
    endpoints = {"chat": "gpt-4o", "text_completion": "gpt-4o", "embeddings": "gpt-4o", "responses": "gpt-4o"}
    endpoints |= {"messages": "claude-3-5-haiku", "generate_content": "gemini-1.5-flash", "count_content": "gemini-1.5-flash"}
    code = "upstream_error" if b"error" in body else "upstream_protocol_error"
    async with serving() as gateway:
        gateway.upstream.script(json(body))
        for endpoint, model in endpoints.items():
            response = await gateway.ask(endpoint, model=model)
            assert response.status == 502, endpoint
            await in_the_log(gateway, response, status=502, ended_by="upstream", error_code=code, cost_usd="0")


async def test_S08_a_stream_nobody_asked_for_is_a_502() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(STREAM))
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (502, "upstream_error")


# ── S11: silence ────────────────────────────────────────────────────────────────────────────────────────────────────────────

HURRIED = {
    "first_byte_timeout_s": 0.3,
    "first_token_timeout_s": 0.3,
    "between_events_timeout_s": 0.3,
    "finish_grace_s": 0.3,
}


@both_transports
@pytest.mark.parametrize("stream", [True, False])
async def test_S11_silence_before_the_head_is_a_504(transport: str, stream: bool) -> None:
    async with serving(transport, {"server": HURRIED}) as gateway:
        gateway.upstream.script([hang()])
        response = await gateway.chat(stream=stream)
        assert (response.status, error_code(response)) == (504, "upstream_timeout")
        assert response.header("x-should-retry") == "true"
        await in_the_log(
            gateway, response, status=504, ended_by="upstream", phase="head", error_code="upstream_timeout", attempts=1
        )
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S11_silence_before_the_first_event_is_a_504(transport: str) -> None:
    async with serving(transport, {"server": HURRIED}) as gateway:
        gateway.upstream.script(sse(end=hang()))
        response = await gateway.chat(stream=True)
        assert (response.status, error_code(response)) == (504, "upstream_timeout")
        await in_the_log(gateway, response, status=504, ended_by="upstream", phase="stream", error_code="upstream_timeout")
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S11_silence_between_events_is_an_error_event(transport: str) -> None:
    async with serving(transport, {"server": HURRIED}) as gateway:
        gateway.upstream.script(sse(delta("a") + delta("b"), end=hang()))
        await assert_broken(gateway, await gateway.chat(**ASKED), delta("a") + delta("b"), "upstream_timeout")
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S11_silence_in_a_plain_answer_is_a_504(transport: str) -> None:
    async with serving(transport, {"server": HURRIED}) as gateway:
        gateway.upstream.script([head(200, {"Content-Type": "application/json", "Content-Length": "100"}), b"{", hang()])
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (504, "upstream_timeout")
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S11_after_the_finish_reason_the_answer_is_complete_without_its_usage(transport: str) -> None:
    async with serving(transport, {"server": HURRIED}) as gateway:
        came = delta("a") + finish()
        gateway.upstream.script(sse(came, end=hang()))
        await assert_complete(gateway, await gateway.chat(stream=True), came)
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S11_a_whole_request_has_its_limit_too(transport: str) -> None:
    async with serving(transport, {"server": {"request_timeout_s": 0.3}}) as gateway:
        gateway.upstream.script(sse(chunks=[delta("a")] * 500, gap=0.02))
        response = await gateway.chat(stream=True)
        assert set(broken_with(response.body, "upstream_timeout").split(b"\n\n")) == {delta("a").strip(), b""}
        await in_the_log(gateway, response, status=200, ended_by="upstream", phase="stream", error_code="upstream_timeout")


async def test_S11_every_event_grants_the_next_one_its_time() -> None:
    async with serving(config={"server": HURRIED}) as gateway:
        stream = b"".join(delta(str(number)) for number in range(8)) + finish() + DONE
        gateway.upstream.script(sse(chunks=[raw for raw, _ in events_of(stream)], gap=0.1))
        assert without_comment(await gateway.chat(**ASKED)) == stream


# ── S12: what comes after [DONE] ────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("extra", [DONE, delta("late"), b"garbage", usage_event(1, 1)])
async def test_S12_nothing_counts_after_the_first_done(transport: str, extra: bytes, together: bool) -> None:
    pieces = [STREAM + extra] if together else [STREAM, extra]
    async with serving(transport) as gateway:
        for number, end in enumerate((LAST_CHUNK, hang()), 1):
            gateway.upstream.script(sse(chunks=pieces, gap=0.2, end=end))
            response = await gateway.chat(**ASKED)
            assert without_comment(response) == STREAM
            row = await in_the_log(gateway, response, status=200, ended_by=None, error_code=None, **booking(STREAM))
            assert row["output"]["choices"][0]["message"]["content"] == "".join(WORDS)
            assert row["attributes"] == ({"surplus_after_done": True} if together else {})
            await gateway.upstream.last.peer_left()
            assert len(gateway.upstream.connections) == number


async def test_S12_what_comes_behind_done_with_the_end_of_the_body_costs_the_connection_too() -> None:
    """aiohttp's client has given its connection back by then: it does so where it reads the end."""
    surplus = b"%x\r\n%b\r\n0\r\n\r\n"
    async with serving("lean") as gateway:
        for together in (True, False):
            body, late = (STREAM + DONE, b"") if together else (STREAM, surplus % (len(DONE), DONE))
            answer = b"".join(step for step in sse(body, end=late or LAST_CHUNK) if isinstance(step, bytes))
            behind = [pause(0.02), late] if late else []
            gateway.upstream.script([answer.removesuffix(late), *behind])
            assert without_comment(await gateway.chat(**ASKED)) == STREAM
            await gateway.upstream.last.peer_left()
        assert len(gateway.upstream.connections) == 2


@both_transports
async def test_S12_a_provider_that_hangs_after_done_delays_nobody(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(sse(STREAM, end=hang()))
        started = time.monotonic()
        async with asyncio.timeout(10):
            assert without_comment(await gateway.chat(**ASKED)) == STREAM
        assert time.monotonic() - started < 1.0
        await gateway.upstream.last.peer_left()


@both_transports
async def test_S12_a_stream_read_to_its_end_leaves_its_connection_for_the_next(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(sse(STREAM))
        for _ in range(5):
            assert (await gateway.chat(**ASKED)).done
            await asyncio.sleep(0.01)
        assert len(gateway.upstream.connections) == 1

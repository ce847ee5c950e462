"""Completions, embeddings and Responses through a running gateway: what the provider sends is what the client gets, what it means
is in the row, and what is wrong says so in the endpoint's own format."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from carrying_kit import ERROR_MEMBERS, both_transports, broken_with, cut, error_code, events_of, hang, serving
from thoroughness import some
from wire import responses_kit
from wire.recordings import recordings
from wires_kit import (
    ASKED_USAGE,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    USAGE_EVENT,
    Endpoint,
    ask,
    completion_recordings,
    completion_row,
    cost_in,
    each,
    each_form,
    each_streamed,
    less_comment,
    middle,
    piece,
    post,
    response_row,
    shown,
    terminal,
)

from muxx.testing import DONE, PROVIDER_KEY, RawResponse, RunningGateway, error, event, fin, rst, sse
from muxx.testing.answers import json as plain

# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
async def test_every_recording_of_responses_passes_byte_for_byte_and_is_booked_as_its_terminal_event_says(transport: str) -> None:
    async with serving(transport) as gateway:
        for seed, path in enumerate(some(recordings("openai-responses"), least=8)):
            stream = path.read_bytes()
            gateway.upstream.script(sse(chunks=cut(stream, seed), chunked=seed % 3 > 0))
            response = await post(gateway, RESPONSES, stream=True)
            assert less_comment(response, events_of(stream)[-1][0]) == stream, path.name
            expected = response_row(stream)
            row = await gateway.get_row(response.request_id)
            assert shown(row, expected) == expected, path.name
            assert row["output"] == terminal(stream)
            assert Decimal(cost_in(response) or "-1") == Decimal(row["cost_usd"])


@both_transports
async def test_every_recording_of_completions_passes_byte_for_byte_and_is_booked_by_estimate(transport: str) -> None:
    async with serving(transport) as gateway:
        for seed, path in enumerate(completion_recordings()):
            stream = path.read_bytes()
            gateway.upstream.script(sse(chunks=cut(stream, seed), chunked=seed % 3 > 0))
            response = await post(gateway, COMPLETIONS, stream=True, suffix=...)
            assert less_comment(response, DONE) == stream, path.name
            expected = completion_row(stream, asked="Once")
            row = await gateway.get_row(response.request_id)
            assert shown(row, expected) == expected, path.name
            assert Decimal(cost_in(response) or "-1") == Decimal(row["cost_usd"])


async def test_without_the_comment_not_a_byte_of_a_stream_differs() -> None:
    async with serving(config={"server": {"stream_cost_comment": False}}) as gateway:
        cases = [(RESPONSES, path) for path in some(recordings("openai-responses"), least=8)]
        for seed, (endpoint, path) in enumerate([*cases, *((COMPLETIONS, path) for path in completion_recordings())]):
            stream = path.read_bytes()
            gateway.upstream.script(sse(chunks=cut(stream, seed)))
            assert (await ask(gateway, endpoint, stream=True)).body == stream, path.name


@pytest.mark.parametrize("name", responses_kit.OWN)
async def test_responses_streams_of_every_kind_pass_byte_for_byte(name: str) -> None:
    stream = responses_kit.OWN[name]
    async with serving() as gateway:
        gateway.upstream.script(sse(chunks=cut(stream, 7)))
        response = await post(gateway, RESPONSES, stream=True)
        assert less_comment(response, events_of(stream)[-1][0]) == stream
        row = await gateway.get_row(response.request_id)
        how = ("upstream", "server_error") if name == "failed" else (None, None)
        assert (row["status"], row["ended_by"], row["error_code"]) == (200, *how)
        finished = {"incomplete": ["length"], "failed": ["error"], "many": ["tool_calls"], "only_the_end": ["tool_calls"]}
        assert row["finish_reasons"] == finished.get(name, ["stop"])


@each_streamed
async def test_a_stream_is_told_in_the_row_and_in_the_comment(endpoint: Endpoint) -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(endpoint.stream))
        response = await ask(gateway, endpoint, stream=True)
        assert less_comment(response, endpoint.last) == endpoint.stream
        row = await gateway.get_row(response.request_id)
    expected = {"endpoint": endpoint.name, "status": 200, "stream": True, "usage_source": "provider", **endpoint.row}
    assert shown(row, expected) == expected
    assert Decimal(cost_in(response) or "-1") == Decimal(endpoint.row["cost_usd"])
    assert response.header("x-muxx-cost") is None


async def test_usage_of_a_completion_is_asked_for_and_withheld_from_who_did_not_ask() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(COMPLETIONS.stream))
        for options in ({}, None, {"include_usage": False}, {"include_obfuscation": False}):
            response = await post(gateway, COMPLETIONS, stream=True, stream_options=options)
            assert less_comment(response, DONE) == COMPLETIONS.stream.replace(USAGE_EVENT, b"")
            assert gateway.upstream.last.json()["stream_options"] == {**(options or {}), "include_usage": True}
            row = await gateway.get_row(response.request_id)
            assert shown(row, COMPLETIONS.row) == COMPLETIONS.row
        assert less_comment(await post(gateway, COMPLETIONS, **ASKED_USAGE), DONE) == COMPLETIONS.stream


async def test_a_completion_of_two_prompts_is_whole_with_the_finish_reasons_of_both() -> None:
    first = piece("a", "stop")
    second = first.replace(b'"index":0', b'"index":1')
    async with serving() as gateway:
        gateway.upstream.script(sse(first), sse(first + second))
        broken = await post(gateway, COMPLETIONS, prompt=["x", "y"], suffix=..., stream=True)
        whole = await post(gateway, COMPLETIONS, prompt=["x", "y"], suffix=..., stream=True)
    assert broken_with(broken.body, "upstream_truncated") == first
    assert whole.body == first + second


@each_form
async def test_the_request_goes_up_as_it_was_to_the_endpoint_of_the_same_name(endpoint: Endpoint, stream: bool) -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(endpoint.stream) if stream else plain(endpoint.plain))
        await ask(gateway, endpoint, stream)
        sent = gateway.upstream.last
    asked = {**endpoint.asked, **((ASKED_USAGE if endpoint is COMPLETIONS else {"stream": True}) if stream else {})}
    assert sent.json() == asked | {"model": endpoint.asked["model"].removeprefix("openai/")}
    assert (sent.method, sent.target) == ("POST", endpoint.path)
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"


# ── plain answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
@each
async def test_a_plain_answer_passes_byte_for_byte_with_its_usage_and_cost(endpoint: Endpoint, transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(plain(endpoint.plain))
        response = await ask(gateway, endpoint, stream=False)
        assert (response.status, response.body) == (200, endpoint.plain)
        row = await gateway.get_row(response.request_id)
    expected = {"endpoint": endpoint.name, "status": 200, "stream": False, "usage_source": "provider", **endpoint.row}
    assert shown(row, expected) == expected
    assert Decimal(response.header("x-muxx-cost") or "-1") == Decimal(endpoint.row["cost_usd"])
    assert row["output"] == json.loads(endpoint.plain)
    assert row["input"] == gateway.upstream.last.json()


async def test_the_last_answer_of_every_recording_passes_plain_as_well() -> None:
    async with serving() as gateway:
        for path in recordings("openai-responses"):
            stream = path.read_bytes()
            body = json.dumps(terminal(stream), indent=1).encode()
            gateway.upstream.script(plain(body))
            response = await post(gateway, RESPONSES)
            assert response.body == body, path.name
            expected = response_row(stream)
            assert shown(await gateway.get_row(response.request_id), expected) == expected, path.name
            assert Decimal(response.header("x-muxx-cost") or "-1") == Decimal(expected["cost_usd"])


async def test_embeddings_know_no_stream() -> None:
    async with serving() as gateway:
        gateway.upstream.script(plain(EMBEDDINGS.plain))
        response = await post(gateway, EMBEDDINGS, stream=True)
        row = await gateway.get_row(response.request_id)
    assert (response.status, response.body, row["stream"]) == (200, EMBEDDINGS.plain, False)


@each_form
async def test_a_refusal_of_the_provider_keeps_its_status_and_body(endpoint: Endpoint, stream: bool) -> None:
    refusal = b'{"error": {"message": "no",  "type": "invalid_request_error", "param": "x", "code": "odd_thing"}}'
    async with serving() as gateway:
        gateway.upstream.script(plain(refusal, 422))
        response = await ask(gateway, endpoint, stream)
        row = await gateway.get_row(response.request_id)
    assert (response.status, response.body) == (422, refusal)
    assert (row["endpoint"], row["status"], row["error_code"]) == (endpoint.name, 422, "odd_thing")


@each
async def test_what_is_no_answer_is_a_bad_gateway(endpoint: Endpoint) -> None:
    async with serving() as gateway:
        for body in (b"", b"[1]", b"no json", b'{"error": {"message": "sorry", "type": "server_error"}}', b"<html>"):
            gateway.upstream.script(plain(body))
            response = await ask(gateway, endpoint, stream=False)
            assert (response.status, error_code(response)[:8]) == (502, "upstream"), body
            assert (await gateway.get_row(response.request_id))["status"] == 502


# ── wrong requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: list[tuple[Endpoint, str, Any]] = [
    *((endpoint, "model", value) for endpoint in (COMPLETIONS, EMBEDDINGS, RESPONSES) for value in (..., 7, "")),
    *((COMPLETIONS, "prompt", value) for value in (..., {}, 7, [], ["a", 1], [None])),
    *((COMPLETIONS, "temperature", value) for value in ("hot", 3, True)),
    *((COMPLETIONS, "max_tokens", value) for value in (-1, 1.5, "9")),
    (COMPLETIONS, "stream", "yes"),
    *((EMBEDDINGS, "input", value) for value in (..., None, {}, 7, [], ["a", 1])),
    *((EMBEDDINGS, "dimensions", value) for value in (0, "9")),
    (EMBEDDINGS, "encoding_format", 8),
    *((RESPONSES, "input", value) for value in (..., {}, 7)),
    (RESPONSES, "instructions", ["a"]),
    *((RESPONSES, "temperature", value) for value in ("hot", -1)),
    *((RESPONSES, "max_output_tokens", value) for value in (0, "9")),
    *((RESPONSES, "tools", value) for value in ({}, "all")),
    (RESPONSES, "stream", 1),
]


async def test_a_wrong_field_is_named_and_nothing_is_sent() -> None:
    async with serving() as gateway:
        for endpoint, field, value in WRONG:
            response = await post(gateway, endpoint, **{field: value})
            code = "missing_field" if value is ... else "invalid_type"
            found = (response.status, error_code(response), response.error["param"])
            assert found == (400, code, field), (endpoint, field, value)
            row = await gateway.get_row(response.request_id)
            assert (row["endpoint"], row["status"], row["error_code"]) == (endpoint.name, 400, code)
            assert Decimal(row["cost_usd"]) == 0
        assert gateway.upstream.requests == []


# ── broken streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def broken_response(body: bytes, code: str) -> bytes:
    """What came before the one error event that ends a broken Responses stream, numbered as the next one."""
    before, mark, last = body.rpartition(b"event: error\ndata: ")
    assert mark, f"no error event at the end: {body[-200:]!r}"
    assert last.endswith(b"}\n\n")
    told = json.loads(last)
    assert set(told) == {"type", "sequence_number", "code", "message", "param", "error"}
    assert set(told["error"]) == ERROR_MEMBERS
    assert (told["type"], told["code"], told["error"]["code"]) == ("error", code, code)
    assert told["message"] == told["error"]["message"]
    assert told["sequence_number"] == len(events_of(before))
    assert b"event: error" not in before
    assert b"[DONE]" not in body
    return before


async def assert_broken(gateway: RunningGateway, endpoint: Endpoint, response: RawResponse, came: bytes, code: str) -> None:
    """The client got whole events and one error, never what ends a success; the row says so."""
    assert (response.status, response.complete) == (200, True)
    judge = broken_response if endpoint is RESPONSES else broken_with
    assert judge(response.body, code) == came
    assert b": muxx" not in response.body
    for end in (b'"response.completed"', b'"response.incomplete"'):
        assert end not in response.body
    row = await gateway.get_row(response.request_id)
    expected = {"endpoint": endpoint.name, "status": 200, "error_code": code, "ended_by": "upstream", "phase": "stream"}
    assert shown(row, expected) == expected
    assert row["output_tokens"] > 0
    assert float(row["cost_usd"]) > 0


BREAKS = {
    "ends": ({}, "upstream_truncated"),
    "ends with the connection": ({"chunked": False}, "upstream_truncated"),
    "hangs up": ({"end": fin()}, "upstream_disconnected"),
    "is reset": ({"end": rst()}, "upstream_disconnected"),
}


@both_transports
@each_streamed
@pytest.mark.parametrize("how", BREAKS)
async def test_a_stream_that_breaks_ends_with_one_error_of_its_format(endpoint: Endpoint, how: str, transport: str) -> None:
    options, code = BREAKS[how]
    came = middle(endpoint)
    async with serving(transport) as gateway:
        for rest in (b"", b"da", b'data: {"type":"response.completed","choices":[{"text":"lost'):
            gateway.upstream.script(sse(came + rest, **options))
            await assert_broken(gateway, endpoint, await ask(gateway, endpoint, stream=True), came, code)


@each_streamed
@pytest.mark.parametrize("garbage", [b"data: {]\n\n", b"data: no json\n\n", b"data: [1]\n\n", b"data: 7\n\n"])
async def test_garbage_ends_a_stream_with_an_error_and_is_not_passed_on(endpoint: Endpoint, garbage: bytes) -> None:
    came = middle(endpoint)
    async with serving() as gateway:
        gateway.upstream.script(sse(came + garbage + endpoint.stream))
        await assert_broken(gateway, endpoint, await ask(gateway, endpoint, stream=True), came, "upstream_protocol_error")


async def test_a_responses_stream_cut_after_any_event_but_the_last_is_never_whole() -> None:
    events = [raw for raw, _ in events_of(RESPONSES.stream)]
    async with serving() as gateway:
        for count in range(1, len(events)):
            for rest in (b"", DONE):
                gateway.upstream.script(sse(b"".join(events[:count]) + rest))
                response = await ask(gateway, RESPONSES, stream=True)
                assert broken_response(response.body, "upstream_truncated") == b"".join(events[:count])
        gateway.upstream.script(sse(b"".join(events).rstrip(b"\n")))
        whole = await ask(gateway, RESPONSES, stream=True)
        assert less_comment(whole, events[-1].rstrip(b"\n")) == RESPONSES.stream.rstrip(b"\n")


@each_streamed
async def test_nothing_at_all_is_a_plain_error_or_an_error_event(endpoint: Endpoint) -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(b""))
        response = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(response.request_id)
    assert (response.status, error_code(response), row["status"]) == (502, "upstream_truncated", 502)


@each_streamed
async def test_a_stream_that_stalls_is_a_timeout(endpoint: Endpoint) -> None:
    came = middle(endpoint)
    model = {"name": "stalls", "targets": [{"target": "openai/gpt-4o", "between_events_timeout_s": 0.3}]}
    async with serving(config={"models": [model]}) as gateway:
        gateway.upstream.script(sse(came, end=hang()))
        response = await post(gateway, endpoint, model="stalls", stream=True)
        await assert_broken(gateway, endpoint, response, came, "upstream_timeout")


ERRORS = {
    "text_completion": event(
        {"error": {"message": f"busy {PROVIDER_KEY}", "type": "server_error", "param": None, "code": "too_busy"}}
    ),
    "responses": responses_kit.event("error", 9, code="too_busy", message=f"busy {PROVIDER_KEY}", param=None),
}


@each_streamed
async def test_an_error_event_of_the_provider_is_passed_on_once_without_our_secret(endpoint: Endpoint) -> None:
    came, told = middle(endpoint), ERRORS[endpoint.name]
    async with serving() as gateway:
        gateway.upstream.script(sse(came + told + endpoint.stream))
        response = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(response.request_id)
    assert response.body == came + told.replace(PROVIDER_KEY.encode(), b"***")
    assert (row["status"], row["error_code"], row["ended_by"]) == (200, "too_busy", "upstream")
    assert float(row["cost_usd"]) > 0


@each_form
async def test_a_provider_that_cannot_answer_is_asked_again(endpoint: Endpoint, stream: bool) -> None:
    model = {"name": "tried", "targets": ["openai/gpt-4o"], "retries": 1}
    async with serving(config={"models": [model]}) as gateway:
        good = sse(endpoint.stream) if stream else plain(endpoint.plain)
        gateway.upstream.script(error(503, retry_after="0"), good)
        response = await post(gateway, endpoint, model="tried", stream=stream)
        row = await gateway.get_row(response.request_id)
    assert (response.status, row["attempts"], row["status"]) == (200, 2, 200)

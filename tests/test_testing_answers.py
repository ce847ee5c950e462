"""What the kit writes it reads back, at every endpoint and in both forms; what is broken it refuses, and muxx's readers agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muxx.testing import (
    ENDPOINTS,
    RunningGateway,
    Said,
    Tool,
    Unreadable,
    answer,
    chat,
    embeddings,
    endpoint_at,
    is_whole,
    letters,
    model_for,
    read_answer,
    read_comment,
    read_error,
    request_target,
    speaking,
    words,
)
from muxx.testing.asking import PLAIN_ONLY, asks_for_stream, model_asked
from muxx.wire.wires import BY_NAME

TALK = Said(
    "Grüß Gott, you 👋", "Let me think.", (Tool("f", '{"a": 1}', "call_1"), Tool("g", "{}", "call_2")), finish_reason="tool_calls"
)
COUNT = Said(finish_reason=None, input_tokens=14, output_tokens=None)
EACH = {
    "chat": TALK,
    "text_completion": Said("upon a time", finish_reason="length"),
    "embeddings": Said(vectors=((0.5, -2.0), (1.0, 0.0)), finish_reason=None, output_tokens=None),
    "responses": TALK,
    "messages": TALK,
    "count_tokens": COUNT,
    "generate_content": TALK,
    "count_content": COUNT,
}
STREAMED = [name for name in EACH if name not in PLAIN_ONLY]
each = pytest.mark.parametrize("endpoint", EACH)
each_streamed = pytest.mark.parametrize("endpoint", STREAMED)


def stream(endpoint: str, said: Said | None = None, **options: Any) -> list[bytes]:
    return speaking.streamed(endpoint, said or EACH[endpoint], "gpt-4o", **options)


@each
def test_a_plain_answer_is_read_as_it_was_written(endpoint: str) -> None:
    body = speaking.plain(endpoint, EACH[endpoint], "gpt-4o")
    assert read_answer(endpoint, body, streamed=False) == EACH[endpoint]


@each_streamed
@pytest.mark.parametrize("pieces", [words, letters])
def test_a_stream_is_read_as_it_was_written_however_its_words_are_spread(endpoint: str, pieces: Any) -> None:
    assert read_answer(endpoint, b"".join(stream(endpoint, pieces=pieces)), streamed=True) == EACH[endpoint]


@each_streamed
@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_every_endpoint_has_words_for_each_finish_reason_and_for_tokens_from_the_cache(endpoint: str, reason: str) -> None:
    said = Said("Hm.", finish_reason=reason, input_tokens=20, output_tokens=3, cached_tokens=8)
    assert read_answer(endpoint, speaking.plain(endpoint, said, "gpt-4o"), streamed=False) == said
    assert read_answer(endpoint, b"".join(stream(endpoint, said)), streamed=True) == said


@pytest.mark.parametrize("endpoint", ["messages", "generate_content"])
@pytest.mark.parametrize("tools", [(), TALK.tools])
def test_the_seal_on_the_reasoning_is_read_back(endpoint: str, tools: tuple[Tool, ...]) -> None:
    said = Said("Yes.", "Hm.", tools, signature="c2VhbA==")
    assert read_answer(endpoint, speaking.plain(endpoint, said, "m"), streamed=False).signature == "c2VhbA=="
    assert read_answer(endpoint, b"".join(stream(endpoint, said)), streamed=True).signature == "c2VhbA=="
    unsealed = Said("Yes.", tools=tools, signature="c2VhbA==")
    assert read_answer(endpoint, b"".join(stream(endpoint, unsealed)), streamed=True).signature == ""


def test_calls_are_the_same_when_their_arguments_are_however_they_are_written() -> None:
    assert Tool("f", '{"a": 1}') == Tool("f", '{"a":1}') != Tool("f", '{"a":2}')
    assert len({Tool("f", '{"a": 1}'), Tool("f", '{"a":1}')}) == 1
    assert Tool("f", "{") == Tool("f", "{") != Tool("f", "{ ")
    assert Tool("f") != Tool("f", id="other")


@each
def test_muxx_reads_the_same_out_of_them(endpoint: str) -> None:
    wire, said = BY_NAME[endpoint], EACH[endpoint]
    facts = wire.read_plain(speaking.plain(endpoint, said, "gpt-4o"))
    assert facts.text == said.text
    assert facts.usage is not None
    assert facts.usage.output_tokens == (said.output_tokens or 0)
    assert facts.usage.input_tokens == (0 if wire.counts else said.input_tokens), "a count is not something used"
    kinds = {chunk.kind for chunk in wire.decode_plain(speaking.plain(endpoint, said, "gpt-4o"))}
    assert kinds >= ({"text", "reasoning", "tool_call", "end"} if said.tools else {"end"})


@each_streamed
def test_a_stream_without_any_one_of_its_last_events_is_refused(endpoint: str) -> None:
    events = stream(endpoint, usage=False)
    assert is_whole(endpoint, b"".join(events))
    last_ones = 1 if endpoint in ("responses", "generate_content") else 2
    for number in range(1, last_ones + 1):
        assert not is_whole(endpoint, b"".join(events[:-number]))


@pytest.mark.parametrize(
    ("endpoint", "change"),
    [
        ("chat", lambda events: [*events, events[1]]),
        ("chat", lambda events: [*events[:-1], events[2], events[-1]]),
        ("chat", lambda events: [events[0][:-1], *events[1:]]),
        ("chat", lambda events: [b"data: {no json\n\n", *events]),
        ("chat", lambda events: [b'data: {"error": {}}\n\n', *events]),
        ("responses", lambda events: [*events, events[-1]]),
        ("responses", lambda events: [event for event in events if b"output_text.delta" not in event]),
        ("responses", lambda events: [events[1], events[0], *events[2:]]),
        ("responses", lambda events: [events[0].replace(b"event: response.created", b"event: other"), *events[1:]]),
        ("messages", lambda events: [*events, events[-1]]),
        ("messages", lambda events: [events[0], *events]),
        ("messages", lambda events: events[1:]),
        ("messages", lambda events: [event.replace(b"event: content_block_stop\n", b"") for event in events]),
        ("messages", lambda events: [event for event in events if b"content_block_stop" not in event]),
        ("messages", lambda events: [event for event in events if b"content_block_start" not in event]),
        ("messages", lambda events: [event.replace(b"text_delta", b"thinking_delta") for event in events]),
        ("messages", lambda events: [event.replace(b'"stop_reason":"tool_use"', b'"stop_reason":"tired"') for event in events]),
        ("messages", lambda events: [*events[:-1], events[3], events[-1]]),
        ("messages", lambda events: [*events[:-2], FAILED["messages"], *events[-2:]]),
        ("generate_content", lambda events: [*events, events[0]]),
        ("generate_content", lambda events: [*events, events[-1]]),
        ("generate_content", lambda events: [b": muxx {}\r\n\r\n", *events]),
        ("generate_content", lambda events: [events[0][:-2], *events[1:]]),
        ("generate_content", lambda events: [*events[:-1], FAILED["generate_content"], events[-1]]),
        ("generate_content", lambda events: [events[0].replace(b'"index": 0', b'"index": 1'), *events[1:]]),
    ],
)
def test_a_stream_that_breaks_its_format_is_refused(endpoint: str, change: Any) -> None:
    with pytest.raises(Unreadable):
        read_answer(endpoint, b"".join(change(stream(endpoint))), streamed=True)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", b"{"),
        ("chat", b"[]"),
        ("chat", b'{"choices": []}'),
        ("chat", b'{"choices": [{}]}'),
        ("text_completion", b'{"choices": [{}]}'),
        ("embeddings", b'{"data": [{"index": 1, "embedding": []}]}'),
        ("responses", b'{"object": "response", "status": "failed", "output": []}'),
        ("responses", b'{"object": "response", "status": "incomplete", "output": []}'),
        ("messages", b'{"type": "error", "error": {}}'),
        ("messages", b'{"type": "message", "role": "assistant", "content": [], "stop_reason": null}'),
        ("messages", b'{"type": "message", "role": "user", "content": [], "stop_reason": "end_turn"}'),
        ("count_tokens", b'{"input_tokens": "3"}'),
        ("generate_content", b'{"candidates": []}'),
        ("generate_content", b'{"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}'),
        ("generate_content", b'{"candidates": [{"content": {"role": "user", "parts": []}, "finishReason": "STOP"}]}'),
        ("count_content", b"{}"),
    ],
)
def test_a_plain_answer_that_is_none_is_refused(endpoint: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_answer(endpoint, body, streamed=False)


def test_googles_stream_may_be_an_array_and_a_prompt_may_be_blocked() -> None:
    parts = [{"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]} for text in ("Hi ", "you")]
    parts[-1]["candidates"][0]["finishReason"] = "STOP"
    assert read_answer("generate_content", json.dumps(parts).encode(), streamed=False).text == "Hi you"
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}
    said = read_answer("generate_content", json.dumps(blocked).encode(), streamed=False)
    assert (said.text, said.finish_reason, said.input_tokens) == ("", "content_filter", 3)
    with pytest.raises(Unreadable):
        read_answer("generate_content", json.dumps(parts[:-1]).encode(), streamed=False)


# ── errors ──


FAILED = {endpoint: speaking.failed(endpoint, 500, "No.", "oops") for endpoint in STREAMED}
OPENAIS = {"message": "No.", "type": "server_error", "param": None, "code": "oops"}
TOLD = {
    "chat": OPENAIS,
    "text_completion": OPENAIS,
    "responses": {"type": "error", "sequence_number": 999, "message": "No.", "param": None, "code": "oops"},
    "messages": {"type": "api_error", "message": "No."},
    "generate_content": {"code": 500, "message": "No.", "status": "INTERNAL"},
}


@each_streamed
def test_an_error_is_read_at_the_end_of_a_stream_and_nowhere_else(endpoint: str) -> None:
    begun, failed = b"".join(stream(endpoint)[:2]), FAILED[endpoint]
    assert read_error(begun + failed, streamed=True, endpoint=endpoint) == TOLD[endpoint]
    ended = stream(endpoint)[-1]
    for body in (begun, b"", begun + failed + ended, failed * 2, failed + begun):
        with pytest.raises(Unreadable):
            read_error(body, streamed=True, endpoint=endpoint)


@each
def test_a_refusal_is_read_in_the_words_of_its_format(endpoint: str) -> None:
    told = read_error(speaking.refused(endpoint, 429, "Wait.", "slow_down"), streamed=False, endpoint=endpoint)
    assert told["message"] == "Wait."
    wanted = {"messages": ("type", "rate_limit_error"), "count_tokens": ("type", "rate_limit_error")}
    wanted |= {"generate_content": ("status", "RESOURCE_EXHAUSTED"), "count_content": ("status", "RESOURCE_EXHAUSTED")}
    name, value = wanted.get(endpoint, ("code", "slow_down"))
    assert told[name] == value


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {"error": {"message": "No."}}),
        ("messages", {"error": {"type": "api_error", "message": "No."}}),
        ("messages", {"type": "error", "error": {"type": "server_error", "message": "No."}}),
        ("messages", {"type": "error", "error": {"type": "api_error"}}),
        ("messages", OPENAIS),
        ("generate_content", {"error": {"code": "500", "message": "No.", "status": "INTERNAL"}}),
        ("generate_content", {"error": {"code": 500, "message": "No.", "status": "server_error"}}),
        ("generate_content", {"error": OPENAIS}),
    ],
)
def test_an_error_in_another_formats_words_is_refused(endpoint: str, body: Any) -> None:
    with pytest.raises(Unreadable):
        read_error(json.dumps(body).encode(), streamed=False, endpoint=endpoint)


# ── the comment with the cost ──

COMMENT = b': muxx {"cost": "0.1", "request_id": "req_1", "usage": null}\n\n'


@each_streamed
def test_the_comment_stands_right_before_the_last_event_once_and_never_at_googles(endpoint: str) -> None:
    events = stream(endpoint)
    before, last = b"".join(events[:-1]), events[-1]
    assert read_comment(endpoint, before + last) is None
    wrong = [COMMENT + before + last, before + last + COMMENT, before + COMMENT * 2 + last, before + b": muxx {}\n\n" + last]
    if endpoint == "generate_content":
        wrong.append(before + COMMENT + last)
    else:
        assert read_comment(endpoint, before + COMMENT + last) == {"cost": "0.1", "request_id": "req_1", "usage": None}
        assert read_comment(endpoint, b": PROCESSING\n\n" + before + last) is None
        assert is_whole(endpoint, before + COMMENT + last)
    for body in wrong:
        with pytest.raises(Unreadable):
            read_comment(endpoint, body)


# ── where an endpoint is ──


@each
@pytest.mark.parametrize("base", ["", "https://provider.test/v1", "https://provider.test/v1beta/openai"])
def test_an_endpoint_is_known_by_its_address_at_muxx_and_at_any_provider(endpoint: str, base: str) -> None:
    for streams in (False, True) if endpoint in STREAMED else (False,):
        target = request_target(endpoint, "some/model-1", stream=streams)
        url = base + target if not base else base + target.removeprefix("/v1beta").removeprefix("/v1")
        assert endpoint_at(url) == endpoint
        in_path = "{model}" in ENDPOINTS[endpoint]
        body = {} if in_path else {"model": "some/model-1", "stream": streams}
        assert asks_for_stream(url, body) is streams
        assert model_asked(url, body) == "some/model-1"
        assert ("some%2Fmodel-1" in url) is in_path
    assert endpoint_at("https://provider.test/anything") == "chat"


@pytest.mark.parametrize("said", [TALK, Said("a", "b")])
def test_a_completion_cannot_say_more_than_text(said: Said) -> None:
    with pytest.raises(ValueError, match="text and nothing else"):
        speaking.plain("text_completion", said, "gpt-4o")


def asking_for_usage(endpoint: str, streams: bool) -> dict[str, Any]:
    """Where that has to be asked."""
    return {"stream_options": {"include_usage": True}} if streams and endpoint in ("chat", "text_completion") else {}


@each
async def test_a_scripted_upstream_answers_every_endpoint_without_a_script(endpoint: str) -> None:
    async with RunningGateway() as gateway:
        for streams in (False, True) if endpoint in STREAMED else (False,):
            response = await gateway.ask(endpoint, stream=streams, **asking_for_usage(endpoint, streams))
            said = response.said(endpoint)
            assert said.vectors if endpoint == "embeddings" else said.text == ("Hello there." if endpoint in STREAMED else "")
            assert said.input_tokens == 10
            assert response.streamed is streams
            assert endpoint_at(gateway.upstream.last.target) == endpoint
            assert (gateway.upstream.last.model or "").startswith(model_for(endpoint))
            assert (await gateway.get_row(response.request_id))["model_requested"] == model_for(endpoint)


@each_streamed
async def test_a_scripted_upstream_says_and_refuses_what_it_is_told_to_in_every_format(endpoint: str) -> None:
    async with RunningGateway() as gateway:
        gateway.upstream.says("First.", EACH[endpoint])
        assert (await gateway.ask(endpoint)).said(endpoint).text == "First."
        for streams in (False, True):
            response = await gateway.ask(endpoint, stream=streams, **asking_for_usage(endpoint, streams))
            assert response.said(endpoint) == EACH[endpoint]
        gateway.upstream.refuses(429, "Wait.", "slow_down", retry_after="1")
        for streams in (False, True):
            refused = await gateway.ask(endpoint, stream=streams)
            assert (refused.status, refused.header("retry-after"), refused.told(endpoint)["message"]) == (429, "1", "Wait.")


async def test_a_script_may_be_of_reasoning_tools_and_vectors() -> None:
    async with RunningGateway() as gateway:
        gateway.upstream.script(chat("Yes.", reasoning="Hm. Hm.", tools=[Tool("f", '{"a": 1}')]))
        for streams in (False, True):
            said = (await gateway.chat(stream=streams)).said()
            assert (said.text, said.reasoning, said.finish_reason) == ("Yes.", "Hm. Hm.", "tool_calls")
            assert said.tools == (Tool("f", '{"a": 1}'),)
        gateway.upstream.script(answer(Said("abc"), pieces=letters, model="other"))
        assert len((await gateway.chat(stream=True)).events) > 4
        assert (await gateway.chat()).json()["model"] == "other"
        gateway.upstream.script(embeddings([1, 2], [3, 4], input_tokens=7))
        said = (await gateway.ask("embeddings")).said("embeddings")
        assert (said.vectors, said.input_tokens) == (((1.0, 2.0), (3.0, 4.0)), 7)

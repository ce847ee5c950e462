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
    letters,
    read_answer,
    read_error,
    request_body,
    speaking,
    words,
)
from muxx.wire.wires import WIRES

TALK = Said("Grüß Gott, you 👋", "Let me think.", (Tool("f", '{"a": 1}', "call_1"), Tool("g", "{}", "call_2")), finish_reason="tool_calls")
EACH = {
    "chat": TALK,
    "text_completion": Said("upon a time", finish_reason="length"),
    "embeddings": Said(vectors=((0.5, -2.0), (1.0, 0.0)), finish_reason=None, output_tokens=None),
    "responses": TALK,
}
STREAMED = [name for name in EACH if name != "embeddings"]
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


@each
def test_muxx_reads_the_same_out_of_them(endpoint: str) -> None:
    wire, said = WIRES[ENDPOINTS[endpoint]], EACH[endpoint]
    facts = wire.read_plain(speaking.plain(endpoint, said, "gpt-4o"))
    assert facts.text == said.text
    assert facts.usage is not None
    assert (facts.usage.input_tokens, facts.usage.output_tokens) == (10, said.output_tokens or 0)
    kinds = {chunk.kind for chunk in wire.decode_plain(speaking.plain(endpoint, said, "gpt-4o"))}
    assert kinds >= ({"text", "reasoning", "tool_call", "end"} if said.tools else {"end"})


@each_streamed
def test_a_stream_without_any_one_of_its_last_events_is_refused(endpoint: str) -> None:
    events = stream(endpoint, usage=False)
    for number in (1, 2) if endpoint != "responses" else (1,):
        with pytest.raises(Unreadable):
            read_answer(endpoint, b"".join(events[:-number]), streamed=True)


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
    ],
)
def test_a_plain_answer_that_is_none_is_refused(endpoint: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_answer(endpoint, body, streamed=False)


def told(code: str = "oops") -> bytes:
    return json.dumps({"error": {"message": "No.", "type": "server_error", "param": None, "code": code}}).encode()


def test_an_error_is_read_plain_and_at_the_end_of_a_stream() -> None:
    begun = b"".join(stream("chat")[:2])
    assert read_error(told(), streamed=False)["code"] == "oops"
    assert read_error(begun + b"data: " + told() + b"\n\n", streamed=True)["code"] == "oops"
    failed = b'event: error\ndata: {"type": "error", "code": "oops", "message": "No.", "param": null}\n\n'
    assert read_error(b"".join(stream("responses")[:2]) + failed, streamed=True)["code"] == "oops"
    for body in (
        begun,
        b"",
        begun + b"data: " + told() + b"\n\ndata: [DONE]\n\n",
        (b"data: " + told() + b"\n\n") * 2,
        b"data: " + told() + b"\n\n" + begun,
    ):
        with pytest.raises(Unreadable):
            read_error(body, streamed=True)
    with pytest.raises(Unreadable):
        read_error(b'{"error": {"message": "No."}}', streamed=False)


@pytest.mark.parametrize("said", [TALK, Said("a", "b")])
def test_a_completion_cannot_say_more_than_text(said: Said) -> None:
    with pytest.raises(ValueError, match="text and nothing else"):
        speaking.plain("text_completion", said, "gpt-4o")


async def test_a_scripted_upstream_answers_every_endpoint_without_a_script() -> None:
    async with RunningGateway() as gateway:
        for endpoint, path in ENDPOINTS.items():
            for streams in (False, True):
                if streams and endpoint == "embeddings":
                    continue
                async with await gateway.connect() as client:
                    headers = {"X-Muxx-Api-Key": gateway.key}
                    body = request_body(endpoint, stream=streams) if endpoint != "embeddings" else request_body(endpoint)
                    await client.request("POST", path, headers, json.dumps(body).encode())
                    response = await client.read_response()
                said = response.said(endpoint)
                assert said.vectors if endpoint == "embeddings" else said.text == "Hello there."
                assert response.streamed is streams


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
        async with await gateway.connect() as client:
            body = json.dumps(request_body("embeddings")).encode()
            await client.request("POST", "/v1/embeddings", {"X-Muxx-Api-Key": gateway.key}, body)
            said = (await client.read_response()).said("embeddings")
        assert (said.vectors, said.input_tokens) == (((1.0, 2.0), (3.0, 4.0)), 7)

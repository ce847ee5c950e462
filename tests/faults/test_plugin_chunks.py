"""FAULTS P03 on every endpoint: whatever a chunk hook returns, the client gets an answer of its format or an error of its format."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from carrying_kit import ANSWER, STREAM, chunks_of, error_code, events_of, serving
from process_kit import forget_peak, peak
from wire.responses_judge import consistent, texts_of
from wires_kit import COMPLETIONS, EMBEDDINGS, RESPONSES, Endpoint, ask, less_comment, texts

from muxx import Chunk, Exchange, ToolCall, hookimpl
from muxx.chains import HELD_BACK_EVENTS
from muxx.testing import DONE, RawResponse, RunningGateway, Script, event, sse
from muxx.testing.answers import json as plain

pytestmark = pytest.mark.holds_the_loop

MIB = 2**20

CHAT = Endpoint(
    "chat",
    "/v1/chat/completions",
    {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]},
    orjson.dumps(ANSWER),
    {},
    STREAM,
)
STREAMED = [CHAT, COMPLETIONS, RESPONSES]
FORMS = [
    (CHAT, False),
    (CHAT, True),
    (COMPLETIONS, False),
    (COMPLETIONS, True),
    (EMBEDDINGS, False),
    (RESPONSES, False),
    (RESPONSES, True),
]

each_form = pytest.mark.parametrize(("endpoint", "stream"), FORMS, ids=lambda value: str(value))


def instead(make: Callable[[Chunk], Any], *, at_end: bool = False) -> type:
    """A plugin that returns something else for one Chunk: the `end`, or one in the middle of what is said."""

    class Instead:
        def __init__(self) -> None:
            self.said: Counter[str] = Counter()

        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> Any:
            speaks = bool(chunk.text or chunk.tool_call)
            self.said[exchange.id] += speaks
            middle = speaks and self.said[exchange.id] == (2 if exchange.request.stream else 1)
            silent = chunk.kind == "end" and not self.said[exchange.id]
            return make(chunk) if (chunk.kind == "end" if at_end else middle or silent) else None

    return Instead


def answer_of(endpoint: Endpoint, stream: bool) -> Script:
    return sse(endpoint.stream) if stream else plain(endpoint.plain)


async def answered(gateway: RunningGateway, endpoint: Endpoint, stream: bool) -> RawResponse:
    gateway.upstream.script(answer_of(endpoint, stream))
    return await ask(gateway, endpoint, stream)


def code_at_the_end(response: RawResponse, endpoint: Endpoint) -> str:
    """The code of the error event that ends a stream all of whose data is JSON."""
    assert response.complete
    assert response.header("content-type") == "text/event-stream"
    last = chunks_of(response.body)[-1]
    assert not response.body.endswith(DONE)
    return str(last["code"] if endpoint is RESPONSES else last["error"]["code"])


def endless(chunk: Chunk) -> Iterator[Chunk]:
    while True:
        yield Chunk("text", "x" * 2**16)


def endless_events(chunk: Chunk) -> Iterator[Chunk]:
    while True:
        yield Chunk("other", raw=event({"type": "house.event", "choices": [], "filling": "x" * MIB}))


def raising(chunk: Chunk) -> Iterator[Chunk]:
    yield chunk
    raise ValueError


REJECTED: dict[str, Callable[[Chunk], Any]] = {
    "100 MiB in one": lambda chunk: [Chunk("text", "x" * 100 * MIB)],
    "100 MiB of arguments": lambda chunk: [Chunk("tool_call", tool_call=ToolCall(0, "1", "f", "x" * 100 * MIB))],
    "100 MiB in an event": lambda chunk: [Chunk("other", raw=event({"choices": [], "filling": "x" * 100 * MIB}))],
    "no end of chunks": endless,
    "no end of events": endless_events,
    "a string": lambda chunk: "data: {}\n\n",
    "bytes": lambda chunk: b"data: {}\n\n",
    "a chunk by itself": lambda chunk: chunk,
    "None in a list": lambda chunk: [None],
    "true": lambda chunk: True,
    "half an event": lambda chunk: [Chunk("other", raw=b'data: {"choices": [')],
    "an event and a half": lambda chunk: [Chunk("other", raw=b'data: {"choices":[]}\n\ndata: {"choi')],
    "a generator that breaks": raising,
    "text that is no string": lambda chunk: [Chunk("text", b"bytes")],  # type: ignore[arg-type]
    "a lone surrogate": lambda chunk: [Chunk("text", "\ud800")],
    "a kind there is none of": lambda chunk: [Chunk("odd", "x")],  # type: ignore[arg-type]
    "an index that is no number": lambda chunk: [Chunk("text", "x", "0")],  # type: ignore[arg-type]
    "a finish reason that is no Unicode": lambda chunk: [Chunk("text", "x", finish_reason="\ud800")],
    "a call that is none": lambda chunk: [Chunk("tool_call", tool_call="f")],  # type: ignore[arg-type]
    "a name that is no Unicode": lambda chunk: [Chunk("tool_call", tool_call=ToolCall(0, "1", "\ud800", "{}"))],
    "arguments that are no string": lambda chunk: [Chunk("tool_call", tool_call=ToolCall(0, "1", "f", None))],  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("bad", REJECTED)
async def test_P03_what_cannot_be_chunks_is_plugin_error_at_every_endpoint(bad: str) -> None:
    async with serving(plugins={"instead": instead(REJECTED[bad])}) as gateway:
        for endpoint, stream in FORMS:
            response = await answered(gateway, endpoint, stream)
            if stream:
                assert code_at_the_end(response, endpoint) == "plugin_error", str(endpoint)
                assert len(response.body) < MIB, str(endpoint)
            else:
                assert (response.status, error_code(response)) == (500, "plugin_error"), str(endpoint)
            row = await gateway.get_row(response.request_id)
            assert (row["error_code"], row["ended_by"]) == ("plugin_error", "muxx"), f"{endpoint}, streamed: {stream}"


ODD_EVENTS = {
    "no JSON": b"data: nonsense\n\n",
    "JSON that is no object": b"data: 7\n\n",
    "a second event that is none": b'data: {"choices":[]}\n\ndata: nonsense\n\n',
    "an event without data": b"id: 7\n\n",
    "an empty event": b"\n\n",
    "a comment": b": hello\n\n",
    "an event in two lines of data": b'data: {"type":"house.event","choices":\ndata: []}\n\n',
    "done": DONE,
    "done and more": DONE + b'data: {"choices":[]}\n\n',
    "a name and no data": b"event: response.completed\n\n",
}
"""Bytes that end as an event does, and are none of this answer."""


@pytest.mark.parametrize("odd", ODD_EVENTS)
async def test_P03_bytes_that_are_no_event_of_the_answer_break_no_stream(odd: str) -> None:
    """They are refused, or left out, or harmless: the client can read every event, and what is whole says all that it should."""
    hook = instead(lambda chunk: [Chunk("other", raw=ODD_EVENTS[odd]), chunk])
    async with serving(plugins={"instead": hook}) as gateway:
        for endpoint in STREAMED:
            response = await answered(gateway, endpoint, True)
            row = await gateway.get_row(response.request_id)
            read = [data for raw, data in events_of(response.body) if not raw.startswith(b":")]
            assert all(read), f"{endpoint}: an SDK dies of events without data"
            assert row["error_code"] in (None, "plugin_error"), str(endpoint)
            if row["error_code"] is None:
                assert words(whole_stream(response, endpoint), endpoint) == words(endpoint.stream, endpoint), str(endpoint)
            else:
                assert code_at_the_end(response, endpoint) == "plugin_error", str(endpoint)


def whole_stream(response: RawResponse, endpoint: Endpoint) -> bytes:
    """The stream without its comment, after a look at its end: it has one, and nothing follows."""
    last = response.body[response.body.rindex(b"event: ") :] if endpoint is RESPONSES else DONE
    body = less_comment(response, last)
    if endpoint is RESPONSES:
        assert consistent(body)
    else:
        assert body.count(DONE) == 1
    return body


def words(body: bytes, endpoint: Endpoint) -> Any:
    """All that a stream says: for Responses, what its pieces say, which `consistent` holds against the repeats."""
    if endpoint is RESPONSES:
        return texts_of(body)[0]
    choices = [choice for chunk in chunks_of(body) for choice in chunk["choices"]]
    return "".join(choice["text"] if endpoint is COMPLETIONS else choice["delta"].get("content") or "" for choice in choices)


ENDS: dict[str, Callable[[Chunk], Any]] = {
    "nothing": lambda chunk: [],
    "done as an event": lambda chunk: [Chunk("other", raw=DONE)],
    "done as its bytes": lambda chunk: [replace(chunk, raw=DONE)],
    "an end of its own": lambda chunk: [Chunk("end")],
    "an end without bytes": lambda chunk: [replace(chunk, raw=None)],
    "two ends": lambda chunk: [chunk, chunk],
    "an end and more": lambda chunk: [chunk, Chunk("text", "more"), Chunk("other", raw=DONE)],
    "half an event": lambda chunk: [replace(chunk, raw=b"data: [DONE")],
    "a number": lambda chunk: 7,
    "an end that is no text": lambda chunk: [Chunk("end", finish_reason=7)],  # type: ignore[arg-type]
}
"""What a plugin puts in the place of the `end`."""


@pytest.mark.parametrize("end", ENDS)
async def test_P03_whatever_stands_for_the_end_an_answer_ends_once_or_with_an_error(end: str) -> None:
    async with serving(plugins={"instead": instead(ENDS[end], at_end=True)}) as gateway:
        for endpoint, stream in FORMS:
            response = await answered(gateway, endpoint, stream)
            row = await gateway.get_row(response.request_id)
            assert row["error_code"] in (None, "plugin_error"), f"{endpoint}, streamed: {stream}"
            if row["error_code"] is not None:
                code = code_at_the_end(response, endpoint) if stream else error_code(response)
                assert (response.status, code) == (200 if stream else 500, "plugin_error"), f"{endpoint}, streamed: {stream}"
            elif stream:
                assert words(whole_stream(response, endpoint), endpoint) == words(endpoint.stream, endpoint), str(endpoint)
            else:
                assert response.status == 200, str(endpoint)
                assert sorted(texts(response.json())) == sorted(texts(orjson.loads(endpoint.plain))), str(endpoint)


@each_form
@pytest.mark.parametrize("bad", ["100 MiB in one", "no end of chunks", "no end of events"])
async def test_P03_what_is_too_much_takes_no_more_memory_than_the_plugin_itself(
    endpoint: Endpoint, stream: bool, bad: str
) -> None:
    async with serving(plugins={"instead": instead(REJECTED[bad])}) as gateway:
        await answered(gateway, endpoint, stream)
        gc.collect()
        forget_peak()
        before = peak()
        responses = [await answered(gateway, endpoint, stream) for _ in range(3)]
        grown = peak() - before
    assert all(b"plugin_error" in response.body for response in responses)
    allowed = {"100 MiB in one": 100, "no end of chunks": 16, "no end of events": HELD_BACK_EVENTS * 16}
    assert grown < (allowed[bad] + 40) * MIB


class HalfAnEvent:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> Any:
        return [Chunk("other", raw=b'data: {"choices":[],"a":1}\r\n'), chunk] if chunk.kind == "text" else None


async def test_P03_one_crlf_ends_no_event() -> None:
    async with serving(plugins={"half": HalfAnEvent}) as gateway:
        gateway.upstream.script(sse(STREAM))
        assert '"code":"plugin_error"' in (await gateway.chat(stream=True)).text

"""Answers of providers that cut a character in two: each half is a JSON escape of its own, which orjson refuses to read.

Natively such an answer passes as it came. Whoever reads what it says, or gets it in another format, is told whole characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from cache_kit import ROOM
from carrying_kit import events_of, serving
from test_crossing_carried import speaking
from wires_kit import less_comment

from muxx import Chunk, Exchange, StateKey, TextWindow, hookimpl
from muxx.testing import DONE, RawResponse, RunningGateway, event, pause, sse
from muxx.testing.answers import json as plain
from muxx.testing.asking import model_for
from muxx.testing.reading import read_answer
from muxx.testing.said import Said, Tool
from muxx.testing.speaking import plain as written
from muxx.testing.speaking import streamed
from muxx.wire.wires import BY_NAME

FORMATS = ("chat", "responses", "messages", "generate_content")
PAIRS = [(called, up) for called in FORMATS for up in FORMATS]
both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
each_pair = pytest.mark.parametrize(("called", "up"), PAIRS)
each_format = pytest.mark.parametrize("up", FORMATS)

FIRST, SECOND = "<1>", "<2>"
"""Stand for the halves of a character where an answer is made, and for a character where both are there."""

ASKED = Said("Hi <1><2>! <1> b<2>. <1><2><1><2> <1>", "Hm <1><2>", (Tool("look", '{"at":"<1><2>"}'),), finish_reason="tool_calls")
"""Two of its halves stand alone, and one more where its text ends."""


def cut(text: str) -> list[str]:
    """Pieces that end between halves, and everywhere else that one may."""
    return [piece for piece in re.split(r"(?<=<1>)|(?<= )", text) if piece]


def halved(data: bytes) -> bytes:
    return data.replace(b"<1>", rb"\ud83d").replace(b"<2>", rb"\uDE00")


def whole(text: str) -> str:
    return re.sub("<.>", "\ufffd", text.replace("<1><2>", "\N{GRINNING FACE}"))


TOLD = Said(whole(ASKED.text), whole(ASKED.reasoning), (Tool("look", whole('{"at":"<1><2>"}')),), finish_reason="tool_calls")


def answer(up: str, stream: bool, said: Said = ASKED) -> bytes:
    model = model_for(up)
    return halved(b"".join(streamed(up, said, model, pieces=cut)) if stream else written(up, said, model))


def give(gateway: RunningGateway, up: str, stream: bool, said: Said = ASKED) -> bytes:
    """Script the answer; its bytes."""
    data = answer(up, stream, said)
    gateway.upstream.script(sse(chunks=[raw for raw, _ in events_of(data)]) if stream else plain(data))
    return data


async def ask(gateway: RunningGateway, called: str, up: str, stream: bool) -> RawResponse:
    members = {"stream_options": {"include_usage": True}} if stream and called == "chat" else {}
    return await gateway.ask(called, model=model_for(up), stream=stream, **members)


def same(told: Said, expected: Said = TOLD) -> bool:
    """What both say is the same, whatever their calls' ids are and whether the format has reasoning to tell."""
    calls = [[(tool.name, orjson.loads(tool.arguments)) for tool in said.tools] for said in (told, expected)]
    words = (told.text, told.finish_reason, told.output_tokens) == (expected.text, expected.finish_reason, expected.output_tokens)
    return words and told.reasoning in ("", expected.reasoning) and calls[0] == calls[1]


class Looks:
    """A plugin that only looks, at whole characters."""

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
        for text in (chunk.text, chunk.tool_call.arguments if chunk.tool_call else ""):
            text.encode()


class Hides:
    """A plugin that hides the faces behind a window."""

    KEY: StateKey[TextWindow] = StateKey("hides.window")

    @hookimpl
    async def on_chunk(self, exchange: Exchange, chunk: Chunk) -> list[Chunk] | None:
        if self.KEY not in exchange.state:
            exchange.state[self.KEY] = TextWindow.sub(re.compile("\N{GRINNING FACE}"), "(face)", hold=8)
        return exchange.state[self.KEY].feed(chunk)


@both
@each_format
async def test_natively_an_answer_with_halves_passes_as_it_came_and_is_known_for_what_it_is(up: str, stream: bool) -> None:
    async with serving(config=speaking(BY_NAME[up])) as gateway:
        data = give(gateway, up, stream)
        response = await ask(gateway, up, up, stream)
        commented = stream and up != "generate_content"
        assert (less_comment(response, events_of(data)[-1][0]) if commented else response.body) == data
        row = await gateway.get_row(response.request_id)
        assert (row["status"], row["error_code"], row["usage_source"], row["output_tokens"]) == (200, None, "provider", 5)
        assert row["finish_reasons"] == ["tool_calls"]
        assert same(read_answer(up, orjson.dumps(row["output"]), streamed=False))


READ = [(*pair, plugin) for pair in PAIRS for plugin in (None, Looks, Hides) if plugin or pair[0] != pair[1]]
"""Natively and without a plugin nobody reads it."""


@both
@pytest.mark.parametrize(("called", "up", "plugin"), READ)
async def test_whoever_reads_an_answer_with_halves_is_told_whole_characters(
    called: str, up: str, stream: bool, plugin: type | None
) -> None:
    async with serving(config=speaking(BY_NAME[up]), plugins={"plugin": plugin} if plugin else {}) as gateway:
        give(gateway, up, stream)
        response = await ask(gateway, called, up, stream)
        expected = _hidden(TOLD) if plugin is Hides else TOLD
        assert same(read_answer(called, response.body, streamed=stream), expected), response.text
        row = await gateway.get_row(response.request_id)
        assert (row["status"], row["error_code"], row["output_tokens"]) == (200, None, 5)
        assert same(read_answer(called, orjson.dumps(row["output"]), streamed=False), expected)


def _hidden(said: Said) -> Said:
    tools = tuple(Tool(tool.name, tool.arguments.replace("\N{GRINNING FACE}", "(face)"), tool.id) for tool in said.tools)
    text, reasoning = (text.replace("\N{GRINNING FACE}", "(face)") for text in (said.text, said.reasoning))
    return Said(text, reasoning, tools, finish_reason=said.finish_reason)


@both
@each_pair
async def test_a_cached_answer_with_halves_is_given_in_the_other_form(called: str, up: str, stream: bool) -> None:
    config: Mapping[str, Any] = {**speaking(BY_NAME[up]), **ROOM}
    async with serving(config=config) as gateway:
        data = give(gateway, up, stream)
        await ask(gateway, called, up, stream)
        again = await ask(gateway, called, up, stream)
        assert again.header("x-muxx-cache") == "HIT"
        if called == up and not stream:
            assert again.body == data
        response = await ask(gateway, called, up, not stream)
        assert response.header("x-muxx-cache") == "HIT"
        assert same(read_answer(called, response.body, streamed=not stream)), response.text
        assert same(read_answer(called, orjson.dumps((await gateway.get_row(response.request_id))["output"]), streamed=False))


@both
@each_format
async def test_a_half_that_is_the_last_of_an_answer_cut_short_becomes_a_replacement_character(up: str, stream: bool) -> None:
    said = Said("<1>", finish_reason="length")
    for called in FORMATS:
        async with serving(config=speaking(BY_NAME[up]), plugins={"looks": Looks} if called == up else {}) as gateway:
            give(gateway, up, stream, said)
            told = read_answer(called, (await ask(gateway, called, up, stream)).body, streamed=stream)
            assert (told.text, told.finish_reason) == ("\ufffd", "length")


async def test_halves_find_each_other_past_other_choices_and_pings_and_in_no_other_text() -> None:
    def piece(index: int, **delta: str) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": None}
        return halved(event({"id": "c", "created": 1, "model": "gpt-4o", "choices": [choice]}))

    pieces = [piece(0, content="a<1>"), piece(1, content="b<1>"), b": ping\n\n", piece(0, content="<2>c"), piece(1, content="<2>d")]
    pieces += [piece(0, content="e<1>"), piece(0, reasoning_content="<2>"), piece(0, content="<2>"), piece(1, content="<1>")]
    ends = [event({"id": "c", "choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]}) for at in (0, 1)]
    async with serving(plugins={"looks": Looks}) as gateway:
        gateway.upstream.script(sse(chunks=[*pieces, *ends, DONE]))
        response = await gateway.chat(stream=True, n=2)
        texts = ["", ""]
        for value in response.events:
            for choice in value["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == ["a\N{GRINNING FACE}ce\ufffd\ufffd", "b\N{GRINNING FACE}d\ufffd"]


@pytest.mark.parametrize("said", [b'{"choices":[NaN,"<1>"]}', b'{"a":"<1>"', b'["<1>"]', b'{"a":<1>}', b'{"<1>\0":1}', b"<1>"])
@both
async def test_what_is_no_json_besides_stays_a_protocol_error(said: bytes, stream: bool) -> None:
    async with serving() as gateway:
        for model in ("gpt-4o", "claude-3-5-haiku"):
            gateway.upstream.script(sse(b"data: " + halved(said) + b"\n\n") if stream else plain(halved(said)))
            response = await gateway.chat(model=model, stream=stream)
            assert (await gateway.get_row(response.request_id))["error_code"] == "upstream_protocol_error"


async def test_a_half_waits_for_no_end_that_does_not_come() -> None:
    async with serving(config={"server": {"between_events_timeout_s": 0.3}}, plugins={"looks": Looks}) as gateway:
        events = streamed("chat", Said("So ab<1>"), "gpt-4o", pieces=cut)[:3]
        gateway.upstream.script(sse(chunks=[halved(raw) for raw in events], end=pause(5)))
        response = await gateway.chat(stream=True)
        assert "".join(c["delta"].get("content", "") for v in response.events[:-1] for c in v["choices"]) == "So ab\ufffd"
        assert response.events[-1]["error"]["code"] == "upstream_timeout"

"""Answers of one format for clients of another, as the vendors' own SDKs read them before and after."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orjson import dumps
from thoroughness import examples, some

from muxx.errors import UpstreamError, UpstreamTruncated
from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.translating import whole_of_stream
from muxx.wire.seals import opened, sealed
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead, Wire
from muxx.wire.wires import CHAT, GENERATE_CONTENT

from . import anthropic_kit, gemini_kit, responses_kit
from .crossing_judges import JUDGES, Broken, Judged
from .crossing_kit import BY_PAIR, PAIRS, SHORT, Crossed, chat_event, crossed, crossed_whole, recorded
from .passing import objects, observed
from .recordings import GOLDENS
from .sdk import Told

each_pair = pytest.mark.parametrize("pair", BY_PAIR)

HAS_CHOICES = ("chat", "generate_content")
"""Formats whose answers may be several."""

HAS_REFUSALS = ("chat", "responses")
"""Formats with a place for a refusal of its own."""

FIELDS = ("reasoning_content", "reasoning")
"""What reasoning that nobody signed is signed with: the name of its field at its provider."""


@cache
def _said(up: Wire, name: str) -> Judged:
    """What a recording says."""
    return JUDGES[up.name](recorded(up)[name], strict=False)


def assert_same(up: Wire, called: Wire, before: Judged, after: Judged) -> None:
    """The client's SDK reads the same as the provider's own."""
    was, told = before.told, after.told
    refusal = was.refusal if called.name in HAS_REFUSALS else ""
    assert (told.text, told.refusal) == (was.text + was.refusal.removeprefix(refusal), refusal)
    assert told.reasoning == was.reasoning
    assert told.calls == was.calls
    assert told.finish == was.finish
    assert told.tokens == (was.tokens or ((0, 0) if called.name == "messages" else None))
    assert [given or new for given, new in zip(was.ids, told.ids, strict=True)] == told.ids
    assert len(set(told.ids)) == len(told.ids)
    assert "" not in told.ids
    assert_signed(up, called, was, told)
    assert after.lost <= {"choices"}


def lost_between(before: Judged, called: Wire) -> set[str]:
    """What of an answer has no counterpart in this format."""
    return before.lost - ({"choices"} if called.name in HAS_CHOICES else set())


def assert_signed(up: Wire, called: Wire, was: Told, told: Told) -> None:
    """What a provider wants back is where the client's format has a place for it, sealed."""
    values = [(kind, opened(up.format, signature)) for kind, signature in told.signatures]
    assert all(value for _, value in values)
    wanted = [(kind, value) for kind, value in was.signatures if kind != "text" or called.name != "messages"]
    if up.name == "chat":
        entries = [(kind, value) for kind, value in values if value not in FIELDS]
        assert len(entries) == len(wanted)
        assert all(kind == other and value in str(entry) for (kind, value), (other, entry) in zip(wanted, entries, strict=True))
    else:
        assert values == wanted


def assert_broken(called: Wire, answer: Crossed) -> None:
    """The client's SDK raises an error; nothing says that the answer is whole."""
    assert answer.error is not None
    for strict in (True, False):
        with pytest.raises(Broken):
            JUDGES[called.name](answer.data, strict=strict)
    for end in (b"[DONE]", b'"response.completed"', b'"response.incomplete"', b"message_stop", b'"finishReason"'):
        assert end not in answer.data


# Recordings.


@each_pair
async def test_every_recording_says_the_same_to_a_client_of_another_format(pair: str) -> None:
    up, called = BY_PAIR[pair]
    for name, data in some(recorded(up).items(), least=8):
        answer = await crossed(up, called, [data])
        before = _said(up, name)
        assert answer.error is None, name
        assert_same(up, called, before, JUDGES[called.name](answer.data, strict=True))
        assert answer.lost == lost_between(before, called), name


@each_pair
def test_every_recording_as_a_plain_answer_says_the_same_to_a_client_of_another_format(pair: str) -> None:
    up, called = BY_PAIR[pair]
    for name, data in some(recorded(up).items(), least=8):
        body = dumps(up.assembled(observed(up, [data])[0]))
        before = JUDGES[up.name](body, strict=False, stream=False)
        out, lost = crossed_whole(up, called, body)
        assert_same(up, called, before, JUDGES[called.name](out, strict=True, stream=False))
        assert lost == lost_between(before, called), name


@each_pair
def test_a_recording_kept_as_a_stream_says_the_same_when_it_is_given_plain(pair: str) -> None:
    up, called = BY_PAIR[pair]
    for name, data in recorded(up).items():
        chunks = whole_of_stream(up, EventSplitter(1 << 24).feed(data), called)
        body = called.encode_answer(chunks, AnswerHead("id_1", "m", 1))
        assert_same(up, called, _said(up, name), JUDGES[called.name](body, strict=True, stream=False))


async def test_every_recording_past_hooks_is_the_same_to_the_byte_as_without_in_one_other_format_by_seed() -> None:
    async def hooks(chunk: Any) -> list[Any]:
        return [chunk]

    for seed, (up, called, data) in enumerate(_each_recording_once()):
        assert (await crossed(up, called, [data], hooks=hooks)).data == (await crossed(up, called, [data])).data, seed


def _each_recording_once() -> list[tuple[Wire, Wire, bytes]]:
    """Every recording with one of the formats it may cross to, drawn by seed."""
    dice = random.Random(4)
    ups = {up.name: up for up, _ in PAIRS}
    found = []
    for up in ups.values():
        others = [called for other, called in PAIRS if other is up]
        found += [(up, dice.choice(others), data) for data in recorded(up).values()]
    return some(found, least=8)


# Answers that break off, and errors.


def _events(data: bytes) -> list[bytes]:
    return [raw for raw, _ in EventSplitter(1 << 24).feed(data)]


BROKEN = 0.8
"""Of streams that are cut somewhere at least this share is not whole: the others end in events nobody needs."""


async def test_every_recording_cut_at_one_place_by_seed_is_broken_where_its_own_sdk_finds_no_end() -> None:
    broken, each = 0, _each_recording_once()
    for seed, (up, called, data) in enumerate(each):
        at = random.Random(seed).randrange(len(data) - 1)
        events, whole = _events(data), b""
        for event in events:
            if len(whole) + len(event) > at:
                break
            whole += event
        answer = await crossed(up, called, [data[:at]])
        try:
            before = JUDGES[up.name](whole, strict=False)
        except Broken:
            broken += 1
            assert isinstance(answer.error, UpstreamTruncated), seed
            assert_broken(called, answer)
        else:
            assert answer.error is None, seed
            assert_same(up, called, before, JUDGES[called.name](answer.data, strict=True))
    assert broken > len(each) * BROKEN


@each_pair
async def test_a_short_stream_cut_behind_any_event_is_broken_where_its_own_sdk_finds_no_end(pair: str) -> None:
    up, called = BY_PAIR[pair]
    events = _events(SHORT[up.name])
    for count in range(1, len(events)):
        came = b"".join(events[:count])
        answer = await crossed(up, called, [came])
        try:
            before = JUDGES[up.name](came, strict=False)
        except Broken:
            assert_broken(called, answer)
        else:
            assert up.name in ("chat", "generate_content")
            assert answer.error is None
            assert_same(up, called, before, JUDGES[called.name](answer.data, strict=True))


FAILURES: dict[str, Callable[[], bytes]] = {
    "chat": lambda: _event({"error": {"message": "no luck", "type": "server_error", "param": None, "code": "too_busy"}}),
    "responses": lambda: responses_kit.event("error", 9, code="too_busy", message="no luck", param=None),
    "messages": lambda: anthropic_kit.event({"type": "error", "error": {"type": "too_busy", "message": "no luck"}}),
    "generate_content": lambda: _event({"error": {"code": 503, "message": "no luck", "status": "too_busy"}}),
}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def test_every_recording_with_an_error_at_one_place_by_seed_ends_with_that_error() -> None:
    for seed, (up, called, data) in enumerate(_each_recording_once()):
        events = _events(data)
        at = random.Random(seed).randint(1, max(1, len(events) - 3))
        before = b"".join(events[:at])
        if observed(up, [before])[0].finished:
            continue
        answer = await crossed(up, called, [before, FAILURES[up.name](), *events[at:]])
        assert_broken(called, answer)
        assert isinstance(answer.error, UpstreamError)
        assert (answer.error.code, answer.error.message) == ("too_busy", "no luck")
        assert b"no luck" in answer.data


# Answers of every shape.


@st.composite
def answers(draw: Any) -> list[Chunk]:
    """Reasoning, text and calls in any order and any pieces, as one choice says them."""
    chunks: list[Chunk] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call"]), max_size=6)):
        if kind == "call":
            arguments = json.dumps(draw(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)))
            at = draw(st.integers(0, len(arguments)))
            begun = ToolCall(calls, f"call_{calls}", draw(st.sampled_from(["f", "g"])))
            rest = [ToolCall(calls, arguments=piece) for piece in (arguments[:at], arguments[at:]) if piece]
            chunks += [Chunk("tool_call", tool_call=piece) for piece in (begun, *rest)]
            calls += 1
        else:
            chunks += [Chunk(kind, piece) for piece in draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3))]
    reason = draw(st.sampled_from(["stop", "length", "content_filter"]))
    usage = Usage(draw(st.integers(0, 99)), draw(st.integers(0, 99)), source="provider")
    return [*chunks, Chunk("end", finish_reason="tool_calls" if calls and reason == "stop" else reason, usage=usage)]


@each_pair
@settings(deadline=None, max_examples=examples(25))
@given(chunks=answers())
def test_an_answer_of_any_shape_says_the_same_in_the_other_format_and_back_in_its_own(pair: str, chunks: list[Chunk]) -> None:
    up, called = BY_PAIR[pair]
    codec = up.codec(AnswerHead("id_1", "m", 1), True)
    data = codec.encode(chunks) + codec.last()
    before = JUDGES[up.name](data, strict=True)
    there = asyncio.run(crossed(up, called, [data])).data
    after = JUDGES[called.name](there, strict=True)
    back = JUDGES[up.name](asyncio.run(crossed(called, up, [there])).data, strict=True)
    for told in (after.told, back.told):
        assert replace(told, signatures=[]) == before.told


@pytest.mark.parametrize("pair", [pair for pair in BY_PAIR if not pair.startswith("generate_content")])  # its calls are whole
@pytest.mark.parametrize("begun", ['{"city": "Gr', "{"])
async def test_a_call_cut_short_by_the_most_of_tokens_is_no_error(pair: str, begun: str) -> None:
    """Where a format has whole calls only, this one is left out."""
    up, called = BY_PAIR[pair]
    codec = up.codec(AnswerHead("id_1", "m", 1), True)
    call = [Chunk("tool_call", tool_call=ToolCall(0, "c", "f")), Chunk("tool_call", tool_call=ToolCall(0, arguments=begun))]
    data = codec.encode([Chunk("text", "So."), *call, Chunk("end", finish_reason="length", usage=Usage(1, 2))]) + codec.last()
    told = JUDGES[called.name]((await crossed(up, called, [data])).data, strict=True).told
    assert (told.text, told.finish, told.tokens) == ("So.", "length", (1, 2))
    assert [name for name, _ in told.calls] == ([] if called.name == "generate_content" else ["f"])


async def test_a_call_stays_whole_while_another_choice_is_written() -> None:
    """A provider writes all choices at once, so anything of another one may stand between two fragments of a call."""

    def said(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return chat_event({}, choices=[{"index": index, "delta": delta, "finish_reason": reason}])

    def called(index: int, arguments: str, **more: Any) -> bytes:
        return said(index, {"tool_calls": [{"index": 0, "function": {"arguments": arguments, **more}, **({"id": "c"} if more else {})}]})

    pieces = [
        *(called(0, "", name="f"), said(1, {"content": "So"}), called(0, '{"a":'), called(1, "", name="g")),
        *(said(2, {"content": "No"}), called(0, "1}"), called(1, '{"b":2}'), said(2, {"content": "."})),
        *(said(index, {}, "stop" if index == 2 else "tool_calls") for index in range(3)),
        b"data: [DONE]\n\n",
    ]
    answer = await crossed(CHAT, GENERATE_CONTENT, [b"".join(pieces)])
    parts: dict[int, list[Any]] = {}
    for candidate in (one for value in objects(answer.data) for one in value["candidates"]):
        parts.setdefault(candidate["index"], []).extend(part for part in candidate["content"]["parts"] if part != {"text": ""})
    assert [part["functionCall"] for part in parts[0]] == [{"id": "c", "name": "f", "args": {"a": 1}}]
    assert parts[1] == [{"text": "So"}, {"functionCall": {"id": "c", "name": "g", "args": {"b": 2}}}]
    assert parts[2] == [{"text": "No"}, {"text": "."}]


SMALL = {
    "chat": {name: data for name, data in GOLDENS.items() if name != "dialect"},  # OpenAI's SDK reads no event without data
    "responses": responses_kit.OWN,
    "messages": {name: data for name, data in anthropic_kit.OWN.items() if name != "unnamed"},  # Anthropic's goes by names
    "generate_content": gemini_kit.OWN,
}
"""Streams of our own making."""


@each_pair
async def test_a_small_stream_says_the_same_or_is_broken_for_both(pair: str) -> None:
    up, called = BY_PAIR[pair]
    for name, data in SMALL[up.name].items():
        answer = await crossed(up, called, [data])
        try:
            before = JUDGES[up.name](data, strict=False)
        except Broken:
            assert_broken(called, answer)
            continue
        assert answer.error is None, name
        assert_same(up, called, before, JUDGES[called.name](answer.data, strict=True))


def test_a_seal_holds_only_for_its_own_format() -> None:
    assert [opened(format, sealed("gemini", "c2ln")) for format in ("gemini", "openai", "anthropic")] == ["c2ln", None, None]

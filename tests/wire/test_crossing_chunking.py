"""However an answer comes in pieces, a client of another format gets the same bytes."""

from __future__ import annotations

import asyncio
import random
from itertools import accumulate, chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples, some

from muxx.reply import Chunk, ToolCall
from muxx.testing import DONE, event
from muxx.translating import Translator
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import BY_NAME, CHAT
from muxx.written import Written

from . import anthropic_kit
from .crossing_kit import BY_PAIR, SHORT, chat_event, crossed, recorded
from .recordings import cuts

each_pair = pytest.mark.parametrize("pair", BY_PAIR)

LARGEST = 60_000
"""Bytes of a recording that is cut: larger ones only take longer."""


@each_pair
async def test_a_short_stream_cut_at_every_offset_is_the_same(pair: str) -> None:
    up, called = BY_PAIR[pair]
    data = SHORT[up.name]
    whole = await crossed(up, called, [data])
    assert whole.error is None
    for at in some(range(1, len(data)), 0.1):
        assert (await crossed(up, called, [data[:at], data[at:]])).data == whole.data, at


@each_pair
async def test_the_smallest_recording_cut_at_every_offset_is_the_same(pair: str) -> None:
    up, called = BY_PAIR[pair]
    data = min(recorded(up).values(), key=len)
    whole = await crossed(up, called, [data])
    for at in some(range(1, len(data)), 0.1):
        assert (await crossed(up, called, [data[:at], data[at:]])).data == whole.data, at


@each_pair
async def test_a_short_stream_in_single_bytes_is_the_same(pair: str) -> None:
    up, called = BY_PAIR[pair]
    data = SHORT[up.name]
    assert (await crossed(up, called, [bytes([byte]) for byte in data])).data == (await crossed(up, called, [data])).data


@each_pair
async def test_a_piece_of_text_crosses_in_the_step_in_which_its_event_is_whole_and_nothing_is_taken_back(pair: str) -> None:
    up, called = BY_PAIR[pair]
    events = [raw for raw, _ in EventSplitter(1 << 24).feed(SHORT[up.name])]
    whole = (await crossed(up, called, events)).data
    seen = False
    for count in range(len(events)):
        before = (await crossed(up, called, events[:count])).before_end
        assert whole.startswith(before)
        assert ("👋".encode() in before) is seen
        seen = seen or any(wave in events[count] for wave in ("👋".encode(), b"\\ud83d\\udc4b"))
    assert seen


@each_pair
async def test_recordings_of_up_to_60_kb_in_pieces_drawn_by_seed_are_the_same(pair: str) -> None:
    up, called = BY_PAIR[pair]
    found = [(name, data) for name, data in recorded(up).items() if len(data) < LARGEST]
    for seed, (name, data) in enumerate(random.Random(pair).sample(found, min(15, len(found)))):
        whole, pieced = await crossed(up, called, [data]), await crossed(up, called, cuts(data, seed))
        assert (pieced.data, pieced.lost) == (whole.data, whole.lost), name


@each_pair
async def test_recordings_of_up_to_60_kb_event_by_event_and_two_by_two_are_the_same(pair: str) -> None:
    """Most of them are known by their likeness then, as in one piece, and none where each read ends within an event."""
    up, called = BY_PAIR[pair]
    for name, data in recorded(up).items():
        if len(data) < LARGEST:
            ends = list(accumulate(len(raw) for raw, _ in EventSplitter(1 << 24).feed(data)))
            parsed = await crossed(up, called, _cut_at(data, [end - 1 for end in ends]))
            for pieces in (_cut_at(data, ends), _cut_at(data, ends[::2]), [data]):
                pieced = await crossed(up, called, pieces)
                assert (pieced.data, pieced.lost) == (parsed.data, parsed.lost), name


def test_pieces_of_one_text_are_kept_as_one_chunk() -> None:
    written = Written()
    written.add([Chunk("text", "a "), Chunk("text", "b "), Chunk("reasoning", "c"), Chunk("text", "d", 1), Chunk("text", "e", 1)])
    written.add([Chunk("tool_call", tool_call=ToolCall(0, "call_1", "f")), *(Chunk("tool_call", tool_call=ToolCall(0, arguments=text)) for text in "{}")])
    assert [chunk.text or chunk.tool_call for chunk in written.chunks] == [
        "a b ", "c", "de", ToolCall(0, "call_1", "f"), ToolCall(0, arguments="{}"),
    ]  # fmt: skip


@each_pair
def test_pieces_of_a_text_are_kept_as_one_and_come_to_the_same_answer(pair: str) -> None:
    """What is kept of a translated stream for its row."""
    up, called = BY_PAIR[pair]
    for name, data in {**recorded(up), "short": SHORT[up.name]}.items():
        if len(data) >= LARGEST:
            continue
        written, apart = Written(), []
        head = AnswerHead("id", "model", 1)
        translator = Translator(up, called.codec(head, True), called)
        for one in EventSplitter(1 << 24).feed(data):
            chunks = translator.decode(one)
            written.add(chunks)
            apart += chunks
        assert called.encode_answer(written.chunks, head) == called.encode_answer(apart, head), name


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
CHAT_SAYS = [
    *(chat_event({"content": text}) for text in ("a", " b", "é")),
    *(chat_event({"content": None, "reasoning_content": text}) for text in ("Hm", ", well")),
    *(chat_event({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}) for text in ("{", "}")),
    chat_event({"content": "c", "reasoning_content": "and this"}),
    chat_event({"tool_calls": [CALL]}),
    chat_event({"content": "d"}).replace(b'"index": 0', b'"index": 1'),
    b": hm\n\n",
]
BLOCKS = [anthropic_kit.text(0, "a", " b", "é"), anthropic_kit.thinking(1, "Hm", ", well"), anthropic_kit.tool(2, "{", "}")]
MESSAGES_SAY = [anthropic_kit.event(one) for one in (*chain(*BLOCKS), anthropic_kit.PING)]
AROUND = {
    "chat": (CHAT_SAYS, b"", chat_event({}, "stop") + b"data: [DONE]\n\n"),
    "messages": (MESSAGES_SAY, anthropic_kit.event(anthropic_kit.START), anthropic_kit.stream(*anthropic_kit.ending())),
}
"""What a provider may say in any order, and what stands before and behind it."""


@pytest.mark.parametrize("pair", [pair for pair in BY_PAIR if pair.split()[0] in AROUND])
@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_in_whatever_order_it_is_said_what_is_known_by_its_likeness_comes_to_what_is_parsed(pair: str, data: st.DataObject) -> None:
    up, called = BY_PAIR[pair]
    say, before, behind = AROUND[up.name]
    events = [before, *data.draw(st.lists(st.sampled_from(say), max_size=40)), behind]
    stream, ends = b"".join(events), list(accumulate(map(len, events)))

    def outcome(pieces: list[bytes]) -> tuple[bytes, set[str], str | None]:
        got = asyncio.run(crossed(up, called, pieces))
        return got.data, got.lost, got.error and got.error.code

    parsed = outcome(_cut_at(stream, [end - 1 for end in ends if end]))
    assert outcome(_cut_at(stream, ends)) == outcome([stream]) == parsed


@pytest.mark.parametrize("called", ["messages", "responses", "generate_content"])
async def test_text_that_goes_on_after_a_thought_or_in_a_choice_that_is_over_is_the_same_event_by_event(called: str) -> None:
    """Text before it tells how text looks; what the thought is signed with still comes before the text behind it."""
    said = [
        {"index": index, "delta": delta, "finish_reason": reason}
        for index, delta, reason in [
            (0, {"content": "a"}, None),
            (0, {"content": "b"}, None),
            (0, {"reasoning_content": "thought"}, None),
            (0, {"content": "c"}, None),
            (1, {"content": "d"}, None),
            (1, {"content": "e"}, None),
            (1, {}, "stop"),
            (1, {"content": "f"}, None),
            (0, {}, "stop"),
        ]
    ]
    events = [event({"id": "c-1", "model": "m", "created": 1, "choices": [choice]}) for choice in said] + [DONE]
    data = b"".join(events)
    ends = list(accumulate(map(len, events)))
    parsed = await crossed(CHAT, BY_NAME[called], _cut_at(data, [end - 1 for end in ends]))
    assert (await crossed(CHAT, BY_NAME[called], events)).data == parsed.data


def _cut_at(data: bytes, places: list[int]) -> list[bytes]:
    return [piece for start, end in pairwise([0, *places, len(data)]) if (piece := data[start:end])]

"""Answers that came in another format, written as OpenAI's: OpenAI's own SDK reads what the Chunks say, streamed and plain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.openai import ChunkEncoder, decode_completion, encode_completion
from muxx.wire.responses import ResponseCodec, encode_response
from muxx.wire.wire import AnswerHead

from .passing import objects
from .responses_judge import accepted, consistent
from .sdk import Told, chat_plain, chat_stream, response_plain, response_stream, told

HEAD = AnswerHead("msg_1", "claude-x", 7)
END = Chunk("end", finish_reason="stop", usage=Usage(5, 6, source="provider"))


def chat(chunks: Iterable[Chunk], *, usage: bool = True) -> bytes:
    """The stream of these Chunks, each encoded as it comes."""
    encoder = ChunkEncoder(HEAD, include_usage=usage)
    return b"".join([encoder.encode([chunk]) for chunk in chunks]) + encoder.last()


def responses(chunks: Iterable[Chunk]) -> bytes:
    codec = ResponseCodec(HEAD)
    return b"".join([codec.encode([chunk]) for chunk in chunks]) + codec.last()


def call(number: int, *pieces: str, signature: str | None = None) -> list[Chunk]:
    """A call in fragments, the first of which may have arguments too."""
    first, *rest = pieces or ("",)
    begun = Chunk("tool_call", tool_call=ToolCall(number, f"c{number}", f"f{number}", first), signature=signature)
    return [begun, *(Chunk("tool_call", tool_call=ToolCall(number, arguments=piece)) for piece in rest)]


SIGNED = [Chunk("reasoning", "hm"), Chunk("reasoning", "m", signature="s1")]
LATER = [Chunk("reasoning", "hm"), Chunk("reasoning", signature="s1")]
HIDDEN = [Chunk("reasoning", signature="s2")]
TEXT = [Chunk("text", "Grüß "), Chunk("text", 'Gott "👋"\n')]

ANSWERS: dict[str, list[Chunk]] = {
    "text": TEXT,
    "nothing": [],
    "reasoning and text": [*SIGNED, *TEXT],
    "a signature that comes late": [*LATER, *TEXT],
    "reasoning nobody can read": [*HIDDEN, *HIDDEN, *TEXT],
    "thoughts between calls": [*LATER, *call(0, "{}"), *LATER, *HIDDEN, *call(1, "{}")],
    "reasoning without a signature": [Chunk("reasoning", "a"), Chunk("reasoning", "b"), *TEXT],
    "a call": call(0, "", '{"a":', "1}"),
    "calls and text between": [*TEXT, *call(0, '{"a":', "1}"), *call(1, "{}"), *TEXT, *call(2), *TEXT],
    "a signed call": [*call(0, '{"a":', "1}", signature="s3"), *call(1, "{}")],
    "a call signed late": [*call(0, "{}"), Chunk("tool_call", tool_call=ToolCall(0), signature="s4")],
    "a signed text": [*TEXT, Chunk("text", "!", signature="s5"), *call(0, "{}")],
    "a text signed late": [*TEXT, Chunk("text", signature="s5")],
    "a signed text of no words": [*call(0, "{}"), Chunk("text", signature="s5")],
    "a refusal": [Chunk("other", "I can"), Chunk("other", "not.")],
    "a refusal after text": [*TEXT, Chunk("other", "no"), *TEXT],
}
ENDS: dict[str, list[Chunk]] = {
    "at the end": [Chunk("end", finish_reason="length", usage=Usage(5, 6))],
    "before the end": [Chunk("other", finish_reason="content_filter"), Chunk("end", usage=Usage(5, 6))],
    "with no word": [Chunk("end", usage=Usage(5, 6))],
}
FORMATS: list[tuple[Callable[..., bytes], Callable[[bytes], Told]]] = [
    (chat, chat_stream),
    (responses, response_stream),
    (lambda chunks: encode_completion(chunks, HEAD), chat_plain),
    (lambda chunks: encode_response(chunks, HEAD), response_plain),
]


def expected(chunks: list[Chunk], *, in_response: bool) -> Told:
    says = told(chunks)
    if in_response:
        says.finish = says.finish if says.finish in ("length", "content_filter") else "tool_calls" if says.calls else "stop"
    says.finish = says.finish or "stop"
    return says


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(("write", "read"), FORMATS)
def test_the_sdk_reads_what_the_chunks_say(write: Any, read: Any, name: str, end: str) -> None:
    chunks = [*ANSWERS[name], *ENDS[end]]
    assert sort(read(write(chunks))) == sort(expected(chunks, in_response=read in (response_stream, response_plain)))


def sort(says: Told) -> Told:
    """Chat's messages have thoughts, text and calls, each in order; signatures of one kind stay in theirs."""
    says.signatures.sort(key=lambda signed: signed[0])
    return says


PIECES = st.one_of(
    st.tuples(st.sampled_from(["text", "reasoning", "other"]), st.text(max_size=3)),
    st.tuples(st.just("call"), st.lists(st.text(max_size=3), max_size=3)),
    st.tuples(st.just("signature"), st.sampled_from(["text", "reasoning", "tool_call"])),
)


def built(pieces: list[tuple[str, Any]]) -> list[Chunk]:
    """Any sequence that a reader may make."""
    chunks: list[Chunk] = []
    calls = 0
    for number, (kind, value) in enumerate(pieces):
        if kind == "call":
            chunks += call(calls, *value)
            calls += 1
        elif kind == "signature" and value == "tool_call":
            chunks += call(calls, "{}", signature=f"s{number}")
            calls += 1
        elif kind == "signature" and not (value == "text" and any(chunk.signature for chunk in chunks if chunk.kind == "text")):
            chunks.append(Chunk(value, signature=f"s{number}"))
        elif kind in ("text", "reasoning", "other"):
            chunks.append(Chunk(kind, value))  # type: ignore[arg-type]
    return [*chunks, END]


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_the_sdk_reads_any_sequence_another_format_makes(pieces: list[tuple[str, Any]]) -> None:
    for write, read in FORMATS:
        chunks = built(pieces)
        assert sort(read(write(chunks))) == sort(expected(chunks, in_response=read in (response_stream, response_plain)))


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12), st.integers(1, 5))
def test_it_is_the_same_stream_however_many_chunks_come_at_once(pieces: list[tuple[str, Any]], size: int) -> None:
    chunks = built(pieces)
    for write, codec in ((chat, ChunkEncoder(HEAD, include_usage=True)), (responses, ResponseCodec(HEAD))):
        together = [codec.encode(chunks[at : at + size]) for at in range(0, len(chunks), size)]
        assert b"".join(together) + codec.last() == write(chunks)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_a_response_of_fresh_chunks_is_one_that_any_client_can_follow(pieces: list[tuple[str, Any]]) -> None:
    out = responses(built(pieces))
    assert [event["sequence_number"] for event in consistent(out)] == list(range(len(objects(out))))
    assert accepted(out) == told(built(pieces)).text


def test_an_error_after_any_chunk_has_the_next_number() -> None:
    codec = ResponseCodec(HEAD)
    assert codec.next_number == 0
    sent = 0
    for chunk in [*ANSWERS["calls and text between"], END]:
        sent += len(objects(codec.encode([chunk])))
        assert codec.next_number == sent
    [terminal] = objects(codec.last())
    assert (terminal["sequence_number"], codec.next_number) == (sent, sent + 1)


def test_all_of_a_thought_stands_beside_its_signature() -> None:
    details = [
        {"type": "reasoning.text", "text": "hm", "signature": "s1", "index": 0},
        {"type": "reasoning.text", "text": "hm", "signature": "s1", "index": 1},
        {"type": "reasoning.encrypted", "data": "s2", "index": 2},
    ]
    chunks = [*ANSWERS["thoughts between calls"], END]
    assert json.loads(encode_completion(chunks, HEAD))["choices"][0]["message"]["reasoning_details"] == details
    deltas = [choice["delta"] for value in objects(chat(chunks)) for choice in value["choices"]]
    assert [entry for delta in deltas for entry in delta.get("reasoning_details", ())] == details


def test_a_signature_of_reasoning_is_at_the_end_of_its_item_and_in_the_terminal_event() -> None:
    events = objects(responses([*LATER, *TEXT, END]))
    [done] = [e["item"] for e in events if e["type"] == "response.output_item.done" and e["item"]["type"] == "reasoning"]
    assert (done["encrypted_content"], done["summary"][0]["text"]) == ("s1", "hm")
    assert events[-1]["response"]["output"][0] == done
    text = next(at for at, event in enumerate(events) if event["type"] == "response.output_text.delta")
    assert events.index(next(e for e in events if e.get("item") == done)) < text


def test_a_call_in_an_answer_that_was_cut_short_is_incomplete() -> None:
    *_, last = objects(responses([*call(0, '{"a'), Chunk("end", finish_reason="length")]))
    assert (last["type"], last["response"]["output"][0]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_usage_goes_only_to_a_chat_client_that_asked() -> None:
    assert chat_stream(chat([*TEXT, END], usage=False)).tokens is None


def test_a_plain_chat_answer_that_is_streamed_tells_its_usage_to_a_client_that_asked() -> None:
    body = encode_completion([*TEXT, END], HEAD)
    codec = ChunkEncoder(HEAD, include_usage=True)
    says = chat_stream(codec.encode(decode_completion(body)) + codec.last())
    assert says.tokens is not None
    assert says == chat_plain(body)


def test_a_choice_of_several_has_its_own_events() -> None:
    chunks = [Chunk("text", "a"), Chunk("text", "b", 1), Chunk("text", "c", 1), Chunk("text", "d"), END]
    deltas = [choice for value in objects(chat(chunks)) for choice in value["choices"]]
    assert [(d["index"], d["delta"]["content"]) for d in deltas if d["delta"]] == [(0, "a"), (1, "b"), (1, "c"), (0, "d")]
    assert [d["delta"].get("role") for d in deltas][:4] == ["assistant", "assistant", None, None]

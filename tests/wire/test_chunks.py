"""Chunks: what nobody touched leaves as the provider's bytes, what was changed changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.openai import (
    DONE_EVENT,
    ChatStream,
    ChunkEncoder,
    assembled,
    decode_completion,
    encode_completion,
    encode_plain,
    ended,
    read_completion,
)
from muxx.wire.sse import EventSplitter, data_of
from muxx.wire.wire import AnswerHead

from .recordings import GOLDENS, recordings

Hook = Callable[[Chunk], Iterable[Chunk] | None]
HEAD = AnswerHead("chatcmpl-mine", "mock", 1)


def through(data: bytes, hook: Hook, *, include_usage: bool = False) -> bytes:
    """A stream through a chunk hook, the way a relay does it."""
    stream = ChatStream(client_asked_usage=True)
    encoder = ChunkEncoder(stream, include_usage=include_usage)
    out = []
    for event in EventSplitter(1 << 24).feed(data):
        stream.observe(event)
        if event[1] is None:
            out.append(event[0])
            continue
        results: list[Chunk] = []
        for chunk in encoder.decode(event):
            replaced = hook(chunk)
            results += [chunk] if replaced is None else replaced
        out.append(encoder.encode(results))
        if any(chunk.kind == "end" for chunk in results):
            return b"".join(out) + DONE_EVENT
    return b"".join(out)


def encode_stream(chunks: list[Chunk], *, include_usage: bool = False) -> bytes:
    """A whole answer, as a relay sends it."""
    encoder = ChunkEncoder(HEAD, include_usage=include_usage)
    return encoder.encode(ended(chunks)) + encoder.last()


def answer_of(data: bytes) -> ChatStream:
    stream = ChatStream(client_asked_usage=True)
    for event in EventSplitter(1 << 24).feed(data):
        stream.observe(event)
    return stream


def objects(data: bytes) -> list[Any]:
    found = [payload for _, payload in EventSplitter(1 << 24).feed(data) if payload]
    return [json.loads(payload) for payload in found if payload != b"[DONE]"]


def shout(chunk: Chunk) -> Iterable[Chunk] | None:
    return [replace(chunk, text=chunk.text.upper())] if chunk.kind == "text" else None


@pytest.mark.parametrize("name", [name for name in GOLDENS if name != "error"])
@pytest.mark.parametrize("hook", [lambda chunk: None, lambda chunk: [chunk], lambda chunk: [replace(chunk)]])
def test_an_answer_nobody_touched_leaves_as_its_own_bytes(name: str, hook: Hook) -> None:
    own = GOLDENS[name].removesuffix(b"data: [DONE]\r\n\r\n")
    assert through(GOLDENS[name], hook).removesuffix(DONE_EVENT) == own.removesuffix(DONE_EVENT)


def test_every_recording_nobody_touched_leaves_as_its_own_bytes() -> None:
    for path in recordings():
        data = path.read_bytes()
        assert through(data, lambda chunk: [replace(chunk)]) == data


def test_every_recording_keeps_its_facts_when_its_text_is_changed() -> None:
    for path in recordings():
        before, after = answer_of(path.read_bytes()), answer_of(through(path.read_bytes(), shout))
        assert after.text == before.text.upper()
        assert (after.finish_reasons, after.usage, after.id) == (before.finish_reasons, before.usage, before.id)


def test_the_chunks_of_an_event_are_its_pieces_in_order() -> None:
    delta = {
        "role": "assistant",
        "reasoning_content": "r",
        "content": "t",
        "refusal": "n",
        "tool_calls": [{"index": 2, "id": "c", "function": {"name": "f", "arguments": "{"}}],
    }
    data = json.dumps(
        {
            "choices": [{"index": 1, "delta": delta, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    ).encode()
    raw = b"data: " + data + b"\n\n"
    decode_event = ChunkEncoder(HEAD).decode
    assert decode_event((raw, data)) == [
        Chunk("reasoning", "r", 1, raw=raw),
        Chunk("text", "t", 1, raw=raw),
        Chunk("other", "n", 1, raw=raw),
        Chunk("tool_call", index=1, tool_call=ToolCall(2, "c", "f", "{"), raw=raw),
        Chunk("other", index=1, finish_reason="stop", usage=Usage(1, 2, source="provider"), raw=raw),
    ]
    assert decode_event((b": hi\n\n", None)) == []
    [other] = decode_event((b'data: {"choices":[]}\n\n', b'{"choices":[]}'))
    assert (other.kind, other.text) == ("other", "")


def test_the_end_tells_usage_and_finish_reason() -> None:
    ends: list[Chunk] = []
    through(GOLDENS["plain"], lambda chunk: ends.append(chunk) if chunk.kind == "end" else None)  # type: ignore[func-returns-value]
    [end] = ends
    assert end.finish_reason == "stop"
    assert end.usage is not None
    assert end.usage.output_tokens == 5


def test_a_changed_text_changes_only_itself() -> None:
    before, after = objects(GOLDENS["plain"]), objects(through(GOLDENS["plain"], shout))
    for old, new in zip(before, after, strict=True):
        for choice in old["choices"]:
            if choice["delta"].get("content"):
                choice["delta"]["content"] = choice["delta"]["content"].upper()
        assert new == old


def test_a_chunk_changed_in_place_counts_as_changed() -> None:
    def hook(chunk: Chunk) -> None:
        if chunk.kind == "text":
            chunk.text = "*"

    assert answer_of(through(GOLDENS["plain"], hook)).text == "**"


def test_what_a_provider_repeats_does_not_give_a_changed_text_away() -> None:
    choice = {
        "index": 0,
        "delta": {"content": "secret", "reasoning": "hidden", "reasoning_details": [{"text": "hidden"}]},
        "text": "secret",
    }
    data = json.dumps({"id": "a", "choices": [{**choice, "logprobs": {"content": [{"token": "secret"}]}}]}).encode()

    def redact(chunk: Chunk) -> list[Chunk]:
        return [replace(chunk, text="***")]

    out = through(b"data: " + data + b"\n\n", redact)
    assert b"***" in out
    assert b"secret" not in out
    assert b"hidden" not in out


def test_a_dropped_piece_leaves_the_rest_of_its_event() -> None:
    finished, running = b'"delta":{"content":"x"},"finish_reason":"stop"', b'"delta":{"content":"y"},"finish_reason":null'
    data = b'data: {"choices":[{"index":0,%b},{"index":1,%b}]}\n\n' % (finished, running)
    out = through(data, lambda chunk: [] if chunk.kind == "text" else None)
    [only] = objects(out)
    assert only["choices"] == [{"index": 0, "delta": {"content": None}, "finish_reason": "stop"}]
    assert through(data, lambda chunk: []) == b""


def test_tool_calls_can_be_changed_and_dropped() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        call = chunk.tool_call
        if call is None:
            return None
        if call.index == 1:
            return []
        return [
            replace(
                chunk, tool_call=replace(call, name=call.name and "climate", arguments=call.arguments.replace("Graz", "Wien"))
            )
        ]

    [choice] = assembled(answer_of(through(GOLDENS["tools"], hook)))["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call == {"id": "call_a", "type": "function", "function": {"name": "climate", "arguments": '{"city":"Wien"}'}}


def test_a_text_held_back_and_split_arrives_whole_and_in_order() -> None:
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.kind == "text":
            held.append(chunk)
            return []
        if chunk.finish_reason and chunk.kind == "other":
            return [*(replace(chunk, text=letter) for chunk in held for letter in chunk.text), chunk]
        return None

    for name in ("plain", "cumulative", "two_choices"):
        before, after = answer_of(GOLDENS[name]), answer_of(through(GOLDENS[name], hook))
        assert after.text == before.text if name != "two_choices" else after.choices[0].text
        assert after.finish_reasons == before.finish_reasons
        held.clear()


def test_a_new_chunk_takes_its_head_from_the_stream() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        return [Chunk("text", "Note: "), chunk] if chunk.text.startswith("Grüß") else None

    out = through(GOLDENS["plain"], hook)
    assert answer_of(out).text == "Note: Grüß Gott 👋"
    new = objects(out)[1]
    assert (new["id"], new["model"], new["created"]) == ("chatcmpl-1", "gpt-4o-2024-08-06", 1700000000)
    assert new["choices"] == [{"index": 0, "delta": {"content": "Note: "}, "finish_reason": None}]


@pytest.mark.parametrize("derived", [False, True])
def test_an_early_end_finishes_the_answer_cleanly(derived: bool) -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        if not chunk.text.startswith("Gott"):
            return None
        end = replace(chunk, kind="end", text="") if derived else Chunk("end")
        return [replace(end, finish_reason="content_filter", usage=Usage(3, 2))]

    stream = answer_of(out := through(GOLDENS["plain"], hook, include_usage=True))
    assert out.endswith(DONE_EVENT)
    assert (stream.text, stream.finish_reasons) == ("Grüß ", {0: "content_filter"})
    assert stream.usage == Usage(3, 2, source="provider")


CHUNKS = [
    Chunk("reasoning", "hm"),
    Chunk("text", "Hello"),
    Chunk("text", " you"),
    Chunk("tool_call", tool_call=ToolCall(0, "c", "f", "{")),
    Chunk("tool_call", tool_call=ToolCall(0, arguments="}")),
    Chunk("text", "second", index=1),
    Chunk("end", finish_reason="tool_calls", usage=Usage(5, 6, source="provider")),
    Chunk("text", "after the end"),
]


def test_a_reply_of_chunks_is_the_same_answer_in_both_forms() -> None:
    streamed = encode_stream(CHUNKS, include_usage=True)
    plain = encode_completion(CHUNKS, HEAD)
    assert streamed.endswith(DONE_EVENT)
    assert assembled(answer_of(streamed)) == assembled(read_completion(plain)) == json.loads(plain)
    value = json.loads(plain)
    assert (value["id"], value["model"], value["created"]) == ("chatcmpl-mine", "mock", 1)
    assert [choice["finish_reason"] for choice in value["choices"]] == ["tool_calls", "tool_calls"]
    assert value["choices"][0]["message"]["content"] == "Hello you"
    assert value["usage"]["total_tokens"] == 11
    roles = [choice["delta"].get("role") for chunk in objects(streamed) for choice in chunk["choices"]]
    assert roles == ["assistant", None, None, None, None, "assistant", None, None]


def test_usage_goes_only_to_who_asked() -> None:
    assert answer_of(encode_stream(CHUNKS)).usage is None


@pytest.mark.parametrize("chunks", [[], [Chunk("end")], [Chunk("text", "x")]])
def test_even_the_shortest_reply_is_complete(chunks: list[Chunk]) -> None:
    stream = answer_of(encode_stream(chunks))
    assert stream.done
    assert stream.finish_reasons == {0: "stop"}
    assert read_completion(encode_completion(chunks, HEAD)).finish_reasons == {0: "stop"}


PLAIN = json.dumps(
    {
        "id": "a",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one", "extra": [1]},
                "logprobs": {"content": [{"token": "one"}]},
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {
                    "role": "assistant",
                    "content": "two",
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
                },
            },
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "vendor": True,
    }
).encode()


def test_a_plain_answer_nobody_touched_leaves_as_its_own_bytes() -> None:
    chunks = decode_completion(PLAIN)
    assert [(chunk.kind, chunk.index, chunk.text) for chunk in chunks] == [
        ("text", 0, "one"),
        ("other", 0, ""),
        ("text", 1, "two"),
        ("tool_call", 1, ""),
        ("end", 0, ""),
    ]
    assert encode_plain(PLAIN, [replace(chunk) for chunk in chunks]) is PLAIN


def test_a_changed_plain_answer_changes_only_what_was_changed() -> None:
    text, *rest = decode_completion(PLAIN)
    out = json.loads(encode_plain(PLAIN, [replace(text, text="o"), replace(text, text="NE"), *rest]))
    expected = json.loads(PLAIN)
    expected["choices"][0]["message"]["content"] = "oNE"
    expected["choices"][0]["logprobs"] = None
    expected["choices"][1]["finish_reason"] = "stop"
    assert out == expected


def test_a_plain_answer_can_be_ended_added_to_and_emptied() -> None:
    text, finish, *rest = decode_completion(PLAIN)
    ended = json.loads(encode_plain(PLAIN, [Chunk("end", finish_reason="content_filter"), *rest]))
    assert [choice["message"]["content"] for choice in ended["choices"]] == [None, None]
    assert [choice["finish_reason"] for choice in ended["choices"]] == ["content_filter"] * 2
    assert "tool_calls" not in ended["choices"][1]["message"]
    added = json.loads(encode_plain(PLAIN, [text, finish, Chunk("text", "three", index=2), Chunk("reasoning", "hm"), *rest]))
    assert added["choices"][2] == {"index": 2, "message": {"role": "assistant", "content": "three"}, "finish_reason": "stop"}
    assert added["choices"][0]["message"]["reasoning_content"] == "hm"
    assert added["vendor"] is True


def test_of_several_calls_of_a_plain_answer_each_may_be_taken_out_or_changed() -> None:
    """They have no numbers there but their places, which are those they came with."""
    calls = [{"id": f"call_{at}", "type": "function", "function": {"name": "f", "arguments": f'{{"a":{at}}}'}} for at in range(3)]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}).encode()
    first, second, third, *rest = decode_completion(body)

    def left(*chunks: Chunk) -> list[tuple[str, str]]:
        [choice] = json.loads(encode_plain(body, [*chunks, *rest]))["choices"]
        return [(call["id"], call["function"]["arguments"]) for call in choice["message"].get("tool_calls", ())]

    assert second.tool_call is not None
    changed = replace(second, tool_call=replace(second.tool_call, arguments="{}"))
    assert left(changed, third) == [("call_1", "{}"), ("call_2", '{"a":2}')]
    assert left(first, third) == [("call_0", '{"a":0}'), ("call_2", '{"a":2}')]
    assert left() == []


def test_the_event_of_a_changed_chunk_is_still_one_event() -> None:
    raw = b'event: x\r\ndata: {"choices":[{"index":0,\r\ndata: "delta":{"content":"a"}}]}\r\n\r\n'
    out = through(raw, shout)
    assert data_of(out) == b'{"choices":[{"index":0,"delta":{"content":"A"}}]}'

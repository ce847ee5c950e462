"""Answers of chat completions for clients of other formats: what providers say, in whatever dialect, in the order others need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import some

from muxx.errors import UpstreamError, UpstreamProtocolError, UpstreamTruncated
from muxx.reply import Chunk
from muxx.wire.openai import ChatReader, ChatStream, ChunkEncoder, assembled, read_answer
from muxx.wire.responses import ResponseCodec
from muxx.wire.wire import AnswerHead, Wire
from muxx.wire.wires import CHAT, GENERATE_CONTENT

from .passing import objects, observed
from .recordings import GOLDENS, recordings
from .sdk import Told, arguments, chat_stream, cut_at, reading, response_stream, told

HEAD = AnswerHead("chatcmpl-1", "m", 1)


def delta(more: dict[str, Any] | None = None, /, *, finish: str | None = None, **members: Any) -> dict[str, Any]:
    """An event of a stream: its first choice's delta; `more` are members of the event itself."""
    choice = {"index": 0, "delta": members, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **(more or {}),
    }


def fragment(index: Any = None, call_id: Any = None, name: Any = None, text: Any = None, **members: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", text)) if value is not None}
    call = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return delta(tool_calls=[{**call, "type": "function", "function": function, **members}])


def read(*events: dict[str, Any]) -> Told:
    reader = ChatReader()
    chunks = [chunk for event in events for chunk in reader.read(event)]
    return told([*chunks, reader.end()])


STOP = delta(finish="stop")


# What is said.


def test_a_piece_of_text_is_one_chunk() -> None:
    reader = ChatReader()
    events = [delta(role="assistant", content=""), delta(content="a"), delta(role="assistant", content="b"), delta(content="c")]
    assert [reader.read(event) for event in events] == [[], *([Chunk("text", text)] for text in "abc")]


def test_the_finish_reason_is_told_once_and_at_the_end() -> None:
    reader = ChatReader()
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    events = [delta(content="a"), delta(finish="length"), delta({"usage": usage}, finish="length", content="")]
    assert [chunk for event in events for chunk in reader.read(event)] == [Chunk("text", "a")]
    end = reader.end()
    assert (end.kind, end.finish_reason, end.usage and end.usage[:2]) == ("end", "length", (2, 3))


@pytest.mark.parametrize(
    ("said", "with_call", "reason"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("function_call", True, "tool_calls"),
        ("length", True, "length"),
        ("model_length", False, "length"),
        ("content_filter", False, "content_filter"),
        ("eos", False, "stop"),
        (None, True, "tool_calls"),
        (None, False, "stop"),
    ],
)
def test_finish_reasons_have_four_words(said: str | None, with_call: bool, reason: str) -> None:
    calls = [fragment(0, "c", "f", "{}")] if with_call else []
    assert read(delta(content="a"), *calls, delta(finish=said)).finish == reason


@pytest.mark.parametrize(
    "event",
    [{"error": {"message": "no"}}, delta({"error": "no"}, content="a"), delta(finish="error", content="a")],
)
def test_a_failure_inside_the_answer_is_an_error(event: dict[str, Any]) -> None:
    reader = ChatReader()
    reader.read(delta(content="a"))
    with pytest.raises(UpstreamError):
        reader.read(event)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}],
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}],
    ],
)
def test_a_content_of_parts_is_reasoning_and_text(content: list[Any]) -> None:
    says = read(delta(content=content), STOP)
    assert (says.reasoning, says.text) == ("hm", "a")


# Reasoning.


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("after", [delta(content="x"), fragment(0, "c", "f", "{}"), delta(refusal="no"), STOP])
def test_reasoning_is_signed_with_its_name_before_anything_follows(name: str, after: dict[str, Any]) -> None:
    reader = ChatReader()
    for event in (delta(**{name: "h"}), delta(content=None, **{name: "m"})):
        assert [chunk.kind for chunk in reader.read(event)] == ["reasoning"]
    first, *_ = reader.read(after)
    assert (first.kind, first.text, first.signature) == ("reasoning", "", name)
    assert not any(chunk.signature for chunk in reader.read(delta(content="y")))


def test_reasoning_under_several_names_is_said_once() -> None:
    details = [{"type": "reasoning.text", "text": "hm", "format": "x", "index": 0}]
    says = read(delta(reasoning="hm", reasoning_content="hm", reasoning_details=details), STOP)
    assert says.reasoning == "hm"


def test_details_that_are_signed_are_told_with_all_their_provider_wants_back() -> None:
    text = {"type": "reasoning.text", "text": "hm", "index": 0}
    signature = {"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1", "index": 0}
    hidden = {"type": "reasoning.encrypted", "data": "d", "index": 1}
    summary = {"type": "reasoning.summary", "summary": "so", "index": 2}
    says = read(*(delta(content="", reasoning_details=[entry]) for entry in (text, signature, hidden, summary)), STOP)
    assert says.reasoning == "hmso"
    assert [json.loads(value) for _, value in says.signatures] == [signature, hidden]


# Calls, in every dialect.


def test_a_call_is_told_as_it_comes() -> None:
    reader = ChatReader()
    events = [fragment(0, "c", "f", ""), fragment(0, text='{"a'), fragment(0, text='":1}')]
    told_ = [reader.read(event) for event in events]
    assert [len(chunks) for chunks in told_] == [1, 1, 1]
    calls = [chunk.tool_call for [chunk] in told_]
    assert [(c.id, c.name, c.arguments) for c in calls if c] == [("c", "f", ""), (None, None, '{"a'), (None, None, '":1}')]


TWO = [("f", {"a": 1}), ("g", {"b": 2})]


@pytest.mark.parametrize(
    "events",
    [
        [fragment(0, "x", "f", '{"a":'), fragment(0, text="1}"), fragment(1, "y", "g", '{"b":2}')],
        [fragment(0, "x", "f", '{"a":1}'), fragment(0, "y", "g", '{"b":2}')],
        [fragment(None, "x", "f", '{"a":1}'), fragment(None, "y", "g", '{"b":2}')],
        [delta(tool_calls=[fragment(i, c, n, t)["choices"][0]["delta"]["tool_calls"][0] for i, c, n, t in every])
         for every in [[(0, "x", "f", '{"a":1}'), (0, "y", "g", '{"b":2}')]]],
        [fragment(0, "x", "f", '{"a":'), fragment(0, "x", "f", "1}"), fragment(1, "y", "g", '{"b":2}')],
        [fragment(0, "x", "f", '{"a":'), fragment(1, "y", "g", '{"b":'), fragment(0, text="1}"), fragment(1, text="2}")],
        [fragment(0, "x"), fragment(0, name="f"), fragment(0, text='{"a":1}'), fragment(1, "y", "g", '{"b":2}')],
        [fragment(0, "", "f", '{"a":1}'), fragment(0, "", "g", '{"b":2}')],
        [fragment(0, None, "f", '{"a":1}'), fragment(1, None, "g", '{"b":2}')],
        [fragment(0, "x", "f", {"a": 1}), fragment(1, "y", "g", {"b": 2})],
        [fragment(3, "x", "f", '{"a":1}'), fragment(7, "y", "g", '{"b":2}')],
    ],
)  # fmt: skip
def test_two_calls_are_two_calls_one_after_the_other(events: list[dict[str, Any]]) -> None:
    says = read(*events, delta(finish="tool_calls"))
    assert says.calls == TWO
    assert len(set(says.ids)) == 2
    assert all(says.ids)
    assert ("x" in says.ids) == any('"x"' in json.dumps(event) for event in events)


def test_a_call_without_arguments_is_told() -> None:
    assert read(fragment(0, "x", "f", ""), fragment(1, "y", "g"), STOP).calls == [("f", ""), ("g", "")]


def test_a_call_that_is_only_begun_is_no_whole_answer() -> None:
    reader = ChatReader()
    reader.read(fragment(0, "x", "f", '{"a":'))
    reader.read(fragment(1, "y", "g", '{"b":2}'))
    with pytest.raises(UpstreamTruncated):
        reader.end()


@pytest.mark.parametrize("late", [False, True])
def test_the_signature_of_a_call_and_of_a_text_is_told_once(late: bool) -> None:
    extra = {"google": {"thought_signature": "s"}}
    calls = [fragment(0, "x", "f", "{}", **({} if late else {"extra_content": extra}))]
    calls += [fragment(0, extra_content=extra)] if late else []
    says = read(*calls, delta(content="a", extra_content={"google": {"thought_signature": "t"}}), STOP)
    assert says.signatures == [("tool_call", "s"), ("text", "t")]


def test_several_choices_are_told_by_their_index() -> None:
    reader = ChatReader()
    events = [delta(content="a"), delta(content="c"), delta(finish="length")]
    for event in events[1:]:
        event["choices"][0]["index"] = 1
    chunks = [chunk for event in events for chunk in reader.read(event)]
    assert [(chunk.index, chunk.text, chunk.finish_reason) for chunk in chunks] == [
        (0, "a", None), (1, "c", None), (1, "", "length"),
    ]  # fmt: skip
    assert reader.end().finish_reason == "stop"


# What has no counterpart.


@pytest.mark.parametrize(
    ("event", "lost"),
    [
        (delta(content="a", annotations=[{"type": "url_citation"}]), "citations"),
        (delta({"citations": ["https://x"]}, role="assistant"), "citations"),
        (delta(content=[{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}]), "citations"),
        (delta(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "images"),
        (delta(content=[{"type": "hologram"}]), "parts"),
        (delta(audio={"id": "x", "transcript": "a"}), "audio"),
        (delta(images=[{"type": "image_url"}]), "images"),
        (delta(function_call={"name": "f", "arguments": ""}), "function_call"),
        (
            delta(tool_calls=[{"index": 0, "id": "x", "type": "custom", "custom": {"name": "f", "input": "a"}}]),
            "custom_tool_call",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(event: dict[str, Any], lost: str) -> None:
    reader = ChatReader()
    reader.read(event)
    assert reader.lost == {lost}


def test_nothing_is_lost_of_an_ordinary_answer() -> None:
    reader = ChatReader()
    reader.read(delta(content="a", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=None))
    assert reader.lost == set()


# Plain answers.


@pytest.mark.parametrize("name", sorted(GOLDENS.keys() - {"error", "cut"}))
def test_a_plain_answer_says_what_its_stream_says(name: str) -> None:
    facts, _ = observed_chat(GOLDENS[name])
    chunks, lost = read_answer(json.dumps(assembled(facts)).encode())
    assert chunks[-1].kind == "end"
    streamed = told(reading(ChatReader(), GOLDENS[name]))
    assert told(chunks) == streamed
    assert lost == set()


@pytest.mark.parametrize(
    ("body", "error"),
    [(b'{"error": {"message": "no"}}', UpstreamError), (b"<html>", UpstreamError), (b"[]", UpstreamProtocolError)],
)
def test_a_plain_answer_that_is_none_is_an_error(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_answer(body)


# Streams.


def observed_chat(data: bytes) -> tuple[Any, bytes]:
    from muxx.wire.wires import CHAT

    return observed(CHAT, [data])


def said_by(facts: ChatStream) -> Told:
    """What the observer of a stream knows of its first choice."""
    choice = facts.choices[0]
    says = Told("".join(choice.text), "".join(choice.reasoning), "".join(choice.refusal))
    says.calls = [(call.name or "", arguments("".join(call.arguments))) for call in choice.tool_calls]
    says.ids = [call.id or "" for call in choice.tool_calls]
    reason = choice.finish_reason or "stop"
    says.finish = "tool_calls" if says.calls and reason == "stop" else reason
    says.tokens = None if facts.usage is None else (facts.usage.input_tokens, facts.usage.output_tokens)
    return says


def check_crossing(data: bytes) -> None:
    """The official SDK reads from both of OpenAI's formats what the stream said."""
    facts, _ = observed_chat(data)
    if not facts.choices or not facts.finished:
        return
    expected = said_by(facts)
    chunks = reading(ChatReader(), data)
    marks = told(chunks).signatures
    assert told(chunks) == with_marks(expected, marks)
    chat, codec = ChunkEncoder(HEAD, include_usage=True), ResponseCodec(HEAD)
    assert chat_stream(b"".join([chat.encode([c]) for c in chunks]) + chat.last()) == with_marks(expected, marks)
    first = [chunk for chunk in chunks if chunk.index == 0]
    crossed = response_stream(b"".join([codec.encode([c]) for c in first]) + codec.last())
    assert crossed == with_marks(expected, marks)


def with_marks(says: Told, marks: list[tuple[str, str]]) -> Told:
    return Told(**{**vars(says), "signatures": marks})


@pytest.mark.parametrize("name", sorted(GOLDENS.keys() - {"error"}))
def test_our_own_streams_cross_whole(name: str) -> None:
    check_crossing(GOLDENS[name])


def test_recorded_streams_cross_whole() -> None:
    for path in some(recordings("openai-chat")):
        check_crossing(Path(path).read_bytes())


@pytest.mark.parametrize("name", sorted(GOLDENS.keys() - {"error"}))
def test_a_stream_says_the_same_wherever_it_is_cut(name: str) -> None:
    data = GOLDENS[name]
    whole = told(reading(ChatReader(), data))
    for at in some(range(len(data))):
        reader = ChatReader()
        chunks = [chunk for value in cut_at(data, at) for chunk in reader.read(value)]
        assert told([*chunks, reader.end()]) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                [
                    "content",
                    "reasoning_content",
                    "reasoning",
                    "reasoning_details",
                    "tool_calls",
                    "refusal",
                    "extra_content",
                    "audio",
                ]
            ),
            JSON | st.lists(st.dictionaries(st.sampled_from(["index", "id", "function", "type", "text", "signature"]), JSON)),
        ),
        max_size=4,
    )
)
def test_nothing_strange_is_a_crash(deltas: list[dict[str, Any]]) -> None:  # fmt: skip
    reader = ChatReader()
    for members in deltas:
        reader.read({"choices": [{"index": 0, "delta": members, "finish_reason": None}]})
    reader.read({"choices": [{"finish_reason": "stop"}, None, {"index": "x", "delta": []}], "usage": 5})
    assert reader.end().kind == "end"


def test_the_observer_keeps_the_value_it_has_parsed() -> None:
    stream = ChatStream(client_asked_usage=True)
    for raw, data, value in (
        (b"", b'{"choices":[]}', {"choices": []}),
        (b": hi\n\n", None, None),
        (b"", b'{"id":"a"}', {"id": "a"}),
        (b"", b"[DONE]", None),
    ):
        stream.observe((raw, data))
        assert stream.value == value
    assert objects(b"") == []


@pytest.mark.parametrize("wire", [CHAT, GENERATE_CONTENT], ids=lambda wire: wire.name)
def test_ids_made_for_calls_differ_between_turns_of_which_no_answer_has_an_id(wire: Wire) -> None:
    chat = {"choices": [{"index": 0, "message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2}}]}
    google = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}] * 2}}]}
    assert wire.translation is not None
    answers = [wire.translation.read_answer(orjson.dumps(chat if wire is CHAT else google))[0] for _ in range(2)]
    ids = [chunk.tool_call.id for chunks in answers for chunk in chunks if chunk.tool_call is not None]
    assert len(set(ids)) == 4

"""Answers of Responses for clients of other formats: each text once, however often the format repeats it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import some

from muxx.errors import UpstreamError, UpstreamProtocolError
from muxx.reply import Chunk
from muxx.wire.openai import ChunkEncoder
from muxx.wire.responses import ResponseCodec, ResponseReader, ResponseStream, read_answer
from muxx.wire.responses.items import DELTAS, written
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import RESPONSES

from .passing import objects, observed
from .recordings import recordings
from .responses_kit import MANY, OWN, TEXT, answer, begun, call, ended, message, plain, reasoning, refusal, stream
from .sdk import Told, arguments, chat_stream, cut_at, reading, response_stream, told

HEAD = AnswerHead("resp_1", "gpt-5", 1)
USUAL = stream(*answer(reasoning(0, "Let me ", "think."), message(1, "It is ", "warm."), call(2, '{"a":', "1}"), call(3, "{}")))


def read(data: bytes) -> Told:
    return told(reading(ResponseReader(), data))


# What is said.


def test_each_piece_is_a_chunk_and_the_rest_is_silent() -> None:
    reader = ResponseReader()
    chunks = [reader.read(value) for value in objects(TEXT)]
    assert [chunk for some in chunks for chunk in some] == [Chunk("text", "Grüß "), Chunk("text", "Gott "), Chunk("text", "👋")]
    end = reader.end()
    assert (end.kind, end.finish_reason, end.usage and end.usage[:2]) == ("end", "stop", (20, 30))


def test_reasoning_text_and_calls_are_told_in_order() -> None:
    assert read(USUAL) == Told(
        "It is warm.", "Let me think.", "", [("weather", {"a": 1}), ("weather", {})], ["call_2", "call_3"], "tool_calls",
        (20, 30), [("reasoning", "gAAAA")],
    )  # fmt: skip


def test_the_signature_is_the_one_the_item_has_in_the_end() -> None:
    events = answer(reasoning(0, "hm"), message(1, "a"))
    events[2][1]["item"] = {**events[2][1]["item"], "encrypted_content": "not yet"}
    chunks = reading(ResponseReader(), stream(*events))
    assert [(chunk.text, chunk.signature) for chunk in chunks[:3]] == [("hm", None), ("", "gAAAA"), ("a", None)]


def test_parts_of_a_reasoning_are_paragraphs() -> None:
    events, item = reasoning(0, "a")
    second = ("response.reasoning_summary_text.delta", {"item_id": "rs_0", "output_index": 0, "summary_index": 1, "delta": "b"})
    item["summary"].append({"type": "summary_text", "text": "b"})
    assert read(stream(*begun(), *events[:-1], second, events[-1], *ended(item))).reasoning == "a\n\nb"


def test_a_refusal_is_told() -> None:
    assert read(stream(*answer(refusal(0, "I ", "cannot.")))).refusal == "I cannot."


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("max_messages", "length"), ("steered", "stop")],
)
def test_an_incomplete_answer_says_why(reason: str, finish: str) -> None:
    events = [*begun(), *ended(call(0, "{")[1], kind="response.incomplete", incomplete_details={"reason": reason})]
    assert read(stream(*events)).finish == finish


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "message": "no"},
        {"type": "response.failed", "response": {"status": "failed", "error": {"message": "no"}}},
        {"type": "response.failed", "response": {"status": "failed"}},
        {"error": {"message": "no"}},
    ],
)
def test_a_failure_is_an_error(event: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError):
        ResponseReader().read(event)


# Repeats.


def without(data: bytes, *kinds: str) -> bytes:
    """The stream without the events whose type ends in one of these."""
    events = [value for value in objects(data) if not value["type"].endswith(kinds)]
    return stream(*[(value.pop("type"), {k: v for k, v in value.items() if k != "sequence_number"}) for value in events])


PIECES = (".delta",)
WHOLES = (*PIECES, "text.done", "arguments.done", "part.done", "part.added", "refusal.done")


@pytest.mark.parametrize(
    "kinds", [PIECES, WHOLES, (*WHOLES, "output_item.added"), (*WHOLES, "output_item.done", "output_item.added")]
)
@pytest.mark.parametrize("name", ["USUAL", "REFUSED"])
def test_a_text_that_came_in_no_pieces_is_told_from_where_it_stands_whole(kinds: tuple[str, ...], name: str) -> None:
    data = {"USUAL": USUAL, "REFUSED": stream(*answer(message(0, "a"), refusal(1, "I ", "cannot.")))}[name]
    assert read(without(data, *kinds)) == read(data)


def test_the_rest_of_a_text_of_which_pieces_are_missing_is_told() -> None:
    values = objects(TEXT)
    missing = [value for value in values if value.get("delta") not in ("Gott ", "👋")]
    reader = ResponseReader()
    assert told(chunk for value in missing for chunk in reader.read(value)).text == "Grüß Gott 👋"


@pytest.mark.parametrize("change", ["ids", "places", "both are unknown"])
def test_a_terminal_event_that_numbers_or_names_items_anew_repeats_nothing(change: str) -> None:
    events = answer(message(1, "It is ", "warm."), call(2, '{"a":1}'))
    output = events[-1][1]["response"]["output"]
    if change == "ids":
        events[-1][1]["response"]["output"] = [{}, *({**item, "id": "new"} for item in output)]
    elif change == "both are unknown":
        events[-1][1]["response"]["output"] = [{"type": "web_search_call", "id": "w"}, *output]
    says = read(stream(*events))
    assert (says.text, says.calls) == ("It is warm.", [("weather", {"a": 1})])


# What has no counterpart.


def test_what_has_no_counterpart_is_named() -> None:
    reader = ResponseReader()
    says = told(reading(reader, MANY))
    assert reader.lost == {"custom_tool_call", "code_interpreter_call", "mcp_call", "shell_call"}
    assert (says.calls, says.refusal) == ([("weather", {"city": "Graz"})], "I cannot.")


def test_a_call_that_is_lost_does_not_finish_an_answer() -> None:
    assert read(stream(*answer(call(0, "a", kind="custom_tool_call")))).finish == "stop"


@pytest.mark.parametrize("where", ["event", "item"])
def test_citations_are_named(where: str) -> None:
    events = answer(message(0, "a"))
    if where == "event":
        events.insert(5, ("response.output_text.annotation.added", {"output_index": 0, "annotation": {}}))
    else:
        events[-1][1]["response"]["output"][0]["content"][0]["annotations"] = [{"type": "url_citation"}]
    reader = ResponseReader()
    reading(reader, stream(*events))
    assert reader.lost == {"citations"}


def test_sound_is_named() -> None:
    reader = ResponseReader()
    reader.read({"type": "response.audio.delta", "delta": "AAAA"})
    assert reader.lost == {"audio"}


def test_nothing_is_lost_of_an_ordinary_answer() -> None:
    reader = ResponseReader()
    reading(reader, USUAL)
    assert reader.lost == set()


# Signatures of calls and texts, which muxx itself writes there.


@pytest.mark.parametrize("late", [False, True])
def test_the_signature_of_a_call_and_of_a_message_is_told_once(late: bool) -> None:
    events = answer(message(0, "a"), call(1, "{}"))
    for _, members in events:
        for item in [members.get("item", {}), *members.get("response", {}).get("output", ())]:
            if item.get("type") == "function_call" and not (late and item["status"] == "in_progress"):
                item["encrypted_content"] = "c"
            elif item.get("type") == "message":
                item["encrypted_content"] = "t"
    assert read(stream(*events)).signatures == [("text", "t"), ("tool_call", "c")]


# Plain answers.


@pytest.mark.parametrize("name", ["text", "many", "incomplete", "only_the_end", "unknown"])
def test_a_plain_answer_says_what_its_stream_says(name: str) -> None:
    reader = ResponseReader()
    streamed = told(reading(reader, OWN[name]))
    chunks, lost = read_answer(plain(name))
    assert chunks[-1].kind == "end"
    assert (told(chunks), lost) == (streamed, reader.lost)


@pytest.mark.parametrize(
    ("body", "error"), [(plain("failed"), UpstreamError), (b"<html>", UpstreamError), (b"[]", UpstreamProtocolError)]
)
def test_a_plain_answer_that_is_none_is_an_error(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_answer(body)


# Streams.


def said_by(facts: Any, data: bytes) -> Told:
    """What the observer of a stream knows, of items that have a counterpart. A signature is never twice the same: it is the one
    with which the item ended."""
    ends = [value["item"] for value in objects(data) if value["type"] == "response.output_item.done"]
    signed = {item["id"]: item.get("encrypted_content") for item in reversed(ends) if item["type"] == "reasoning"}
    says = Told()
    for item in facts.output():
        texts = {path: container[key] for path, container, key in written(item)}
        if item["type"] == "message":
            says.text += "".join(text for path, text in texts.items() if path[-1] == "text")
            says.refusal += "".join(text for path, text in texts.items() if path[-1] == "refusal")
        elif item["type"] == "reasoning":
            says.reasoning += "\n\n".join(text for text in texts.values() if text)
        elif item["type"] == "function_call":
            says.calls.append((item["name"], arguments(item["arguments"])))
            says.ids.append(item["call_id"])
        if item["type"] == "reasoning" and (signature := signed.get(item["id"])):
            says.signatures.append(("reasoning", signature))
    [reason] = facts.finish_reasons.values()
    says.finish = reason if reason in ("length", "content_filter") else "tool_calls" if says.calls else "stop"
    says.tokens = None if facts.usage is None else (facts.usage.input_tokens, facts.usage.output_tokens)
    return says


def check_crossing(data: bytes) -> bool:
    """The official SDK reads from both of OpenAI's formats what the stream said."""
    facts: Any = observed(RESPONSES, [data])[0]
    if facts.error or not facts.done:
        return False
    expected = said_by(facts, data)
    chunks = reading(ResponseReader(), data)
    assert told(chunks) == expected
    chat, codec = ChunkEncoder(HEAD, include_usage=True), ResponseCodec(HEAD)
    assert chat_stream(b"".join([chat.encode([c]) for c in chunks]) + chat.last()) == expected
    assert response_stream(b"".join([codec.encode([c]) for c in chunks]) + codec.last()) == expected
    return True


@pytest.mark.parametrize("name", sorted(OWN))
def test_our_own_streams_cross_whole(name: str) -> None:
    assert check_crossing(OWN[name]) == (name != "failed")


def test_recorded_streams_cross_whole() -> None:
    crossed = [check_crossing(Path(path).read_bytes()) for path in some(recordings("openai-responses"))]
    assert sum(crossed) > len(crossed) * 0.9


@pytest.mark.parametrize("data", [USUAL, TEXT, OWN["only_the_end"]])
def test_a_stream_says_the_same_wherever_it_is_cut(data: bytes) -> None:
    whole = read(data)
    for at in some(range(len(data))):
        reader = ResponseReader()
        chunks = [chunk for value in cut_at(data, at) for chunk in reader.read(value)]
        assert told([*chunks, reader.end()]) == whole


NAMES = ["output_index", "content_index", "summary_index", "delta", "text", "item", "arguments", "part", "response", "refusal"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["output", "type", "content", "summary", "text", "id", "name", "annotations"]), inner)
    ),
    max_leaves=8,
)
KINDS = [*DELTAS, "response.output_item.added", "response.output_item.done", "response.completed", "response.output_text.done"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), JSON)), max_size=5))
def test_nothing_strange_is_a_crash(events: list[tuple[str, dict[str, Any]]]) -> None:
    reader = ResponseReader()
    for kind, members in events:
        reader.read({"type": kind, **members})
    for kind in ("message", "reasoning", "function_call"):
        for content in ("a", ["b"], [{"text": "c"}], 5, None):
            reader.read({"type": "response.output_item.done", "item": {"type": kind, "content": content, "summary": content}})
    assert reader.end().kind == "end"


def test_the_observer_keeps_the_value_it_has_parsed() -> None:
    observer = ResponseStream()
    first = {"type": "response.created", "sequence_number": 4}
    for raw, data, value in ((b"", json.dumps(first).encode(), first), (b": hi\n\n", None, None), (b"", b"[DONE]", None)):
        observer.observe((raw, data))
        assert (observer.value, observer.next_number) == (value, 5)

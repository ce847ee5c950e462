"""Chunks of Responses: untouched they leave as the provider's bytes; changed, no event repeats what the hooks did not let through."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.responses import ResponseCodec, assembled
from muxx.wire.responses.items import DONES, written
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import RESPONSES

from .passing import Hook, holder, objects, observed, said, shout, strings, words
from .recordings import recordings
from .responses_judge import accepted, consistent, drop, ending, passed, texts_of
from .responses_kit import MANY, OWN, TEXT, answer, message, stream

HEAD = AnswerHead("resp_mine", "gpt-5", 1)


# Untouched.


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("hook", [lambda chunk: None, lambda chunk: [chunk], lambda chunk: [replace(chunk)]])
def test_an_answer_nobody_touched_leaves_as_its_own_bytes(name: str, hook: Hook) -> None:
    assert passed(OWN[name], hook) == OWN[name]


def test_every_recording_nobody_touched_leaves_as_its_own_bytes() -> None:
    for path in recordings("openai-responses"):
        assert passed(path.read_bytes(), lambda chunk: [replace(chunk)]) == path.read_bytes()


@pytest.mark.parametrize("name", ["text", "many", "unnamed", "unnumbered", "incomplete"])
def test_what_was_held_and_let_go_in_time_leaves_as_its_own_bytes(name: str) -> None:
    assert passed(OWN[name], holder()) == OWN[name]


@pytest.mark.parametrize("raw", [b'data: {"type":"response.text.delta"}\r\n\r\n', b'id: 1\nevent: x\ndata: {"type":["odd"]}\n\n'])
def test_an_event_nobody_knows_leaves_as_its_own_bytes_even_after_a_change(raw: bytes) -> None:
    data = TEXT.replace(b"event: response.output_text.done", raw + b"event: response.output_text.done")
    assert raw in passed(data, shout)


# What plugins see.


def test_the_chunks_of_every_kind_of_text() -> None:
    seen: list[tuple[Any, ...]] = []
    passed(
        MANY,
        lambda chunk: seen.append(
            (chunk.kind, chunk.index, words(chunk), chunk.tool_call and chunk.tool_call.name, chunk.finish_reason)
        ),
    )  # type: ignore[func-returns-value]
    told = [entry for entry in seen if entry[0] != "other" or entry[2] or entry[4]]
    assert told == [
        ("reasoning", 0, "Let me ", None, None),
        ("reasoning", 0, "think.", None, None),
        ("other", 0, "", None, "stop"),
        ("text", 1, "It is ", None, None),
        ("text", 1, "warm.", None, None),
        ("other", 1, "", None, "stop"),
        ("tool_call", 2, "", "weather", None),
        ("tool_call", 2, '{"city":', None, None),
        ("tool_call", 2, '"Graz"}', None, None),
        ("other", 2, "", None, "tool_calls"),
        ("tool_call", 3, "", "weather", None),
        ("tool_call", 3, "print(", None, None),
        ("tool_call", 3, "1)", None, None),
        ("other", 3, "", None, "tool_calls"),
        ("tool_call", 4, "", "weather", None),
        ("tool_call", 4, "x = ", None, None),
        ("tool_call", 4, "1", None, None),
        ("other", 4, "", None, "tool_calls"),
        ("tool_call", 5, "", "weather", None),
        ("tool_call", 5, '{"q":', None, None),
        ("tool_call", 5, "1}", None, None),
        ("other", 5, "", None, "tool_calls"),
        ("other", 6, "I ", None, None),
        ("other", 6, "cannot.", None, None),
        ("other", 6, "", None, "stop"),
        ("tool_call", 7, "", "shell", None),
        ("tool_call", 7, "ls", None, None),
        ("tool_call", 7, " -la", None, None),
        ("other", 7, "", None, "tool_calls"),
        ("tool_call", 7, "ca", None, None),
        ("tool_call", 7, "t *", None, None),
        ("other", 7, "", None, "tool_calls"),
        ("end", 0, "", None, "tool_calls"),
    ]
    assert len(seen) == len(objects(MANY))


def test_a_call_is_known_by_the_id_its_result_will_name() -> None:
    calls: list[ToolCall] = []
    passed(MANY, lambda chunk: calls.append(chunk.tool_call) if chunk.tool_call and chunk.tool_call.id else None)  # type: ignore[func-returns-value]
    assert [(made.index, made.id) for made in calls] == [(number, f"call_{number}") for number in (2, 3, 4, 5, 7)]


def test_the_end_tells_usage_and_finish_reason() -> None:
    ends: list[Chunk] = []
    passed(OWN["incomplete"], lambda chunk: ends.append(chunk) if chunk.kind == "end" else None)  # type: ignore[func-returns-value]
    [end] = ends
    assert (end.finish_reason, end.usage) == ("length", Usage(20, 30, cache_read_tokens=5, reasoning_tokens=7, source="provider"))


@pytest.mark.parametrize("name", ["whole", "only_the_end"])
def test_a_text_without_pieces_is_shown_once_and_can_be_changed(name: str) -> None:
    seen: list[str] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if words(chunk):
            seen.append(words(chunk))
        return shout(chunk)

    out = passed(OWN[name], hook)
    assert len(seen) == len(set(seen)) > 0
    assert assembled(observed(RESPONSES, [out])[0])["output"][0]["content"][0]["text"] == seen[0].upper()
    assert not any(text in event for text in seen for event in strings(objects(out)) if text != "{}")
    assert "".join(seen) not in passed(OWN[name], lambda chunk: [] if words(chunk) else None).decode()


# Changed.


def test_a_changed_text_is_changed_in_every_repeat_and_nothing_else_is() -> None:
    said = {event["delta"] for event in objects(MANY) if "delta" in event} | set(texts_of(MANY)[1].values())

    def loud(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: [] if name == "logprobs" else loud(child) for name, child in value.items()}
        if isinstance(value, list):
            return [loud(child) for child in value]
        return value.upper() if value in said else value

    assert consistent(passed(MANY, shout)) == [loud(event) for event in objects(MANY)]


def test_log_probabilities_do_not_give_a_changed_text_away() -> None:
    out = passed(TEXT, shout)
    assert "Gott " not in set(strings(objects(out)))
    assert b'"logprobs":[{' not in out


def test_an_event_without_a_changed_text_keeps_its_own_bytes() -> None:
    own = {raw for raw, _ in EventSplitter(1 << 20).feed(MANY)}
    out = [
        raw for raw, _ in EventSplitter(1 << 20).feed(passed(MANY, lambda chunk: shout(chunk) if chunk.kind == "text" else None))
    ]
    changed = {json.loads(raw.partition(b"data: ")[2])["type"] for raw in out if raw not in own}
    assert changed == {
        "response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.completed",
    }  # fmt: skip
    assert sum(raw not in own for raw in out) == 6


def test_a_dropped_text_is_in_no_event() -> None:
    out = passed(MANY, drop)
    events = consistent(out)
    assert texts_of(out) == ({}, {})
    for text in texts_of(MANY)[0].values():
        assert text not in set(strings(events))


def test_a_dropped_call_leaves_no_trace_and_the_items_after_it_move_up() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.tool_call is not None and chunk.tool_call.index in (2, 4) else None)
    left = ["reasoning", "message", "custom_tool_call", "mcp_call", "message", "shell_call"]
    assert [item["type"] for item in consistent(out)[-1]["response"]["output"]] == left
    assert not {"fc_2", "fc_4", "call_2", "call_4"} & set(strings(objects(out)))


def test_a_dropped_beginning_takes_its_call_with_it() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.tool_call is not None and chunk.tool_call.name else None)
    assert {item["type"] for item in consistent(out)[-1]["response"]["output"]} == {"reasoning", "message"}


def test_a_call_can_be_renamed() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        made = chunk.tool_call
        return (
            [replace(chunk, tool_call=replace(made, name="climate", id=f"x{made.id}"))]
            if made is not None and made.name
            else None
        )

    events = consistent(passed(MANY, hook))
    named = [event["item"] for event in events if event["type"].startswith("response.output_item.") and "name" in event["item"]]
    named += [item for item in events[-1]["response"]["output"] if "name" in item]
    assert len(named) == 12
    assert {item["name"] for item in named} == {"climate"}
    assert {item["call_id"] for item in named} == {"xcall_2", "xcall_3", "xcall_4", "xcall_5"}


def test_a_text_held_until_the_end_is_whole_in_the_terminal_event() -> None:
    out = passed(MANY, holder(until_end=True))
    events = objects(out)
    dones = [event for event in events if event["type"] in DONES]
    assert not any(words for event in dones[:2] for words in (event.get("text"),)), "what is still held stands in no repeat"
    held = {item["type"]: [container[key] for _, container, key in written(item)] for item in events[-1]["response"]["output"]}
    assert held["function_call"] == ['{"city":"Graz"}']
    assert held["custom_tool_call"] == ["print(1)"]
    assert sorted(held) == sorted({item["type"] for item in objects(MANY)[-1]["response"]["output"]})
    assert [event["sequence_number"] for event in events] == sorted(event["sequence_number"] for event in events)
    done = [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"]
    assert sorted(done) == sorted(item["type"] for item in objects(MANY)[-1]["response"]["output"])


def test_a_chunk_changed_in_place_counts_as_changed() -> None:
    def hook(chunk: Chunk) -> None:
        if chunk.kind == "text":
            chunk.text = "*"

    assert texts_of(passed(TEXT, hook))[1] == {(0, "content", 0, "text"): "***"}


def test_a_repeat_that_says_something_else_than_the_pieces_is_left_alone_until_it_is_changed() -> None:
    data = TEXT.replace(json.dumps("Grüß Gott 👋").encode(), json.dumps("Grüß Gott").encode())
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    assert texts_of(passed(data, shout))[1] == {(0, "content", 0, "text"): "GRÜSS GOTT 👋"}


def test_a_text_repeated_beside_the_items_is_rebuilt_too() -> None:
    events = answer(message(0, "secret"))
    events[-1][1]["response"]["output_text"] = "secret"
    out = passed(stream(*events), lambda chunk: [said(chunk, "***")] if words(chunk) else None)
    assert b"secret" not in out
    assert objects(out)[-1]["response"]["output_text"] == "***"


# Added.


def test_a_new_chunk_goes_into_the_message_that_is_open() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        return [Chunk("text", "Note: "), chunk] if chunk.text == "It is " else None

    out = passed(MANY, hook)
    new = next(event for event in consistent(out) if event.get("delta") == "Note: ")
    assert (new["type"], new["item_id"], new["output_index"], new["content_index"]) == (
        "response.output_text.delta",
        "msg_1",
        1,
        0,
    )
    assert texts_of(out)[1][1, "content", 0, "text"] == "Note: It is warm."
    assert accepted(out) == "Note: It is warm."
    numbers = [event["sequence_number"] for event in objects(out)]
    numbers.remove(new["sequence_number"])
    assert numbers == [event["sequence_number"] for event in objects(MANY)], "the provider's own numbers stay"


@pytest.mark.parametrize("name", ["unnamed", "unnumbered"])
def test_new_events_look_like_the_providers(name: str) -> None:
    out = passed(OWN[name], lambda chunk: [*(shout(chunk) or [chunk]), Chunk("text", "+")] if words(chunk) else None)
    assert texts_of(out)[1] == {(0, "content", 0, "text"): "A+B+"}
    assert (b"event:" in out, b"sequence_number" in out) == (name == "unnumbered", name == "unnamed")


@pytest.mark.parametrize(("before", "items"), [("response.output_item.added", 2), ("response.content_part.added", 1)])
def test_a_new_chunk_before_its_part_begins_it_and_before_its_item_an_item_of_its_own(before: str, items: int) -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        return [Chunk("text", "Note: "), chunk] if f"event: {before}".encode() in (chunk.raw or b"") else None

    out = passed(TEXT, hook)
    assert len(consistent(out)[-1]["response"]["output"]) == items
    assert sum(event["type"] == "response.content_part.added" for event in objects(out)) == items
    assert accepted(out) == "Note: Grüß Gott 👋"


def test_a_text_beside_a_refusal_is_a_message_of_its_own() -> None:
    out = passed(MANY, lambda chunk: [chunk, Chunk("text", "So.", 6)] if chunk.text == "I " else None)
    assert texts_of(out)[1][7, "content", 0, "text"] == "So."
    assert [item["type"] for item in consistent(out)[-1]["response"]["output"]][6:] == ["message", "message", "shell_call"]


def test_a_new_call_is_an_item_of_its_own_and_ends_before_the_answer() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        new = [ToolCall(0, "call_new", "f", '{"a":'), ToolCall(0, arguments="1}")]
        return [*(Chunk("tool_call", tool_call=made) for made in new), chunk] if chunk.kind == "end" else None

    out = passed(TEXT, hook)
    assert consistent(out)[-1]["response"]["output"][1:] == [
        {
            "id": "fc_1_1",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_new",
            "name": "f",
            "arguments": '{"a":1}',
        }
    ]
    assert [event["type"].removeprefix("response.") for event in objects(out)[-6:]] == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert accepted(out) == "Grüß Gott 👋"


# Ended early.


@pytest.mark.parametrize("at", range(len(objects(MANY))))
def test_an_end_at_any_chunk_ends_the_answer_cleanly(at: int) -> None:
    out = passed(MANY, ending(at))
    pieces, whole = texts_of(out)
    assert pieces == whole
    assert consistent(out)[-1]["response"]["status"] == "completed"
    assert accepted(out) == "".join(text for place, text in sorted(pieces.items()) if place[0] == 1 and place[-1] == "text")
    for begins, ends in (("output_item.added", "output_item.done"), ("part.added", "part.done")):
        begun = [(event["output_index"], event.get("item_id")) for event in objects(out) if event["type"].endswith(begins)]
        assert begun == [(event["output_index"], event.get("item_id")) for event in objects(out) if event["type"].endswith(ends)]
    own = [event["sequence_number"] for event in objects(MANY)]
    assert [event["sequence_number"] for event in objects(out)] == own[:at] + list(range(at, len(objects(out))))


@pytest.mark.parametrize(
    ("reason", "kind", "details"),
    [
        (None, "response.completed", None),
        ("stop", "response.completed", None),
        ("content_filter", "response.incomplete", {"reason": "content_filter"}),
        ("length", "response.incomplete", {"reason": "max_output_tokens"}),
    ],
)
@pytest.mark.parametrize("derived", [False, True])
def test_an_early_end_says_why(reason: str | None, kind: str, details: Any, derived: bool) -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.text != "Gott ":
            return None
        end = replace(chunk, kind="end", text="") if derived else Chunk("end")
        return [replace(end, finish_reason=reason, usage=Usage(3, 2))]

    *_, last = consistent(passed(TEXT, hook))
    assert (last["type"], last["response"]["incomplete_details"]) == (kind, details)
    assert last["response"]["usage"]["total_tokens"] == 5
    [item] = last["response"]["output"]
    assert (item["content"][0]["text"], item["status"]) == ("Grüß ", last["response"]["status"])


def test_a_call_that_is_cut_short_says_so() -> None:
    out = passed(MANY, lambda chunk: [Chunk("end")] if words(chunk) == '"Graz"}' else None)
    *_, cut = consistent(out)[-1]["response"]["output"]
    assert (cut["arguments"], cut["status"]) == ('{"city":', "incomplete")


def test_a_dropped_end_still_ends_the_answer() -> None:
    assert passed(TEXT, lambda chunk: [] if chunk.kind == "end" else None) == TEXT
    out = passed(TEXT, lambda chunk: [] if chunk.kind == "end" else shout(chunk))
    assert texts_of(out)[1] == {(0, "content", 0, "text"): "GRÜSS GOTT 👋"}


def test_the_end_can_be_asked_for_again() -> None:
    codec = ResponseCodec(HEAD)
    assert codec.end() == Chunk("end")
    ends = [codec.decode(event) for event in EventSplitter(1 << 20).feed(TEXT)][-1]
    assert [codec.end()] == ends


def test_an_end_of_a_plugins_own_at_the_end_keeps_what_the_provider_said() -> None:
    out = passed(TEXT, lambda chunk: [Chunk("text", "!"), Chunk("end")] if chunk.kind == "end" else None)
    *_, last = consistent(out)
    assert (last["type"], last["response"]["usage"]["total_tokens"]) == ("response.completed", 50)
    assert texts_of(out)[1] == {(0, "content", 0, "text"): "Grüß Gott 👋!"}

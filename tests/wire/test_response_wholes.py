"""Texts of Responses that come whole: several at once, in the place of a repeat, or of the provider's own tools."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from muxx.reply import Chunk
from muxx.wire.wires import RESPONSES

from .passing import Hook, hooked, objects, shout, strings, words
from .responses_judge import ending, passed
from .responses_kit import HEAD, USAGE, Events, begun, ended, stream

Item = dict[str, Any]
Seen = list[tuple[str, str, str | None]]

PARTS: list[tuple[Item, str]] = [
    ({"type": "message", "content": [{"type": "output_text", "text": text} for text in ("one", "two")]}, "text"),
    ({"type": "message", "content": [{"type": "refusal", "refusal": text} for text in ("one", "two")]}, "other"),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in ("one", "two")]}, "reasoning"),
    (
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": t} for t in ("one", "two")]},
        "reasoning",
    ),
    ({"type": "shell_call", "call_id": "c", "action": {"commands": ["one", "two"]}}, "tool_call"),
]
TOOLS: list[Item] = [
    {"type": "mcp_call", "name": "n", "arguments": "", "output": "one", "error": "two"},
    {"type": "code_interpreter_call", "code": "", "outputs": [{"type": "logs", "logs": "one"}, {"type": "logs", "logs": "two"}]},
    {"type": "web_search_call", "action": {"type": "search", "query": "one", "queries": ["two"]}},
    {"type": "file_search_call", "queries": ["one"], "results": [{"file_id": "f", "text": "two"}]},
    {"type": "local_shell_call", "action": {"type": "exec", "command": ["one", "two"]}},
    {"type": "shell_call_output", "output": [{"stdout": "one", "stderr": "two"}]},
    {"type": "apply_patch_call", "operation": {"type": "update_file", "diff": "one"}, "output": "two"},
]  # fmt: skip

each_item = pytest.mark.parametrize("item", [item for item, _ in PARTS] + TOOLS, ids=lambda item: item["type"])


def numbered(item: Item) -> Item:
    return {"id": "i_0", "status": "completed", **item}


def begins_with(item: Item) -> Item:
    """The item as it begins: its texts are still to come."""
    return json.loads(json.dumps(item).replace("one", "").replace("two", ""))  # type: ignore[no-any-return]


def at_its_end(item: Item) -> Events:
    """The item's texts come with the event that ends it."""
    return [
        ("response.output_item.added", {"output_index": 0, "item": begins_with(item)}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
    ]


def streamed(item: Item) -> bytes:
    return stream(*begun(), *at_its_end(item), *ended(item))


def watching(seen: Seen) -> Hook:
    def hook(chunk: Chunk) -> None:
        if words(chunk):
            seen.append((chunk.kind, words(chunk), chunk.finish_reason))

    return hook


# Several at once.


@pytest.mark.parametrize(("item", "kind"), PARTS, ids=lambda value: value if isinstance(value, str) else value["type"])
def test_each_part_is_shown_as_a_text_that_ends(item: Item, kind: str) -> None:
    seen: Seen = []
    passed(streamed(numbered(item)), watching(seen))
    reason = "tool_calls" if kind == "tool_call" else "stop"
    assert seen == [(kind, "one", reason), (kind, "two", reason)]


@pytest.mark.parametrize(("item", "kind"), PARTS, ids=lambda value: value if isinstance(value, str) else value["type"])
def test_in_a_plain_answer_too_each_part_ends_before_the_next_begins(item: Item, kind: str) -> None:
    body = json.dumps({**HEAD, "status": "completed", "output": [numbered(item)], "usage": USAGE}).encode()
    told = [(words(chunk), chunk.finish_reason) for chunk in RESPONSES.decode_plain(body)]
    first, second = (next(at for at, (text, _) in enumerate(told) if text == wanted) for wanted in ("one", "two"))
    assert any(reason for _, reason in told[first:second])


@each_item
def test_whole_texts_nobody_touched_leave_as_their_own_bytes(item: Item) -> None:
    data = streamed(numbered(item))
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    body = json.dumps({**HEAD, "status": "completed", "output": [numbered(item)]}, indent=1).encode()
    assert RESPONSES.encode_plain(body, hooked(RESPONSES.decode_plain(body), lambda chunk: None)) == body


@each_item
def test_whole_texts_are_changed_wherever_they_stand_and_nothing_else_is(item: Item) -> None:
    wanted = json.loads(json.dumps(numbered(item)).replace('"one"', '"ONE"').replace('"two"', '"TWO"'))
    events = objects(passed(streamed(numbered(item)), shout))
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == [wanted]
    assert events[-1]["response"]["output"] == [wanted]
    assert len(events) == len(objects(streamed(item))), "no event is added for them"
    body = json.dumps({**HEAD, "status": "completed", "output": [numbered(item)]}).encode()
    plain = json.loads(RESPONSES.encode_plain(body, hooked(RESPONSES.decode_plain(body), shout)))
    assert plain["output"] == [wanted]


@each_item
def test_a_dropped_whole_text_is_in_no_event(item: Item) -> None:
    out = passed(streamed(numbered(item)), lambda chunk: [] if words(chunk) else None)
    assert not {"one", "two"} & set(strings(objects(out)))


# The provider's own tools.


@pytest.mark.parametrize("item", TOOLS, ids=lambda item: item["type"])
def test_what_a_tool_of_the_providers_is_asked_and_returns_is_shown_once(item: Item) -> None:
    seen: Seen = []
    passed(streamed(numbered(item)), watching(seen))
    assert sorted(seen) == [("other", "one", "stop"), ("other", "two", "stop")]


@pytest.mark.parametrize("item", TOOLS, ids=lambda item: item["type"])
def test_an_item_that_says_more_of_it_later_is_shown_it_all_again(item: Item) -> None:
    """Not the rest: a hook that was shown half and has let it go could not make out the whole."""
    seen: Seen = []
    events = at_its_end(numbered(item))
    events[0][1]["item"] = json.loads(json.dumps(numbered(item)).replace("one", "o"))
    data = stream(*begun(), *events, *ended(numbered(item)))
    passed(data, watching(seen))
    texts = [text for _, text, _ in seen]
    assert texts.count("one") >= 1
    assert "ne" not in texts
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    assert not {"one", "two"} & set(strings(objects(passed(data, shout))[2:]))


@pytest.mark.parametrize("item", TOOLS, ids=lambda item: item["type"])
def test_an_early_end_after_it_keeps_it_as_the_hooks_left_it(item: Item) -> None:
    loud, last = shout, ending(5, finish_reason="stop")
    events = objects(passed(streamed(numbered(item)), lambda chunk: last(chunk) or loud(chunk)))
    said = set(strings(events[-1]["response"]["output"]))
    assert {"ONE", "TWO"} & said
    assert not {"one", "two"} & said
    assert ".done" not in [event["type"] for event in events], "no event ends a text that none began"


# In the place of a repeat.


def contradicting(where: str) -> bytes:
    """A message whose pieces say one thing, and the event `where` another."""
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    place = {"item_id": "i_0", "output_index": 0, "content_index": 0}
    item = {"id": "i_0", "type": "message", "role": "assistant", "status": "completed", "content": [{**part, "text": "said"}]}
    events: Events = [
        *begun(),
        ("response.output_item.added", {"output_index": 0, "item": {**item, "content": []}}),
        ("response.content_part.added", {**place, "part": {**part, "text": ""}}),
        ("response.output_text.delta", {**place, "delta": "said", "logprobs": []}),
        ("response.output_text.done", {**place, "text": "said", "logprobs": []}),
        ("response.content_part.done", {**place, "part": {**part, "text": "said"}}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        *ended(item),
    ]
    told = [
        (kind, json.loads(json.dumps(members).replace('"said"', '"odd"')) if kind == where else members)
        for kind, members in events
    ]
    return stream(*told)


WHERE = ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]


@pytest.mark.parametrize("where", WHERE)
def test_what_contradicts_its_pieces_is_shown_by_itself_and_can_be_changed_by_itself(where: str) -> None:
    seen: Seen = []
    data = contradicting(where)
    passed(data, watching(seen))
    assert seen == [("text", "said", None), ("text", "odd", "stop")]
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    changed = passed(data, lambda chunk: [replace(chunk, text="even")] if chunk.text == "odd" else None)
    assert objects(changed) == objects(data.replace(b'"odd"', b'"even"'))


@pytest.mark.parametrize("where", WHERE)
def test_where_its_pieces_are_changed_what_contradicts_them_stays_what_the_hooks_made_of_it(where: str) -> None:
    out = objects(passed(contradicting(where), shout))
    assert objects(contradicting(where).replace(b'"odd"', b'"ODD"').replace(b'"said"', b'"SAID"')) == out


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "content": ["one", "two"]},
        {"type": "reasoning", "summary": ["one"]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": ["one", "two"]},
    ],
)
def test_a_list_of_texts_in_the_place_of_parts_is_given_again_as_it_was(item: Item) -> None:
    """No format has it, and some provider may: the answer is not refused for it."""
    body = json.dumps({"id": "r", "status": "completed", "output": [{"id": "i", **item}]}).encode()
    assert json.loads(RESPONSES.encode_plain(body, RESPONSES.decode_plain(body)))["output"] == [{"id": "i", **item}]

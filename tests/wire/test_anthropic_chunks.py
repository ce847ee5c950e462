"""Chunks of Anthropic answers: untouched they leave as the provider's bytes; changed, every client can still follow the stream."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.textwindow import TextWindow
from muxx.wire.anthropic import MessageCodec, MessageStream, assembled, decode_message, encode_plain, read_answer
from muxx.wire.sse import EventSplitter

from .anthropic_kit import (
    MANY,
    OWN,
    START,
    STOP,
    TEXT,
    WIRE,
    accepted,
    answer,
    block,
    consistent,
    drop,
    ending,
    ending_at,
    event,
    passed,
    said,
    stream,
    strung,
    text,
    thinking,
    tool,
    translated,
)
from .passing import Hook, holder, masker, objects, observed, shout, strings, words
from .passing import said as saying
from .recordings import recordings

# Untouched.


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("hook", [lambda chunk: None, lambda chunk: [chunk], lambda chunk: [replace(chunk)]])
def test_an_answer_nobody_touched_leaves_as_its_own_bytes(name: str, hook: Hook) -> None:
    assert OWN[name].removeprefix(passed(OWN[name], hook)) in (b"", b"\n")


def test_every_recording_nobody_touched_leaves_as_its_own_bytes() -> None:
    for path in recordings("anthropic-messages"):
        assert passed(path.read_bytes(), lambda chunk: [replace(chunk)]) == path.read_bytes(), path.name


@pytest.mark.parametrize("name", [name for name in OWN if name != "late_ping"])  # pings overtake message_delta then
def test_what_was_held_and_let_go_in_time_leaves_as_its_own_bytes(name: str) -> None:
    assert OWN[name].removeprefix(passed(OWN[name], hold_everything())) in (b"", b"\n")


@pytest.mark.parametrize("name", ["text", "many", "unnamed", "cut_short", "whole"])
def test_text_that_was_held_and_let_go_in_time_leaves_as_its_own_bytes(name: str) -> None:
    assert passed(OWN[name], holder()) == OWN[name]


def test_every_recording_held_and_let_go_in_time_leaves_as_its_own_bytes() -> None:
    for path in recordings("anthropic-messages"):
        assert passed(path.read_bytes(), hold_everything()) == path.read_bytes(), path.name


def hold_everything() -> Hook:
    """Holds every Chunk back until one has a finish reason."""
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk]:
        held.append(chunk)
        due = held[:] if chunk.finish_reason or chunk.kind == "end" else []
        del held[: len(due)]
        return due

    return hook


@pytest.mark.parametrize("raw", [b'data: {"type":"hologram"}\r\n\r\n', b'id: 1\nevent: x\ndata: {"type":["odd"]}\n\n'])
def test_an_event_nobody_knows_leaves_as_its_own_bytes_even_after_a_change(raw: bytes) -> None:
    at = TEXT.index(b"event: content_block_stop")
    assert raw in passed(TEXT[:at] + raw + TEXT[at:], shout)


# What plugins see.


def test_the_chunks_of_every_kind_of_block() -> None:
    seen: list[Chunk] = []
    passed(MANY, lambda chunk: seen.append(chunk))  # type: ignore[func-returns-value]
    told = [entry for entry in strung(seen) if entry[0] != "other" or entry[2] or entry[4]]
    assert told == [
        ("reasoning", 0, "Let me ", None, None),
        ("reasoning", 0, "think.", None, None),
        ("reasoning", 0, "", "sig==", "stop"),
        ("other", 0, "", None, "stop"),
        ("text", 1, "It is ", None, None),
        ("text", 1, "warm.", None, None),
        ("other", 1, "", None, "stop"),
        ("reasoning", 2, "", "redacted:hidden==", None),
        ("other", 2, "", None, "stop"),
        ("tool_call", 3, (0, "toolu_3", "weather", ""), None, None),
        ("tool_call", 3, (0, None, None, ""), None, None),
        ("tool_call", 3, (0, None, None, '{"city":'), None, None),
        ("tool_call", 3, (0, None, None, ' "Graz"}'), None, None),
        ("other", 3, "", None, "tool_calls"),
        ("tool_call", 4, (1, "toolu_4", "weather", ""), None, None),
        ("tool_call", 4, (1, None, None, '{"code": '), None, None),
        ("tool_call", 4, (1, None, None, '"x"}'), None, None),
        ("other", 4, "", None, "stop"),
        ("other", 5, "out\n", None, "stop"),
        ("other", 5, "warned", None, "stop"),
        ("other", 5, "", None, "stop"),
        ("other", 5, "", None, "stop"),
        ("text", 6, "as a ", None, None),
        ("text", 6, "source says", None, None),
        ("other", 6, "a source", None, None),
        ("other", 6, "", None, "stop"),
        ("tool_call", 7, (2, "toolu_7", "weather", ""), None, None),
        ("tool_call", 7, (2, None, None, '{"city": "Linz"}'), None, None),
        ("other", 7, "", None, "tool_calls"),
        ("other", 0, "", None, "tool_calls"),
        ("end", 0, "", None, "tool_calls"),
    ]
    assert len({id(chunk.raw) for chunk in seen}) == len(objects(MANY))


@pytest.mark.parametrize(
    ("reason", "word"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter"),
     ("model_context_window_exceeded", "length"), ("pause_turn", "stop"), ("a_new_one", "a_new_one")],
)  # fmt: skip
def test_the_end_tells_usage_and_finish_reason_in_the_words_all_formats_share(reason: str, word: str) -> None:
    seen: list[Chunk] = []
    passed(stream(*answer(text(0, "a"), reason=reason)), lambda chunk: seen.append(chunk))  # type: ignore[func-returns-value]
    usage = Usage(28, 30, 5, 3, service_tier="standard", source="provider")
    assert [(chunk.kind, chunk.finish_reason, chunk.usage) for chunk in seen[-2:]] == [
        ("other", word, usage),
        ("end", word, usage),
    ]


def test_a_call_that_comes_whole_is_one_chunk_and_can_be_changed() -> None:
    begun = {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Graz"}}
    data = stream(*answer(block(0, begun), reason="tool_use"))

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.tool_call is None:
            return None
        assert chunk.tool_call == ToolCall(0, "t", "f", '{"city":"Graz"}')
        return [replace(chunk, tool_call=ToolCall(0, "u", "g", '{"city":"Linz"}'))]

    assert accepted(passed(data, hook))["content"] == [{"type": "tool_use", "id": "u", "name": "g", "input": {"city": "Linz"}}]


# Changed.


def test_a_changed_text_is_changed_in_its_own_event_and_nothing_else_is() -> None:
    said_before = {words(chunk) for chunk in chunks_of(MANY)}

    def loud(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: loud(child) for name, child in value.items()}
        if isinstance(value, list):
            return [loud(child) for child in value]
        return value.upper() if value in said_before else value

    assert consistent(passed(MANY, shout)) == [loud(value) for value in objects(MANY)]


def chunks_of(data: bytes) -> list[Chunk]:
    seen: list[Chunk] = []
    passed(data, lambda chunk: seen.append(chunk))  # type: ignore[func-returns-value]
    return seen


def test_dropped_text_is_in_no_event_and_its_blocks_are_well_formed() -> None:
    out = passed(MANY, drop)
    told = said(accepted(out))
    assert [value["type"] for value in consistent(out)].count("content_block_start") == 8
    assert (told["text"], told["thinking"]) == ("", "")
    assert [call[2] for call in told["calls"]] == [{}, {}]
    assert not {"It is ", "out\n", "warned", "a source"} & set(strings(objects(out)))


def test_a_block_whose_beginning_was_dropped_has_no_events_and_those_after_it_move_up() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.tool_call and chunk.tool_call.id in ("toolu_3", "toolu_4") else None)
    kinds = [block["type"] for block in accepted(out)["content"]]
    assert kinds == ["thinking", "text", "redacted_thinking", "code_execution_tool_result", "text", "tool_use"]
    consistent(out)
    assert b"Graz" not in out


def test_blocks_nobody_began_begin_with_their_text_and_those_nobody_ended_end() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.kind == "other" and not chunk.text else None)
    consistent(out)
    assert said(accepted(out)) == said(accepted(MANY))


def test_a_stream_of_which_nothing_is_left_is_an_empty_answer() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.kind != "end" else None)
    assert [value["type"] for value in consistent(out)] == ["message_start", "message_delta", "message_stop"]
    message = accepted(out)
    assert (message["content"], message["stop_reason"], message["id"]) == ([], "tool_use", "msg_1")


def test_what_was_held_until_the_end_comes_in_blocks_of_its_own() -> None:
    out = passed(MANY, holder(until_end=True))
    consistent(out)
    told, before = said(accepted(out)), said(accepted(MANY))
    assert {**told, "signatures": None} == {**before, "signatures": None}


def test_a_fragment_let_through_before_its_call_waits_for_it() -> None:
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.tool_call is not None and chunk.tool_call.id == "toolu_3":
            held.append(chunk)
            return []
        if chunk.tool_call is not None and "Graz" in chunk.tool_call.arguments:
            return [chunk, *held]
        return None

    out = passed(MANY, hook)
    consistent(out)
    assert said(accepted(out)) == said(accepted(MANY))


def test_a_changed_finish_reason_is_told_in_anthropics_words() -> None:
    out = passed(TEXT, lambda chunk: [replace(chunk, finish_reason="length")] if chunk.usage and chunk.kind == "other" else None)
    assert objects(out)[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert objects(out)[-2]["usage"] == {"output_tokens": 30}


def test_a_secret_over_many_pieces_is_in_no_event() -> None:
    secret = "Zq7hunter2Xw"
    pieces = ["my Zq7", "hunt", "er2Xw, and ", "Zq7hunter2Xw", " too"]
    data = stream(*answer(text(0, *pieces), tool(1, '{"a":"', "Zq7hunter", '2Xw"}'), text(2, *pieces)))
    window = TextWindow.sub(re.compile(secret), "*", hold=len(secret))
    for hook in (masker(secret), window.feed):
        out = passed(data, hook)
        assert secret not in "".join(strings(consistent(out)))
        told = said(accepted(out))
        assert (told["text"], told["calls"][0][2]) == ("my *, and * too" * 2, {"a": "*"})


def test_a_secret_that_a_tool_returned_can_be_masked() -> None:
    out = passed(MANY, TextWindow.sub(re.compile("warned"), "*", hold=6).feed)
    [result] = [block for block in accepted(out)["content"] if block["type"] == "code_execution_tool_result"]
    assert result["content"]["stderr"] == "*"


def test_of_what_a_tool_returned_a_part_can_be_dropped() -> None:
    out = passed(MANY, lambda chunk: [] if chunk.text == "out\n" else None)
    [result] = [block for block in accepted(out)["content"] if block["type"] == "code_execution_tool_result"]
    assert (result["content"]["stdout"], result["content"]["stderr"]) == ("", "warned")


def test_an_event_let_through_again_begins_and_ends_nothing_twice() -> None:
    past: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk]:
        again = [one for one in past if not words(one)]
        past.append(chunk)
        return [*again, chunk]

    out = passed(TEXT, hook)
    consistent(out)
    assert said(accepted(out)) == said(accepted(TEXT))


# Added.


def before(kind: str, at: int, *added: Chunk) -> Hook:
    """Adds Chunks before the first one of a kind and index."""
    todo = list(added)

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.kind != kind or chunk.index != at or not todo:
            return None
        due, todo[:] = [*todo, chunk], []
        return due

    return hook


def test_added_text_goes_on_in_the_block_that_is_open() -> None:
    out = passed(TEXT, before("text", 0, Chunk("text", "Servus! ")))
    consistent(out)
    assert accepted(out)["content"] == [{"type": "text", "text": "Servus! Grüß Gott 👋"}]


def test_added_text_before_the_first_block_has_a_block_of_its_own() -> None:
    out = passed(MANY, before("other", 0, Chunk("text", "First: ")))
    assert [block["type"] for block in accepted(out)["content"]][:2] == ["text", "thinking"]
    assert said(accepted(out))["text"].startswith("First: ")
    consistent(out)


def test_added_text_waits_for_the_end_of_a_block_in_which_it_cannot_stand() -> None:
    out = passed(MANY, before("tool_call", 3, Chunk("text", "I look. ")))
    told = [block["type"] for block in accepted(out)["content"]]
    assert told[2:5] == ["redacted_thinking", "text", "tool_use"]
    late = next(chunk for chunk in chunks_of(MANY) if chunk.tool_call and chunk.tool_call.arguments)
    out = passed(MANY, lambda chunk: [Chunk("text", "I look. "), chunk] if strung([chunk]) == strung([late]) else None)
    consistent(out)
    assert [block["type"] for block in accepted(out)["content"]][2:6] == [
        "redacted_thinking",
        "tool_use",
        "text",
        "server_tool_use",
    ]


def test_what_waited_goes_right_behind_the_end_of_the_block() -> None:
    codec = MessageCodec(MessageStream())
    out = b""
    for entry in EventSplitter(1 << 20).feed(stream(START, *tool(0, "{}"))):
        added = [Chunk("text", "look")] if b"partial_json" in entry[0] else []
        out = codec.encode([*codec.decode(entry), *added])
    assert [value["type"] for value in objects(out)][:3] == ["content_block_stop", "content_block_start", "content_block_delta"]


def test_an_added_call_is_a_block_and_the_rest_moves_up() -> None:
    call = Chunk("tool_call", tool_call=ToolCall(9, "mine", "look", '{"a":1}'))
    out = passed(MANY, before("end", 0, call))
    consistent(passed(TEXT, before("other", 0, call)))
    message = accepted(passed(TEXT, before("other", 0, call)))
    assert [block["type"] for block in message["content"]] == ["tool_use", "text"]
    assert message["content"][0] == {"type": "tool_use", "id": "mine", "name": "look", "input": {"a": 1}}
    assert out.count(b"message_delta") == 2


def test_the_same_chunk_twice_says_it_twice() -> None:
    out = passed(TEXT, lambda chunk: [chunk, chunk] if chunk.text == "Gott " else None)
    consistent(out)
    assert said(accepted(out))["text"] == "Grüß Gott Gott 👋"


# Ended early.


@pytest.mark.parametrize("at", range(len(objects(MANY)) - 1))
def test_an_answer_ended_early_is_a_whole_one(at: int) -> None:
    out = passed(MANY, ending_at(at, finish_reason="length", usage=Usage(9, 4, cache_read_tokens=2)))
    consistent(out)
    message = accepted(out)
    assert (message["stop_reason"], said(message)["tokens"]) == ("max_tokens", (7, 2, 0, 4))


def test_an_early_end_without_words_is_a_stop_with_the_usage_that_is_known() -> None:
    message = accepted(passed(TEXT, ending_at(4)))
    assert (message["stop_reason"], said(message)["tokens"]) == ("end_turn", (20, 5, 3, 1))


def test_an_end_at_the_end_leaves_what_the_provider_said() -> None:
    out = passed(TEXT, lambda chunk: [Chunk("end", finish_reason="length")] if chunk.kind == "end" else None)
    assert objects(out) == objects(TEXT)


def test_an_answer_whose_last_event_never_came_is_ended_by_nobody() -> None:
    data = stream(START, *text(0, "a"), ending()[0])
    facts = MessageStream()
    codec = MessageCodec(facts)
    out = b""
    for entry in EventSplitter(1 << 20).feed(data):
        facts.observe(entry)
        out += codec.encode(codec.decode(entry))
    assert not facts.finished
    end = codec.end()
    assert (end.finish_reason, end.raw) == ("stop", None)
    assert out + codec.encode([end]) == data


# Whatever plugins do.

ACTIONS: dict[str, Callable[[Chunk], list[Chunk]]] = {
    "pass": lambda chunk: [chunk],
    "copy": lambda chunk: [replace(chunk)],
    "drop": lambda chunk: [],
    "shout": lambda chunk: shout(chunk) or [chunk],
    "blank": lambda chunk: [saying(chunk, "")],
    "twice": lambda chunk: [chunk, chunk],
    "text before": lambda chunk: [Chunk("text", "+"), chunk],
    "text after": lambda chunk: [chunk, Chunk("text", "+")],
    "thought": lambda chunk: [Chunk("reasoning", "hm", signature="s"), chunk],
    "call": lambda chunk: [chunk, Chunk("tool_call", tool_call=ToolCall(5, "c", "n", '{"a":1}'))],
    "refusal": lambda chunk: [Chunk("other", "no"), chunk],
    "finish": lambda chunk: [chunk, Chunk("other", finish_reason="content_filter")],
}


@settings(max_examples=examples(150), deadline=None)
@given(actions=st.lists(st.sampled_from(sorted(ACTIONS)), min_size=1, max_size=80), hold=st.integers(0, 5))
def test_whatever_plugins_do_clients_get_a_well_formed_answer(actions: list[str], hold: int) -> None:
    held: list[Chunk] = []
    turns = iter(actions * 80)

    def hook(chunk: Chunk) -> list[Chunk]:
        if chunk.kind == "end":
            return [*held, chunk]
        held.extend(ACTIONS[next(turns)](chunk))
        due = held[: max(len(held) - hold, 0)]
        del held[: len(due)]
        return due

    out = passed(MANY, hook)
    events = objects(out) if _late(out) else consistent(out)
    facts, _ = observed(WIRE, [out])
    assert facts.done
    assert events[-1] == STOP
    assert accepted(out)["stop_reason"]


def _late(out: bytes) -> bool:
    """A fragment of a call stands behind the end of its block: it was held back for too long."""
    ended: set[int] = set()
    for value in objects(out):
        if value["type"] == "content_block_stop":
            ended.add(value["index"])
        elif value["type"] == "content_block_delta" and value["index"] in ended:
            assert value["delta"]["type"] == "input_json_delta"
            return True
    return False


def test_a_recording_through_every_kind_of_hook_is_a_well_formed_answer() -> None:
    for path in recordings("anthropic-messages"):
        data = path.read_bytes()
        dice = random.Random(path.name)
        for hook in (shout, drop, holder(until_end=True), ending_at(dice.randrange(len(objects(data)) - 1))):
            consistent(passed(data, hook))
        loud = said(accepted(passed(data, lambda chunk: shout(chunk) if chunk.kind == "text" else None)))
        assert loud["text"] == said(accepted(data))["text"].upper(), path.name


def test_thinking_and_a_call_survive_a_hook_that_only_changes_text() -> None:
    data = stream(*answer(thinking(0, "a"), text(1, "b"), tool(2, "{}"), reason="tool_use"))
    out = passed(data, lambda chunk: shout(chunk) if chunk.kind == "text" else None)
    assert assembled(observed(WIRE, [out])[0])["content"] == [
        {"type": "thinking", "thinking": "a", "signature": "sig=="},
        {"type": "text", "text": "B"},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
    ]
    assert event(json.loads(json.dumps(START))) in out


@settings(max_examples=examples(100), deadline=None)
@given(holds=st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_however_long_chunks_are_held_nothing_is_lost(holds: list[int]) -> None:
    held: list[Chunk] = []
    most = iter(holds * len(chunks_of(MANY)))

    def hook(chunk: Chunk) -> list[Chunk]:
        held.append(chunk)
        due = held[: max(len(held) - next(most), 0)] if chunk.kind != "end" else held[:]
        del held[: len(due)]
        return due

    told, before = said(accepted(passed(MANY, hook))), said(accepted(MANY))
    assert {**told, "signatures": None} == {**before, "signatures": None}


ODD: list[Any] = [
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    [],
    {},
    [[]],
    [{}],
    {"type": []},
    {"type": "text"},
    {"type": "tool_use"},
    {"input": 3},
]


def oddly(value: Any, dice: random.Random) -> Any:
    """A value with one of its members replaced, or taken away."""
    if not isinstance(value, dict) or not value or dice.random() < 0.2:
        return dice.choice(ODD)
    name = dice.choice(sorted(value))
    if dice.random() < 0.2:
        return {key: child for key, child in value.items() if key != name}
    return {**value, name: oddly(value[name], dice)}


@pytest.mark.parametrize("seed", range(60))
def test_nothing_strange_is_an_error(seed: int) -> None:
    dice = random.Random(seed)
    events = objects(MANY)
    for at in dice.sample(range(len(events) - 1), 4):
        kind = events[at]["type"]
        events[at] = oddly(events[at], dice)
        if not isinstance(events[at], dict) or events[at].get("error") or events[at].get("type") == "error":
            events[at] = {"type": kind}
    data = b"".join([b"event: x\ndata: " + json.dumps(value).encode() + b"\n\n" for value in events])
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    for hook in (shout, drop, holder(until_end=True)):
        assert objects(passed(data, hook))[-1] == STOP
    translated(data)
    facts, _ = observed(WIRE, [data])
    assert isinstance(assembled(facts), dict)
    answer = oddly(assembled(facts), dice)
    if isinstance(answer, dict) and "content" in answer:
        body = json.dumps(answer).encode()
        assert encode_plain(body, decode_message(body)) is body
        read_answer(body)

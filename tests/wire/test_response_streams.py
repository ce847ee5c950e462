"""Responses streams through every kind of hook: no secret gets through, any client can follow, and nothing strange is an error."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.reply import Chunk, ToolCall
from muxx.textwindow import TextWindow
from muxx.wire.responses.facts import TERMINAL
from muxx.wire.responses.items import DELTAS
from muxx.wire.wires import RESPONSES

from .passing import Hook, holder, masker, objects, observed, said, shout, strings, words
from .recordings import recordings
from .responses_judge import accepted, consistent, drop, ending, passed, texts_of
from .responses_kit import MANY, OWN, TEXT, answer, begun, call, ended, message, reasoning, stream

# No secret gets through.


def planted(data: bytes, secret: str, dice: random.Random) -> bytes | None:
    """The stream with a secret in one of its texts, split over two pieces; None when no text came in two pieces."""
    events = objects(data)
    pieces: dict[Any, list[Any]] = {}
    for event in events:
        if (form := DELTAS.get(event["type"])) is not None:
            pieces.setdefault((event["output_index"], form.path_of(event)), []).append(event)
    split = [deltas for deltas in pieces.values() if len(deltas) > 1]
    if not split:
        return None
    deltas = dice.choice(split)
    whole = "".join(event["delta"] for event in deltas)
    at, cut = dice.randrange(len(deltas) - 1), dice.randrange(1, len(secret))
    deltas[at]["delta"] += secret[:cut]
    deltas[at + 1]["delta"] = secret[cut:] + deltas[at + 1]["delta"]
    new = "".join(event["delta"] for event in deltas)

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(child) for name, child in value.items()}
        if isinstance(value, list):
            return [replaced(child) for child in value]
        return new if value == whole else value

    return b"".join([b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(replaced(e)).encode()) for e in events])


SECRET = "Zq7hunter2Xw"


def check_secret(data: bytes, dice: random.Random) -> None:
    with_secret = planted(data, SECRET, dice)
    if with_secret is None:
        return
    assert any(SECRET in text for text in strings(objects(with_secret)))
    out = passed(with_secret, masker(SECRET))
    joined = "".join(text for pieces in texts_of(out) for text in pieces.values())
    assert SECRET not in joined
    assert not any(SECRET in text for text in strings(consistent(out)))
    assert "*" in joined
    window = TextWindow.sub(re.compile(SECRET), "*", hold=len(SECRET))
    assert texts_of(passed(with_secret, window.feed))[1] == texts_of(out)[1]
    dropped = passed(with_secret, drop)
    assert not any(SECRET[:6] in text or SECRET[-6:] in text for text in strings(consistent(dropped)))


@pytest.mark.parametrize("seed", range(20))
def test_a_masked_secret_is_in_no_event_of_our_own_stream(seed: int) -> None:
    check_secret(MANY, random.Random(seed))


def test_a_masked_secret_is_in_no_event_of_any_recording() -> None:
    for number, path in enumerate(recordings("openai-responses")):
        check_secret(path.read_bytes(), random.Random(number))


HOOKS: dict[str, Callable[[], Hook]] = {
    "shout": lambda: shout,
    "hold": holder,
    "drop": lambda: drop,
    "calls": lambda: lambda chunk: [] if chunk.tool_call is not None else None,
    "note": lambda: lambda chunk: [Chunk("text", "Note. "), chunk],
    "cut": lambda: ending(9, finish_reason="length"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_every_recording_is_a_stream_any_client_can_follow_after_every_kind_of_change(name: str) -> None:
    for path in recordings("openai-responses"):
        consistent(passed(path.read_bytes(), HOOKS[name]()))


@pytest.mark.parametrize("name", HOOKS)
def test_the_sdk_follows_what_comes_out_of_twenty_recordings(name: str) -> None:
    for path in chosen(20):
        out = passed(path.read_bytes(), HOOKS[name]())
        texts = [text for place, text in sorted(texts_of(out)[1].items()) if place[-1] == "text" and place[1] == "content"]
        assert accepted(out) in ("", "".join(texts))


def chosen(most: int) -> list[Path]:
    """Small recordings: the SDK takes its time."""
    small = [path for path in recordings("openai-responses") if path.stat().st_size < 40_000]
    return random.Random(7).sample(small, min(most, len(small)))


_ACTIONS = ["keep", "drop", "shout", "split", "hold", "release", "add", "call", "end"]


@given(st.lists(st.sampled_from(_ACTIONS), min_size=1, max_size=60), st.integers(0, 2**32))
@settings(max_examples=examples(150), deadline=None)
def test_whatever_a_hook_does_the_stream_stays_one(actions: list[str], seed: int) -> None:
    held: list[Chunk] = []
    steps, ids = iter(actions), count()

    def hook(chunk: Chunk) -> list[Chunk] | None:
        action = next(steps, "keep")
        if chunk.kind == "end":
            return [*held, chunk]
        if action == "drop" and words(chunk):
            return []
        if action == "shout":
            return shout(chunk)
        if action == "split" and words(chunk):
            return [said(chunk, letter) for letter in words(chunk)]
        if action == "hold" and (words(chunk) or chunk.tool_call is not None):
            held.append(chunk)
            return []
        if action == "release":
            due, held[:] = [*held, chunk], []
            return due
        if action == "add":
            return [chunk, Chunk(("text", "reasoning", "other")[seed % 3], "+", chunk.index)]  # type: ignore[arg-type]
        if action == "call":
            return [Chunk("tool_call", tool_call=ToolCall(9, f"call_new_{next(ids)}", "f", "{}")), chunk]
        return [Chunk("end")] if action == "end" and seed % 3 == 0 else None

    data = [MANY, TEXT, OWN["whole"], stream(*answer(message(0, "a", "b"), reasoning(1, "c"), call(2, "d", "e")))][seed % 4]
    out = passed(data, hook)
    if data is not OWN["whole"]:  # there a text comes whole, and what is added to it in pieces
        consistent(out)
        pieces, whole = texts_of(out)
        assert {place: whole.get(place) for place in pieces} == pieces
    assert isinstance(accepted(out), str)


def test_an_answer_without_items_can_be_ended_and_added_to() -> None:
    data = stream(*begun(), *ended())
    out = passed(data, lambda chunk: [Chunk("text", "Hi."), chunk] if chunk.kind == "end" else None)
    assert accepted(out) == "Hi."
    assert accepted(passed(data, ending(0, finish_reason="stop"))) == ""


# Streams no provider should send.


@pytest.mark.parametrize("number", [-1, 10**9, 10**15, None, "0"])
def test_a_part_of_an_impossible_number_is_the_first(number: Any) -> None:
    events = message(0, "a", "b")[0]
    data = stream(*begun(), events[0], *[(kind, {**members, "content_index": number}) for kind, members in events[1:-1]])
    out = passed(data + stream(*ended()), lambda chunk: [Chunk("end")] if chunk.text == "b" else shout(chunk))
    assert objects(out)[-1]["response"]["output"][0]["content"] == [
        {"type": "output_text", "annotations": [], "logprobs": [], "text": "A"}
    ]


@pytest.mark.parametrize(
    "hook", [lambda chunk: [] if chunk.tool_call and chunk.tool_call.name else None, shout, drop, holder(until_end=True)]
)
def test_a_call_whose_beginning_comes_after_its_pieces_ends_too(hook: Hook) -> None:
    events, item = call(0, "a", "b")
    data = stream(*begun(), *events[1:], *ended(item))
    assert passed(data, lambda chunk: [replace(chunk)]) == data
    assert objects(passed(data, hook))[-1]["type"] == "response.completed"


DISORDER = ("lose", "repeat", "move", "place")


def mangled(data: bytes, dice: random.Random, actions: tuple[str, ...] = (*DISORDER, "member", "inner")) -> bytes:
    """The stream with events lost, repeated, moved and misplaced, and members of another type."""
    events = objects(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(events) - 1)
        action = dice.choice(actions)
        if action == "lose" and len(events) > 2:
            del events[at]
        elif action == "repeat":
            events.insert(at, events[at])
        elif action == "move":
            events.insert(dice.randrange(len(events) - 1), events.pop(at))
        elif action == "place":
            events[at]["output_index"] = dice.randrange(8)
        else:
            holders = [event for event in events[at].values() if isinstance(event, dict)] if action == "inner" else [events[at]]
            for holder in filter(None, holders):
                holder[dice.choice(sorted(holder))] = dice.choice([None, 7, -1, 10**12, "x", [], {}, [1], {"type": "message"}])
    return b"".join([b"event: x\ndata: %b\n\n" % json.dumps(event).encode() for event in events])


@pytest.mark.parametrize("seed", range(150))
def test_a_strange_stream_is_no_error_and_nobody_touched_it_leaves_as_its_own_bytes(seed: int) -> None:
    dice = random.Random(seed)
    data = mangled(dice.choice([MANY, TEXT, OWN["whole"]]), dice)
    facts, sent = observed(RESPONSES, [data])
    assert passed(data, lambda chunk: [replace(chunk)]) == sent
    own_end = [Chunk("text", "!"), Chunk("end", finish_reason="length")]
    at_the_end: Hook = lambda chunk: own_end if chunk.kind == "end" else None  # noqa: E731
    for hook in (shout, drop, holder(), holder(until_end=True), masker("Graz"), ending(5), at_the_end):
        out = passed(data, hook)
        assert not facts.done or objects(out)[-1]["type"] in (*TERMINAL, objects(sent)[-1]["type"])


@pytest.mark.parametrize("seed", range(60))
def test_a_dropped_text_is_in_no_event_of_a_stream_in_disorder(seed: int) -> None:
    said = {event["delta"] for event in objects(MANY) if "delta" in event} | set(texts_of(MANY)[1].values())
    out = passed(mangled(MANY, random.Random(seed), DISORDER), drop)
    assert not [text for text in strings(objects(out)) if any(secret in text for secret in said if len(secret) > 3)]

"""Google's answers through chunk hooks: what nobody touched leaves as it came, what was changed is rebuilt, and no secret stays."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.textwindow import TextWindow
from muxx.wire.gemini import GenerateCodec, GenerateStream, decode_generated, encode_plain
from muxx.wire.gemini.writer import Writer
from muxx.wire.wire import AnswerHead

from .gemini_kit import CALL, CITED, MANY, OWN, TEXT, TWO, accepted, answer, candidate, event, events, passed, said
from .passing import Hook, holder, hooked, masker, objects, shout, strings, words
from .recordings import recordings


def test_thousands_of_calls_amid_their_arguments_are_each_looked_at_once() -> None:
    writer = Writer(GenerateStream())
    started = time.process_time()
    for number in range(20_000):
        assert writer.add(Chunk("tool_call", "", 0, ToolCall(number, f"call_{number}", "f", "{"))) == b""
    assert time.process_time() - started < 2
    for number in range(20_000):
        assert writer.add(Chunk("tool_call", "", 0, ToolCall(number, None, None, "}"))) == b""
    assert writer.close_calls("stop").count(b"functionCall") == 20_000


def decoded(data: bytes) -> list[Chunk]:
    codec = GenerateCodec(GenerateStream())
    return [chunk for found in events(data) for chunk in codec.decode(found)]


def told(chunk: Chunk) -> tuple[Any, ...]:
    call = chunk.tool_call
    return (chunk.kind, chunk.text if call is None else (call.index, call.id, call.name, call.arguments), chunk.finish_reason)


@pytest.mark.parametrize("name", OWN)
def test_hooks_that_change_nothing_leave_every_byte(name: str) -> None:
    assert passed(OWN[name], lambda chunk: None) == OWN[name]
    assert passed(OWN[name], lambda chunk: [replace(chunk)]) == OWN[name]


def test_every_part_is_a_chunk_and_so_is_the_finish_reason() -> None:
    chunks = decoded(MANY)
    assert [told(chunk) for chunk in chunks] == [
        ("reasoning", "Let me think. ", None),
        ("reasoning", "Yes.", None),
        ("text", "It is ", None),
        ("text", "warm.", None),
        ("tool_call", (0, "f1", "weather", '{"city":"Graz","days":2}'), None),
        ("tool_call", (1, None, "time", "{}"), None),
        ("other", "print(1)", None),
        ("other", "1\n", None),
        ("other", "", None),
        ("other", "", "tool_calls"),
    ]
    assert [chunk.signature for chunk in chunks if chunk.signature] == ["c2ln", "Y2FsbA=="]
    assert {chunk.raw for chunk in chunks} == {found[0] for found in events(MANY)}
    assert chunks[1].usage == Usage(5, 10, reasoning_tokens=9, source="provider")


def test_candidates_are_told_apart() -> None:
    assert [(chunk.index, *told(chunk)) for chunk in decoded(TWO)] == [
        (0, "text", "a", None),
        (1, "text", "b", None),
        (1, "text", "c", None),
        (1, "other", "", "length"),
        (0, "text", "d", None),
        (0, "other", "", "stop"),
    ]


def test_a_blocked_prompt_and_an_event_with_nothing_in_it_are_chunks_too() -> None:
    assert [told(chunk) for chunk in decoded(OWN["blocked"])] == [("other", "", "content_filter")]
    assert told(decoded(OWN["usage_apart"])[-1]) == ("other", "", None)


def test_an_answer_ends_with_why_and_with_its_usage() -> None:
    facts = GenerateStream()
    for found in events(TEXT):
        facts.observe(found)
    assert GenerateCodec(facts).end() == Chunk("end", finish_reason="stop", usage=facts.usage)


def test_a_changed_text_changes_nothing_else_of_its_event() -> None:
    out = objects(passed(MANY, lambda chunk: [replace(chunk, text="cold.")] if chunk.text == "warm." else None))
    before = objects(MANY)
    assert out[3]["candidates"][0]["content"]["parts"] == [{"text": "cold."}]
    assert {**out[3], "candidates": []} == {**before[3], "candidates": []}
    assert [*out[:3], *out[4:]] == [*before[:3], *before[4:]]


def test_a_dropped_part_is_gone_and_the_others_stay() -> None:
    out = objects(passed(MANY, lambda chunk: [] if chunk.tool_call and chunk.tool_call.name == "weather" else None))
    assert out[4]["candidates"][0]["content"]["parts"] == [{"functionCall": {"name": "time", "args": {}}}]
    assert len(out) == len(objects(MANY))


def test_an_event_of_which_nothing_is_left_is_gone() -> None:
    out = objects(passed(MANY, lambda chunk: [] if chunk.kind == "reasoning" else None))
    assert out == objects(MANY)[2:]


def test_a_changed_call_has_its_arguments_as_an_object() -> None:
    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.tool_call is None or chunk.tool_call.name != "weather":
            return None
        return [replace(chunk, tool_call=replace(chunk.tool_call, arguments='{"city":"***"}'))]

    parts = objects(passed(MANY, hook))[4]["candidates"][0]["content"]["parts"]
    assert parts[0] == {"functionCall": {"id": "f1", "name": "weather", "args": {"city": "***"}}, "thoughtSignature": "Y2FsbA=="}
    with pytest.raises(ValueError, match="no JSON object"):
        passed(MANY, lambda chunk: [replace(chunk, tool_call=ToolCall(0, arguments="{"))] if chunk.tool_call else None)


def test_code_and_what_running_it_gave_can_be_changed() -> None:
    out = objects(passed(MANY, shout))
    assert out[5]["candidates"][0]["content"]["parts"][0]["executableCode"] == {"language": "PYTHON", "code": "PRINT(1)"}
    dropped = passed(MANY, lambda chunk: [] if chunk.kind == "other" and not chunk.finish_reason else None)
    assert b"executableCode" not in dropped
    assert b"inlineData" not in dropped


def test_a_finish_reason_can_be_changed() -> None:
    out = objects(passed(TEXT, lambda chunk: [replace(chunk, finish_reason="length")] if chunk.finish_reason == "stop" else None))
    assert out[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert len(out) == 3


def test_a_dropped_finish_reason_is_said_at_the_end_by_the_end() -> None:
    out = objects(passed(TEXT, lambda chunk: [] if chunk.kind == "other" else None))
    assert ["finishReason" in found["candidates"][0] for found in out] == [False, False, False, True]
    assert out[-1]["usageMetadata"] == {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}


def test_what_is_added_has_events_of_its_own_between_the_pieces() -> None:
    out = passed(TEXT, lambda chunk: [Chunk("text", "<"), chunk, Chunk("text", ">")] if chunk.kind == "text" else None)
    assert accepted(out).text == {0: "<Grüß ><Gott ><👋>"}
    assert accepted(out).finish == {0: "STOP"}
    assert events(TEXT)[0][0] in out


def test_a_text_cut_in_two_is_two_events_before_the_finish_reason() -> None:
    def halves(chunk: Chunk) -> list[Chunk] | None:
        return [replace(chunk, text=part) for part in (chunk.text[:1], chunk.text[1:])] if chunk.kind == "text" else None

    out = objects(passed(TEXT, halves))
    texts = ["".join(part["text"] for part in found["candidates"][0]["content"]["parts"]) for found in out]
    assert "".join(texts) == "Grüß Gott 👋"
    finished = [found["candidates"][0].get("finishReason") for found in out]
    assert finished == [None] * (len(out) - 1) + ["STOP"]


def test_what_goes_out_late_does_not_take_the_usage_back() -> None:
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.text == "Grüß ":
            held.append(replace(chunk, text="üß "))
            return [replace(chunk, text="Gr")]
        return [chunk, *held] if chunk.text == "Gott " else None

    out = objects(passed(TEXT, hook))
    assert [found["candidates"][0]["content"]["parts"][0]["text"] for found in out] == ["Gr", "Gott ", "üß ", "👋"]
    assert [found["usageMetadata"]["candidatesTokenCount"] for found in out] == [1, 2, 2, 3]


def test_a_plugin_ends_an_answer_early() -> None:
    numbers = count()
    ending: Hook = lambda chunk: [Chunk("end", finish_reason="length")] if next(numbers) == 1 else None  # noqa: E731
    out = passed(TEXT, ending)
    reply = accepted(out)
    assert (reply.text, reply.finish) == ({0: "Grüß "}, {0: "MAX_TOKENS"})
    assert passed(TWO, lambda chunk: [Chunk("end")] if chunk.text == "d" else None).count(b"finishReason") == 2


def test_a_plugin_ends_an_answer_of_which_nothing_went_out() -> None:
    reply = accepted(passed(TEXT, lambda chunk: [Chunk("end")]))
    assert (reply.text, reply.finish) == ({}, {0: "STOP"})


def test_candidates_keep_apart_when_one_is_dropped() -> None:
    reply = accepted(passed(TWO, lambda chunk: [] if chunk.index == 1 and chunk.kind == "text" else None))
    assert (reply.text, reply.finish) == ({0: "ad"}, {0: "STOP", 1: "MAX_TOKENS"})


def test_a_call_that_was_held_back_is_still_its_own_event() -> None:
    held: list[Chunk] = []

    def hook(chunk: Chunk) -> list[Chunk] | None:
        if chunk.tool_call is not None:
            held.append(chunk)
            return []
        if chunk.finish_reason and held:
            due = [*held, chunk]
            held.clear()
            return due
        return None

    reply = accepted(passed(MANY, hook))
    assert reply.calls == accepted(MANY).calls
    assert events(MANY)[4][0] in passed(MANY, hook)


def test_citations_go_once_the_text_is_another() -> None:
    changed = objects(passed(CITED, lambda chunk: [replace(chunk, text="grey.")] if chunk.text == "blue." else None))[-1]
    [cited] = changed["candidates"]
    assert cited["groundingMetadata"] == {"webSearchQueries": ["sky"]}
    assert "citationMetadata" not in cited
    assert cited["logprobsResult"], "the tokens of this event's own text are as they were"
    assert passed(CITED, lambda chunk: None) == CITED


def test_log_probabilities_go_with_the_text_they_give_away() -> None:
    for hook in (shout, lambda chunk: [] if chunk.kind == "text" else None):
        assert b"logprobsResult" not in passed(CITED, hook)


SECRET = "Zq7hunter2Xw"


def planted(data: bytes, dice: random.Random) -> bytes | None:
    """The stream with a secret in its text, split over two events; None when no text came in two pieces."""
    found = objects(data)
    parts = [part for value in found for part in value["candidates"][0]["content"]["parts"] if part.get("text")]
    texts = [part for part in parts if not part.get("thought")]
    if len(texts) < 2:
        return None
    at, cut = dice.randrange(len(texts) - 1), dice.randrange(1, len(SECRET))
    texts[at]["text"] += SECRET[:cut]
    texts[at + 1]["text"] = SECRET[cut:] + texts[at + 1]["text"]
    whole = "".join(part["text"] for part in texts)
    found[-1]["candidates"][0].setdefault("groundingMetadata", {})["groundingSupports"] = [{"segment": {"text": whole}}]
    return b"".join(b"data: " + json.dumps(value).encode() + b"\r\n\r\n" for value in found)


def check_secret(data: bytes, dice: random.Random) -> bool:
    with_secret = planted(data, dice)
    if with_secret is None:
        return False
    window = TextWindow.sub(re.compile(SECRET), "*", hold=len(SECRET))
    for hook in (masker(SECRET), window.feed):
        out = passed(with_secret, hook)
        assert SECRET not in accepted(out).text[0]
        assert not any(SECRET in text for text in strings(objects(out)))
        assert "*" in accepted(out).text[0]
    return True


@pytest.mark.parametrize("seed", range(10))
def test_a_masked_secret_is_in_no_event_of_our_own_stream(seed: int) -> None:
    assert check_secret(MANY, random.Random(seed))


def test_a_masked_secret_is_in_no_event_of_any_recording() -> None:
    checked = [
        check_secret(path.read_bytes(), random.Random(number)) for number, path in enumerate(recordings("gemini-generate"))
    ]
    assert any(checked)


HOOKS: dict[str, Callable[[], Hook]] = {
    "shout": lambda: shout,
    "hold": holder,
    "drop": lambda: lambda chunk: [] if words(chunk) else None,
    "note": lambda: lambda chunk: [Chunk("text", "Note. "), chunk],
    "cut": lambda: _ending(3),
}


def _ending(at: int) -> Hook:
    numbers = count()
    return lambda chunk: [Chunk("end", finish_reason="length")] if next(numbers) == at else None


@pytest.mark.parametrize("name", HOOKS)
def test_every_recording_is_a_stream_googles_sdk_follows_after_every_kind_of_change(name: str) -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        hook = HOOKS[name]()
        if name == "shout":
            hook = lambda chunk: None if chunk.tool_call is not None else shout(chunk)  # noqa: E731
        before, reply = accepted(data), accepted(passed(data, hook))
        assert len(reply.finish) == 1
        if name == "hold":
            assert (reply.text, reply.calls, reply.usage) == (before.text, before.calls, before.usage)
        elif name == "shout":
            assert reply.text == {index: text.upper() for index, text in before.text.items()}
            assert (reply.calls, reply.usage) == (before.calls, before.usage)


_ACTIONS = ("keep", "drop", "shout", "split", "hold", "release", "add", "end")


class _Fuzzer:
    """A plugin that does anything to texts, and keeps book of what should have come out."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._held: list[Chunk] = []
        self.text = ""

    def __call__(self, chunk: Chunk) -> list[Chunk]:
        results = self._act(chunk)
        self.text += "".join(found.text for found in results if found.kind == "text")
        return results

    def _act(self, chunk: Chunk) -> list[Chunk]:
        action = self._dice.choice(_ACTIONS)
        if chunk.kind == "end" or chunk.finish_reason:
            due, self._held = [*self._held, chunk], []
            return due
        if chunk.kind != "text":
            return [chunk]
        if action == "drop":
            return []
        if action == "shout":
            return [replace(chunk, text=chunk.text.upper())]
        if action == "split":
            return [replace(chunk, text=chunk.text[:2]), replace(chunk, text=chunk.text[2:])]
        if action == "hold":
            self._held.append(chunk)
            return []
        if action == "release":
            due, self._held = [*self._held, chunk], []
            return due
        if action == "add":
            return [Chunk("text", "!"), chunk]
        if action == "end" and self._dice.random() < 0.2:
            return [Chunk("end", finish_reason="stop")]
        return [chunk]


@pytest.mark.parametrize("seed", range(150))
def test_what_a_plugin_lets_through_is_what_the_client_gets(seed: int) -> None:
    data = (MANY, CITED, TEXT)[seed % 3]
    hook = _Fuzzer(seed)
    reply = accepted(passed(data, hook))
    assert reply.text.get(0, "") == hook.text
    assert list(reply.finish) == [0]


# Plain answers.


@pytest.mark.parametrize("name", OWN)
def test_a_plain_answer_nobody_touched_keeps_its_bytes(name: str) -> None:
    body = answer(OWN[name])
    assert encode_plain(body, decode_generated(body)) == body


def test_a_changed_plain_answer_keeps_all_that_was_not_changed() -> None:
    body = answer(CITED)
    chunks = decode_generated(body)
    changed = json.loads(encode_plain(body, hooked(chunks, shout)))
    before = json.loads(body)
    [cited] = before["candidates"]
    cited["content"]["parts"] = [{"text": "THE SKY IS BLUE. MOSTLY."}]
    del cited["groundingMetadata"]["groundingSupports"], cited["citationMetadata"], cited["logprobsResult"]
    assert changed == before


def test_a_plain_answer_shortened_by_a_plugin_says_why_it_ends() -> None:
    body = answer(MANY)
    first = decode_generated(body)[:1]
    out = json.loads(encode_plain(body, [*first, Chunk("end", finish_reason="length")]))
    [only] = out["candidates"]
    assert only["content"]["parts"] == [{"text": "Let me think. Yes.", "thought": True}]
    assert only["finishReason"] == "MAX_TOKENS"


@pytest.mark.parametrize("name", ["text", "many", "cited", "two"])
def test_a_plain_answer_can_be_streamed_chunk_by_chunk(name: str) -> None:
    body = answer(OWN[name])
    codec = GenerateCodec(GenerateStream())
    out = b"".join([codec.encode([chunk]) for chunk in decode_generated(body)]) + codec.last()
    before = json.loads(body)
    before["candidates"][0].pop("logprobsResult", None)  # of a text that stands in another event now
    assert json.loads(answer(out)) == before
    assert accepted(out).same_as(accepted(OWN[name]))


def test_chunks_of_another_format_are_written_anew() -> None:
    raw = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    codec = GenerateCodec(GenerateStream())
    out = codec.encode([Chunk("text", "hi", raw=raw), Chunk("other", finish_reason="stop", raw=raw)])
    out += codec.encode([Chunk("end", raw=b"data: [DONE]\n\n")]) + codec.last()
    assert (accepted(out).text, accepted(out).finish) == ({0: "hi"}, {0: "STOP"})


@pytest.mark.parametrize("raw", [b"data: nonsense\n\n", b": comment\n\n", b"data: [1]\n\n", b"data: [DONE]\n\n", b""])
def test_chunks_with_bytes_that_are_no_event_are_written_anew(raw: bytes) -> None:
    codec = GenerateCodec(GenerateStream())
    assert accepted(codec.encode([Chunk("text", "hi", raw=raw)]) + codec.last()).text == {0: "hi"}


def test_events_that_say_nothing_are_no_chunks() -> None:
    codec = GenerateCodec(GenerateStream())
    for data in (b": comment\n\n", b"data:\n\n", b"data: [DONE]\n\n"):
        assert codec.decode(events(data)[0]) == []
    assert GenerateCodec(AnswerHead("r", "m", None)).end() == Chunk("end")


def test_a_finish_reason_that_failed_stays_what_it_was() -> None:
    out = passed(OWN["failed"], shout)
    assert objects(out)[-1] == objects(OWN["failed"])[-1]
    assert said("x") not in out
    assert event(candidate(CALL)) not in out

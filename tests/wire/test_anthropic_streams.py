"""Anthropic streams observed: what is learnt of an answer while it passes, and what is done with each of its events."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from thoroughness import some

from muxx.errors import UpstreamError, UpstreamProtocolError
from muxx.money import Usage
from muxx.wire.anthropic import MessageStream, assembled, message_usage_object, read_message, read_message_usage
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import Verdict

from .anthropic_kit import (
    MANY,
    MESSAGE,
    OWN,
    PING,
    START,
    STOP,
    TEXT,
    USAGE,
    WIRE,
    accepted,
    accepted_plain,
    answer,
    block,
    ending,
    event,
    stream,
    text,
    tool,
)
from .passing import objects, observed
from .recordings import cuts, recordings


def facts_of(data: bytes) -> MessageStream:
    facts, _ = observed(WIRE, [data])
    assert isinstance(facts, MessageStream)
    return facts


def verdicts(data: bytes) -> list[Verdict]:
    facts = MessageStream()
    return [facts.observe(entry) for entry in EventSplitter(1 << 24).feed(data)]


# What is learnt.


def test_the_facts_of_an_answer() -> None:
    facts = facts_of(TEXT)
    assert (facts.id, facts.model, facts.created, facts.service_tier) == ("msg_1", "claude-sonnet-4-5", None, "standard")
    assert (facts.text, facts.finish_reasons, facts.done, facts.finished) == ("Grüß Gott 👋", {0: "stop"}, True, True)
    assert facts.output_bytes == len("Grüß Gott 👋".encode())
    assert not facts.ends_with_body


def test_all_input_is_input_whether_or_not_the_cache_had_it() -> None:
    usage = facts_of(TEXT).usage
    assert usage == Usage(28, 30, 5, 3, service_tier="standard", source="provider")


def test_of_counts_told_twice_the_later_one_holds_and_null_says_nothing() -> None:
    data = stream(START, *text(0, "a"), *ending(input_tokens=100, cache_read_input_tokens=None, cache_creation_input_tokens=0))
    assert facts_of(data).usage == Usage(105, 30, 5, 0, service_tier="standard", source="provider")


def test_what_a_compaction_took_is_billed_though_the_totals_leave_it_out() -> None:
    spent = [{"type": "compaction", "input_tokens": 100, "output_tokens": 8, "cache_read_input_tokens": 50}]
    other = [{"type": "advisor_message", "input_tokens": 7, "output_tokens": 7}, {"type": "message"}]
    usage = facts_of(stream(START, *ending(iterations=[*spent, *other]))).usage
    assert usage == Usage(178, 38, 55, 3, service_tier="standard", source="provider")


def test_thinking_is_output_and_known_apart() -> None:
    usage = facts_of(stream(START, *ending(output_tokens_details={"thinking_tokens": 12}))).usage
    assert usage is not None
    assert (usage.output_tokens, usage.reasoning_tokens) == (30, 12)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, (Usage(3, 4, source="provider"), False)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 1}},
         (Usage(6, 4, cache_write_tokens=3, cache_write_1h_tokens=1, source="provider"), False)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 9}},
         (Usage(12, 4, cache_write_tokens=9, cache_write_1h_tokens=9, source="provider"), False)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 10}},
         (Usage(12, 4, cache_write_tokens=9, source="provider"), True)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation": {"ephemeral_5m_input_tokens": -2, "ephemeral_1h_input_tokens": 1}},
         (Usage(4, 4, cache_write_tokens=1, cache_write_1h_tokens=1, source="provider"), True)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation": "some"}, (Usage(3, 4, source="provider"), True)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation": None}, (Usage(3, 4, source="provider"), False)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": -1}, (Usage(3, 4, source="provider"), True)),
        ({"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 5}},
         (Usage(3, 4, source="provider"), True)),
        ({"input_tokens": 3, "output_tokens": 4, "output_tokens_details": "x"}, (Usage(3, 4, source="provider"), True)),
        ({"input_tokens": True, "output_tokens": 4}, (None, True)),
        ({"input_tokens": 3}, (None, True)),
        ("many", (None, True)),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_true_are_told_apart(told: Any, expected: Any) -> None:
    assert read_message_usage(told) == expected


def test_a_usage_object_is_read_back_as_it_was_written() -> None:
    usage = Usage(28, 30, 5, 3, 7, cache_write_1h_tokens=2, source="provider")
    assert read_message_usage(message_usage_object(usage)) == (usage, False)


def test_text_after_a_usage_report_is_known_to_be_uncounted() -> None:
    facts = MessageStream()
    seen = []
    for entry in EventSplitter(1 << 24).feed(stream(*answer(text(0, "a")))):
        facts.observe(entry)
        seen.append(facts.text_since_usage)
    assert seen == [False, False, False, True, True, False, False]


def test_every_text_the_model_wrote_counts_as_output() -> None:
    whole = "Let me think.It is warm.as a source saysweatherweatherweather"
    arguments = '{"city": "Graz"}{"code": "x"}{"city": "Linz"}'
    assert facts_of(MANY).output_bytes == len(whole) + len(arguments)
    assert facts_of(MANY).text == "It is warm.as a source says"


@pytest.mark.parametrize("begun", [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}])
def test_a_call_that_comes_whole_counts_as_output_too(begun: dict[str, Any]) -> None:
    assert facts_of(stream(*answer(block(0, begun)))).output_bytes == len('f{"a":1}')


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("odd_delta", "unnamed")])  # which the SDK does not read
def test_the_assembled_answer_is_the_message_the_sdk_accumulates(name: str) -> None:
    mine, theirs = assembled(facts_of(OWN[name])), accepted(OWN[name])
    told = theirs["usage"].keys()
    assert {**mine, "usage": {name: mine["usage"][name] for name in told}} == theirs
    assert accepted_plain(json.dumps(mine).encode())["content"] == theirs["content"]


def test_a_call_that_was_cut_short_is_kept_as_it_came() -> None:
    data = stream(START, *tool(0, '{"city": "Gr')[:-1])
    assert assembled(facts_of(data))["content"][0]["input"] == {"partial_json": '{"city": "Gr'}


def test_what_is_said_of_the_message_at_its_end_is_in_the_assembled_one() -> None:
    delta = {"stop_reason": "end_turn", "stop_sequence": None, "container": {"id": "c"}}
    end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}, "context_management": {"applied_edits": []}}
    message = assembled(facts_of(stream(START, end, STOP)))
    assert (message["container"], message["context_management"]) == ({"id": "c"}, {"applied_edits": []})


# What is done with an event.


def test_every_event_goes_on_and_the_last_is_known() -> None:
    assert verdicts(TEXT) == [Verdict.FORWARD] * 8 + [Verdict.DONE]


@pytest.mark.parametrize("named", [True, False])
def test_an_error_of_the_provider_ends_the_stream(named: bool) -> None:
    told = {"type": "overloaded_error", "message": "Overloaded"}
    facts = MessageStream()
    raw = event({"type": "error", "error": told}, named)
    [entry] = EventSplitter(1 << 20).feed(raw)
    assert facts.observe(entry) is Verdict.ERROR_EVENT
    assert (facts.error, facts.finished, facts.done) == (told, False, False)


def test_an_error_of_another_format_is_one_too() -> None:
    assert verdicts(b'data: {"error":{"message":"no"}}\n\n') == [Verdict.ERROR_EVENT]


def test_what_an_event_is_its_data_says() -> None:
    wrong = stream(*answer(text(0, "a")), named=False).replace(b"data:", b"event: nonsense\ndata:")
    assert facts_of(wrong).text == "a"
    assert facts_of(wrong).done


@pytest.mark.parametrize("raw", [b": hello\n\n", b"\n\n", event(PING), event({"type": "hologram"}), b'data: {"odd": 1}\n\n'])
def test_pings_comments_and_unknown_events_go_on(raw: bytes) -> None:
    assert verdicts(raw) == [Verdict.FORWARD]


@pytest.mark.parametrize("raw", [b"event: content_block_delta\n\n", b"data:\n\n", b"data: [DONE]\n\n"])
def test_events_without_data_and_ends_of_other_formats_are_dropped(raw: bytes) -> None:
    assert verdicts(raw) == [Verdict.DROP]


@pytest.mark.parametrize("data", [b"no json", b"[1]", b'"message_stop"', b"{"])
def test_garbage_is_an_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        verdicts(b"data: " + data + b"\n\n")


def test_an_answer_may_not_end_before_its_last_event_though_its_stop_reason_has_come() -> None:
    facts = MessageStream()
    finished = []
    for entry in EventSplitter(1 << 20).feed(stream(START, *text(0, "a"), *ending())):
        facts.observe(entry)
        finished.append(facts.finished)
    assert finished == [False] * 5 + [True]


@pytest.mark.parametrize(
    "value",
    [
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": 7}},
        {"type": "content_block_delta", "delta": None},
        {"type": "content_block_start", "content_block": 3},
        {"type": "message_start", "message": []},
        {"type": "message_delta", "delta": {"stop_reason": 3}, "usage": 7},
        {"type": ["message_stop"]},
    ],
)
def test_a_member_of_an_unexpected_type_is_passed_over(value: dict[str, Any]) -> None:
    facts = MessageStream()
    [entry] = EventSplitter(1 << 20).feed(b"data: " + json.dumps(value).encode() + b"\n\n")
    assert facts.observe(entry) is Verdict.FORWARD
    assert not facts.finished
    assembled(facts)


def test_the_json_of_the_last_event_is_kept_for_whoever_needs_it() -> None:
    facts = MessageStream()
    for entry, value in zip(EventSplitter(1 << 20).feed(MANY), objects(MANY), strict=True):
        facts.observe(entry)
        assert facts.value == value
    facts.observe((b": hi\n\n", None))
    assert facts.value is None


# However it is cut.


@pytest.mark.parametrize("name", OWN)
def test_a_stream_cut_anywhere_is_the_same_stream(name: str) -> None:
    data = OWN[name]
    whole = assembled(facts_of(data))
    for at in range(0, len(data), 1 if len(data) < 3000 else 7):
        facts, out = observed(WIRE, [data[:at], data[at:]])
        assert data.removeprefix(out) in (b"", b"\n")  # the CR of the last line end is enough
        assert assembled(facts) == whole


def test_every_recording_cut_anywhere_passes_as_it_came() -> None:
    for path in some(recordings("anthropic-messages"), least=8):
        data = path.read_bytes()
        whole = assembled(facts_of(data))
        ways = [[data[:at], data[at:]] for at in some(range(len(data)), 0.1)] if len(data) < 2600 else []
        for pieces in [*ways, *(list(cuts(data, seed)) for seed in range(4))]:
            facts, out = observed(WIRE, pieces)
            assert out == data, path.name
            assert assembled(facts) == whole


def test_of_every_recording_the_facts_are_those_the_sdk_has() -> None:
    for path in recordings("anthropic-messages"):
        facts, theirs = facts_of(path.read_bytes()), accepted(path.read_bytes())
        mine = assembled(facts)
        assert (facts.done, facts.usage_invalid) == (True, False), path.name
        assert facts.stop_reason == theirs["stop_reason"]
        assert facts.text == "".join(block["text"] for block in theirs["content"] if block["type"] == "text")
        # The SDK has no words for compactions.
        known = [pair for pair in zip(mine["content"], theirs["content"], strict=True) if pair[0]["type"] != "compaction"]
        assert [a for a, _ in known] == [b for _, b in known], path.name
        usage = theirs["usage"]
        total = sum(usage.get(name) or 0 for name in USAGE if name != "output_tokens")
        read, _ = read_message_usage(mine["usage"])
        assert read is not None
        assert (read.input_tokens, read.output_tokens) == (total, usage["output_tokens"]), path.name


# Plain.


def test_a_plain_answer_says_the_same_as_its_stream() -> None:
    streamed = facts_of(MANY)
    plain = read_message(json.dumps(assembled(streamed)).encode())
    assert (plain.text, plain.usage, plain.finish_reasons) == (streamed.text, streamed.usage, streamed.finish_reasons)
    assert assembled(plain) == assembled(streamed)
    assert not plain.text_since_usage


@pytest.mark.parametrize("body", [b'{"type":"error","error":{"type":"api_error","message":"no"}}', b"<html>", b'{"error":"no"}'])
def test_an_error_is_no_answer(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_message(body)


@pytest.mark.parametrize("body", [b"[]", b"nothing", b""])
def test_what_is_no_object_is_no_answer(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        read_message(body)


def test_an_answer_of_strange_members_is_read_for_what_it_says() -> None:
    dice = random.Random(5)
    odd = [None, 3, "x", [], {}, [{"type": []}], {"type": "text"}, [{"text": 3, "type": "text"}]]
    for _ in range(300):
        body = {**MESSAGE, **{name: dice.choice(odd) for name in dice.sample(sorted(MESSAGE), 3) if name != "type"}}
        facts = read_message(json.dumps(body).encode())
        assert isinstance(facts.text, str)
        assert facts.output_bytes >= 0

"""Google's streams while they pass: what is learnt of them, when they are complete, and that they pass unchanged."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
from thoroughness import some

from muxx.errors import UpstreamError, UpstreamProtocolError
from muxx.testing.cutting import every_cut
from muxx.wire.gemini import GenerateReader, GenerateStream, assembled, read_generated
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import Verdict

from .gemini_kit import (
    CALL,
    HEAD,
    MANY,
    OWN,
    TEXT,
    accepted,
    accepted_plain,
    answer,
    candidate,
    damaged,
    event,
    events,
    passed,
    said,
    usage,
)
from .passing import objects
from .recordings import cuts, recordings


def observed(pieces: list[bytes]) -> tuple[GenerateStream, bytes]:
    """The facts of a stream, and what of it goes out: its events, and the line end that is left of the last."""
    facts, splitter, out = GenerateStream(), EventSplitter(1 << 24), []
    for piece in pieces:
        for found in splitter.feed(piece):
            if facts.observe(found) in (Verdict.FORWARD, Verdict.ERROR_EVENT):
                out.append(found[0])
    assert splitter.finish() is None
    return facts, b"".join([*out, splitter.tail])


def known(facts: GenerateStream) -> object:
    return facts.id, facts.model, facts.usage, facts.finish_reasons, facts.text, facts.output_bytes, assembled(facts)


@pytest.mark.parametrize("name", OWN)
def test_an_own_stream_passes_unchanged_wherever_it_is_cut(name: str) -> None:
    whole, out = observed([OWN[name]])
    assert out == OWN[name]
    assert whole.finished
    for before, after in every_cut(OWN[name]):
        facts, out = observed([before, after])
        assert out == OWN[name]
        assert known(facts) == known(whole)


def small(path: Path) -> bool:
    return path.stat().st_size < 1500


def test_every_recording_passes_unchanged_however_it_is_cut() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        whole, out = observed([data])
        assert out == data
        assert whole.finished
        assert whole.usage is not None
        assert not whole.usage_invalid
        assert not whole.text_since_usage
        chunkings = [list(pair) for pair in some(every_cut(data), 0.1)] if small(path) else [list(cuts(data, seed)) for seed in range(20)]
        for pieces in chunkings:
            facts, out = observed(pieces)
            assert out == data
            assert known(facts) == known(whole)


def test_no_recording_is_finished_before_its_last_event() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        last = events(data)[-1][0]
        facts, _ = observed([data.removesuffix(last)])
        assert not facts.finished


def test_what_is_learnt_of_a_recording_is_what_googles_sdk_reads() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        facts, _ = observed([data])
        reply, plain = accepted(data), accepted_plain(json.dumps(assembled(facts)).encode())
        assert facts.text == reply.text.get(0, "")
        assert facts.usage is not None
        assert reply.usage == (
            facts.usage.input_tokens + facts.usage.output_tokens,
            facts.usage.input_tokens,
            facts.usage.output_tokens,
        )
        assert plain.same_as(reply)


def test_every_recording_passes_hooks_that_change_nothing_unchanged() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        assert passed(data, lambda chunk: None) == data


def test_text_and_usage_are_the_last_that_came() -> None:
    facts, _ = observed([TEXT])
    assert facts.text == "Grüß Gott 👋"
    assert facts.output_bytes == len("Grüß Gott 👋".encode())
    assert facts.usage is not None
    assert (facts.usage.input_tokens, facts.usage.output_tokens, facts.usage.source) == (5, 3, "provider")
    assert (facts.id, facts.model, facts.finish_reasons) == ("r1", "gemini-3-pro", {0: "stop"})


def test_thoughts_count_as_written_and_not_as_text() -> None:
    facts, _ = observed([event(candidate({"text": "hm", "thought": True})), event(candidate(CALL, finishReason="STOP"))])
    assert facts.text == ""
    assert facts.output_bytes == len("hm" + "weather" + '{"city":"Graz","days":2}')
    assert facts.finish_reasons == {0: "tool_calls"}


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        *[
            (reason, "content_filter")
            for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE")
        ],
        *[(reason, "error") for reason in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "SOMETHING_NEW")],
    ],
)
def test_finish_reasons_are_in_the_words_of_chat_completions(reason: str, word: str) -> None:
    facts, out = observed([said("a", finishReason=reason)])
    assert facts.finish_reasons == {0: word}
    assert out == said("a", finishReason=reason)


def test_an_answer_that_says_it_failed_is_no_good_answer() -> None:
    facts, _ = observed([OWN["failed"]])
    assert facts.error == {"code": "MALFORMED_FUNCTION_CALL", "message": "Malformed function call: weather("}
    assert observed([TEXT])[0].error is None


def test_a_stream_is_finished_when_every_candidate_that_began_is() -> None:
    first, second, third = (found[0] for found in events(OWN["two"]))
    assert [observed([first])[0].finished, observed([first, second])[0].finished] == [False, False]
    facts, _ = observed([first, second, third])
    assert facts.finished
    assert facts.finish_reasons == {0: "stop", 1: "length"}
    assert facts.text == "adbc"


def test_a_blocked_prompt_is_an_answer_without_candidates() -> None:
    facts, _ = observed([OWN["blocked"]])
    assert facts.finished
    assert facts.finish_reasons == {0: "content_filter"}
    assert (facts.text, facts.output_bytes) == ("", 0)


def test_an_unspecified_reason_is_none() -> None:
    facts, _ = observed([said("a", finishReason="FINISH_REASON_UNSPECIFIED"), event(promptFeedback={"safetyRatings": []})])
    assert not facts.finished
    assert facts.finish_reasons == {}


@pytest.mark.parametrize("data", [b"data: {nonsense\n\n", b"data: [1]\n\n", b'data: "text"\n\n', b"data: 7\n\n"])
def test_what_is_no_object_breaks_the_stream(data: bytes) -> None:
    facts = GenerateStream()
    facts.observe(events(said("a"))[0])
    with pytest.raises(UpstreamProtocolError):
        facts.observe(events(data)[0])


def test_an_error_ends_the_stream_and_goes_to_the_client() -> None:
    facts = GenerateStream()
    error = event(error={"code": 503, "message": "overloaded", "status": "UNAVAILABLE"})
    assert facts.observe(events(error)[0]) is Verdict.ERROR_EVENT
    assert facts.error["status"] == "UNAVAILABLE"
    assert not facts.finished


@pytest.mark.parametrize("data", [b": ping\n\n", b"event: ping\n\n", b"data:\n\n", b"data: [DONE]\n\n", b"\n\n"])
def test_what_googles_sdk_dies_of_is_dropped_and_finishes_nothing(data: bytes) -> None:
    facts = GenerateStream()
    facts.observe(events(said("a"))[0])
    assert facts.observe(events(data)[0]) is Verdict.DROP
    assert facts.value is None
    assert not facts.finished


def test_no_event_is_the_last_for_the_end_of_the_body_is() -> None:
    facts = GenerateStream()
    assert {facts.observe(found) for found in events(TEXT)} == {Verdict.FORWARD}
    assert facts.done is False
    assert facts.ends_with_body


def test_the_json_of_the_last_event_is_kept() -> None:
    facts = GenerateStream()
    for found in events(MANY):
        facts.observe(found)
        assert facts.value == json.loads(found[1] or b"")


def test_text_that_the_usage_does_not_count_is_told() -> None:
    prompt_only = {"promptTokenCount": 9, "totalTokenCount": 9}
    assert observed([event(candidate({"text": "a"}), usageMetadata=prompt_only)])[0].text_since_usage
    assert not observed([said("a"), said("b", 2)])[0].text_since_usage
    assert observed([said("a"), event(candidate({"text": "b"}))])[0].text_since_usage
    assert observed([event(candidate({"text": "a"})), event(candidate({"text": "b"}))])[0].text_since_usage


def test_a_usage_that_cannot_be_true_is_none() -> None:
    facts, _ = observed([said("a"), event(candidate({"text": "b"}, finishReason="STOP"), usageMetadata=usage(-1, 2))])
    assert facts.usage is None
    assert facts.usage_invalid


def test_strange_shapes_are_passed_over() -> None:
    strange = [
        {"candidates": "x"},
        {"candidates": [None, {"content": None}, {"content": {"parts": "x"}}, {"content": {"parts": [1, {"text": 5}]}}]},
        {"candidates": [{"index": "a", "content": {"parts": [{"functionCall": "x"}]}, "finishReason": 4}]},
        {"candidates": [{"index": [], "content": {"parts": [{"text": "y"}]}}], "usageMetadata": "much", "modelVersion": 3},
        {"promptFeedback": "no", "responseId": {}},
    ]
    data = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in strange)
    facts, out = observed([data])
    assert out == data
    assert facts.text == "y"
    assert passed(data + said("z", finishReason="STOP"), lambda chunk: None) == data + said("z", finishReason="STOP")


@pytest.mark.parametrize("name", OWN)
def test_a_stream_as_one_object_says_the_same(name: str) -> None:
    facts, _ = observed([OWN[name]])
    plain = read_generated(answer(OWN[name]))
    assert (plain.text, plain.usage, plain.finish_reasons, plain.id, plain.model) == (
        facts.text,
        facts.usage,
        facts.finish_reasons,
        facts.id,
        facts.model,
    )
    assert assembled(plain) == assembled(facts)


def test_a_stream_as_one_object_has_every_part_and_each_text_once() -> None:
    facts, _ = observed([MANY])
    [only] = assembled(facts)["candidates"]
    assert only["content"]["parts"] == [
        {"text": "Let me think. Yes.", "thought": True},
        {"text": "It is ", "thoughtSignature": "c2ln"},
        {"text": "warm."},
        {**CALL, "thoughtSignature": "Y2FsbA=="},
        {"functionCall": {"name": "time", "args": {}}},
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
    ]
    assert assembled(facts) == {
        "candidates": [only],
        "usageMetadata": usage(5, 20, thoughtsTokenCount=9),
        **HEAD,
    }


@pytest.mark.parametrize("seed", range(200))
def test_an_event_that_is_not_as_it_should_be_passes_all_the_same(seed: int) -> None:
    dice = random.Random(seed)
    values = [damaged(value, dice) for value in objects(MANY + OWN["cited"] + OWN["blocked"])]
    data = b"".join(b"data: " + json.dumps(value).encode() + b"\r\n\r\n" for value in values if "error" not in value)
    assert observed([data])[1] == data
    assert passed(data, lambda chunk: None) == data
    reader = GenerateReader()
    for value in values:
        with suppress(UpstreamError):
            reader.read(value)
    assert reader.end().kind == "end"


def test_garbage_anywhere_is_no_crash() -> None:
    dice = random.Random(3)
    for _ in range(300):
        data = bytearray(MANY)
        for _ in range(3):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            observed([bytes(data)])
        except UpstreamProtocolError:
            continue

"""Google's answers for clients of other formats, and other formats' answers for Google's clients: nothing is lost on the way that
both can say."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from muxx.errors import UpstreamError, UpstreamProtocolError
from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.gemini import (
    GenerateCodec,
    encode_generated,
    read_answer,
    read_gemini_usage,
    read_generated,
    usage_metadata,
)
from muxx.wire.wire import AnswerHead

from .gemini_kit import (
    CALL,
    MANY,
    OWN,
    TEXT,
    UNNAMED_CALL,
    accepted,
    accepted_plain,
    answer,
    candidate,
    event,
    events,
    said,
    translated,
    usage,
)
from .recordings import recordings

HEAD = AnswerHead("r1", "gemini-3-pro", 1)


def written(chunks: Iterable[Chunk], *, at_once: bool = False) -> bytes:
    """Chunks of another format as a stream."""
    codec, chunks = GenerateCodec(HEAD), list(chunks)
    if at_once:
        return codec.encode(chunks) + codec.last()
    return b"".join([codec.encode([chunk]) for chunk in chunks]) + codec.last()


# Google's answers, read.


def test_every_recording_read_and_written_anew_is_the_same_to_googles_sdk() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        chunks, reader = translated(data)
        assert all(chunk.raw is None for chunk in chunks)
        assert [chunk.kind for chunk in chunks].count("end") == 1
        before = accepted(data)
        if reader.lost:
            signed = {part["thoughtSignature"] for part in _kept_parts(data) if "thoughtSignature" in part}
            before.signatures = before.signatures[-len(signed) :] if signed else []
        for at_once in (False, True):
            assert accepted(written(chunks, at_once=at_once)).same_as(before)
        assert accepted_plain(encode_generated(chunks, HEAD)).same_as(before)


def _kept_parts(data: bytes) -> list[dict[str, object]]:
    values = [json.loads(found[1] or b"{}") for found in events(data)]
    parts = [part for value in values for found in value["candidates"] for part in found["content"]["parts"]]
    return [part for part in parts if "text" in part or "functionCall" in part]


def test_every_recording_as_a_plain_answer_is_read_the_same() -> None:
    for path in recordings("gemini-generate"):
        streamed, reader = translated(path.read_bytes())
        plain, lost = read_answer(answer(path.read_bytes()))
        assert lost == reader.lost
        assert _summary(plain) == _summary(streamed)


def _summary(chunks: list[Chunk]) -> object:
    texts = {kind: "".join(chunk.text for chunk in chunks if chunk.kind == kind) for kind in ("text", "reasoning")}
    return texts, [chunk.tool_call for chunk in chunks if chunk.tool_call], chunks[-1]


def test_every_kind_of_part_is_read_or_told_to_be_lost() -> None:
    chunks, reader = translated(MANY)
    assert chunks[:4] == [
        Chunk("reasoning", "Let me think. "),
        Chunk("reasoning", "Yes."),
        Chunk("text", "It is ", signature="c2ln"),
        Chunk("text", "warm."),
    ]
    first, second, end = chunks[4:]
    assert first == Chunk("tool_call", tool_call=ToolCall(0, "f1", "weather", '{"city":"Graz","days":2}'), signature="Y2FsbA==")
    assert second.tool_call is not None
    assert (second.tool_call.index, second.tool_call.name, second.tool_call.arguments) == (1, "time", "{}")
    assert end == Chunk("end", finish_reason="tool_calls", usage=Usage(5, 29, reasoning_tokens=9, source="provider"))
    assert reader.lost == {"executableCode", "codeExecutionResult", "inlineData"}


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (OWN["cited"], {"groundingMetadata", "citationMetadata", "logprobsResult"}),
        (OWN["unknown"], {"part"}),
        (TEXT, set()),
        (event(candidate({"text": "a"}, groundingMetadata={}, finishReason="STOP")), set()),
    ],
)
def test_what_has_no_counterpart_is_told(data: bytes, lost: set[str]) -> None:
    assert translated(data)[1].lost == lost
    assert read_answer(answer(data))[1] == lost


def test_a_call_without_an_id_gets_one_that_is_its_own_and_always_the_same() -> None:
    data = event(candidate(UNNAMED_CALL, UNNAMED_CALL)) + event(candidate(UNNAMED_CALL, finishReason="STOP"))
    ids = [chunk.tool_call.id for chunk in translated(data)[0] if chunk.tool_call]
    assert len(set(ids)) == 3
    assert all(call_id and call_id.startswith("call_") for call_id in ids)
    assert ids == [chunk.tool_call.id for chunk in translated(data)[0] if chunk.tool_call]
    others = [chunk.tool_call.id for chunk in translated(data.replace(b'"r1"', b'"r2"'))[0] if chunk.tool_call]
    assert not {*ids} & {*others}, "another answer's calls are others"


def test_an_id_that_comes_twice_is_one_calls_only() -> None:
    data = event(candidate(CALL, CALL, finishReason="STOP"))
    ids = [chunk.tool_call.id for chunk in translated(data)[0] if chunk.tool_call]
    assert ids[0] == "f1"
    assert ids[1] not in (None, "f1")


def test_a_finish_reason_in_every_event_is_said_once() -> None:
    data = said("a", finishReason="STOP") + said("b", 2, finishReason="STOP") + said("c", 3, finishReason="MAX_TOKENS")
    chunks, _ = translated(data)
    assert [(chunk.kind, chunk.text, chunk.finish_reason) for chunk in chunks] == [
        ("text", "a", None),
        ("text", "b", None),
        ("text", "c", None),
        ("end", "", "length"),
    ]


def test_every_candidate_has_one_finish_reason() -> None:
    chunks, _ = translated(OWN["two"])
    assert [(chunk.index, chunk.finish_reason) for chunk in chunks if chunk.finish_reason] == [(1, "length"), (0, "stop")]
    assert [(chunk.index, chunk.text) for chunk in chunks if chunk.kind == "text"] == [(0, "a"), (1, "b"), (1, "c"), (0, "d")]


def test_a_blocked_prompt_is_an_answer_without_text() -> None:
    assert translated(OWN["blocked"])[0] == [Chunk("end", finish_reason="content_filter", usage=Usage(5, 0, source="provider"))]
    assert read_answer(answer(OWN["blocked"]))[0][-1].finish_reason == "content_filter"


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "TOO_MANY_TOOL_CALLS", "NEW"])
def test_an_answer_that_failed_is_never_passed_off_as_whole(reason: str) -> None:
    data = said("Let me ") + event(candidate(finishReason=reason))
    with pytest.raises(UpstreamError):
        translated(data)
    with pytest.raises(UpstreamError):
        read_answer(answer(data))


@pytest.mark.parametrize("body", [b'{"error": {"code": 500}}', b"{}", b'{"candidates": []}', b'{"usageMetadata": {}}'])
def test_a_plain_answer_that_says_nothing_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_answer(body)


def test_no_text_and_a_good_end_are_an_answer() -> None:
    chunks, _ = read_answer(answer(event(candidate({"text": ""}, finishReason="STOP"))))
    assert chunks == [Chunk("end", finish_reason="stop")]


def test_a_call_in_fragments_is_refused() -> None:
    call = {"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$.a"}], "willContinue": True}}
    with pytest.raises(UpstreamProtocolError):
        translated(event(candidate(call)))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"nonsense"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_answer(body)
    with pytest.raises(UpstreamError):
        read_generated(body)


# Other formats' answers, written.


def call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> Chunk:
    return Chunk("tool_call", tool_call=ToolCall(index, call_id, name, arguments))


def test_an_answer_of_another_format_is_one_googles_sdk_reads() -> None:
    chunks = [
        Chunk("reasoning", "hm"),
        Chunk("reasoning", "", signature="c2ln"),
        Chunk("text", "It "),
        Chunk("text", "is."),
        call(0, "", "c1", "weather"),
        call(0, '{"ci'),
        call(0, 'ty":"Graz"}'),
        call(1, "", "c2", "time"),
        Chunk("other", finish_reason="tool_calls"),
        Chunk("end", usage=Usage(10, 7, cache_read_tokens=4, reasoning_tokens=2)),
    ]
    for data in (written(chunks), written(chunks, at_once=True)):
        reply = accepted(data)
        assert (reply.thoughts, reply.text) == ({0: "hm"}, {0: "It is."})
        assert reply.calls == {0: [("weather", {"city": "Graz"}), ("time", {})]}
        assert reply.ids == ["c1", "c2"]
        assert reply.signatures == [b"sig"]
        assert (reply.finish, reply.usage) == ({0: "STOP"}, (17, 10, 7))
    assert accepted_plain(encode_generated(chunks, HEAD)).same_as(reply)


def test_the_last_event_alone_tells_the_finish_reason_and_the_usage() -> None:
    codec = GenerateCodec(HEAD)
    chunks = [Chunk("text", "a"), Chunk("other", finish_reason="length"), Chunk("end", usage=Usage(1, 2))]
    sent = codec.encode(chunks)
    assert b"finishReason" not in sent
    assert b"usageMetadata" not in sent
    last = json.loads(codec.last().removeprefix(b"data: "))
    assert last == {
        "candidates": [{"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0, "finishReason": "MAX_TOKENS"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
        "modelVersion": "gemini-3-pro",
        "responseId": "r1",
    }
    assert codec.last() == b"", "it is said once"


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (None, "STOP"),
        ("stop", "STOP"),
        ("tool_calls", "STOP"),
        ("length", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
        ("x", "OTHER"),
    ],
)
def test_finish_reasons_are_written_in_googles_words(reason: str | None, word: str) -> None:
    assert accepted(written([Chunk("text", "a"), Chunk("end", finish_reason=reason)])).finish == {0: word}
    assert accepted(written([Chunk("text", "a"), Chunk("other", finish_reason=reason), Chunk("end")])).finish == {0: word}


def test_an_answer_without_anything_still_ends() -> None:
    reply = accepted(written([Chunk("end", finish_reason="content_filter")]))
    assert (reply.text, reply.finish) == ({}, {0: "SAFETY"})


def test_every_choice_ends() -> None:
    chunks = [Chunk("text", "a"), Chunk("text", "b", 1), Chunk("other", index=1, finish_reason="length"), Chunk("end")]
    reply = accepted(written(chunks))
    assert (reply.text, reply.finish) == ({0: "a", 1: "b"}, {0: "STOP", 1: "MAX_TOKENS"})


def test_a_refusal_is_a_text() -> None:
    assert accepted(written([Chunk("other", "I cannot."), Chunk("end", finish_reason="stop")])).text == {0: "I cannot."}


def test_calls_whose_fragments_take_turns_are_whole_and_in_order() -> None:
    chunks = [
        call(0, '{"a":', "c1", "f"),
        call(1, '{"b":', "c2", "g"),
        call(0, "1}"),
        call(1, "2}"),
        Chunk("end", finish_reason="tool_calls"),
    ]
    assert accepted(written(chunks)).calls == {0: [("f", {"a": 1}), ("g", {"b": 2})]}


def test_a_call_goes_out_before_the_text_after_it() -> None:
    data = written([call(0, "", "c1", "f"), Chunk("text", "then"), Chunk("end", finish_reason="tool_calls")])
    assert data.index(b"functionCall") < data.index(b"then")


def test_a_new_id_under_a_known_number_is_a_new_call() -> None:
    chunks = [call(0, "{}", "c1", "f"), call(0, '{"a":1}', "c2", "g"), Chunk("end")]
    assert accepted(written(chunks)).calls == {0: [("f", {}), ("g", {"a": 1})]}


def test_a_codec_nothing_went_through_has_nothing_to_say() -> None:
    assert GenerateCodec(HEAD).last() == b""
    dropped = GenerateCodec(HEAD)
    dropped.encode([Chunk("text", "a")])
    assert b"STOP" in dropped.last(), "a plugin that drops the end leaves no answer without one"


@pytest.mark.parametrize("arguments", ["[1]", '"text"', '{"a":', "nonsense"])
def test_arguments_that_are_no_object_are_an_error_not_a_call(arguments: str) -> None:
    codec = GenerateCodec(HEAD)
    assert codec.encode([call(0, arguments, "c1", "f")]) == b""
    with pytest.raises(UpstreamProtocolError):
        codec.encode([Chunk("end", finish_reason="tool_calls")])


def test_a_head_that_is_known_later_is_in_the_events_after_it() -> None:
    head = AnswerHead(None, None, None)
    codec = GenerateCodec(head)
    first = codec.encode([Chunk("text", "a")])
    head.id, head.model = "r9", 'm"{"text":"'
    second = codec.encode([Chunk("text", "b")])
    third = codec.encode([Chunk("text", 'c"\n')])
    assert [json.loads(data.removeprefix(b"data: "))["responseId"] for data in (first, second, third)] == ["muxx", "r9", "r9"]
    assert json.loads(third.removeprefix(b"data: "))["candidates"][0]["content"]["parts"] == [{"text": 'c"\n'}]
    assert json.loads(third.removeprefix(b"data: "))["modelVersion"] == 'm"{"text":"'
    assert third.endswith(b"\r\n\r\n")


# Usage.


def test_all_input_and_all_output_are_counted() -> None:
    told = usage(
        10, 20, cachedContentTokenCount=4, thoughtsTokenCount=7, toolUsePromptTokenCount=3, serviceTier="FLEX",
        promptTokensDetails=[{"modality": "AUDIO", "tokenCount": 2}, {"modality": "TEXT", "tokenCount": 8}],
        candidatesTokensDetails=[{"modality": "AUDIO", "tokenCount": 5}],
        cacheTokensDetails=[{"modality": "AUDIO", "tokenCount": 1}],
    )  # fmt: skip
    assert read_gemini_usage(told) == (Usage(13, 27, 4, 0, 7, 2, 5, 1, service_tier="flex", source="provider"), False)


def test_pictures_and_videos_are_told_apart_and_are_written_again() -> None:
    told = usage(
        1000, 1300, cachedContentTokenCount=300, totalTokenCount=2300,
        promptTokensDetails=[{"modality": "TEXT", "tokenCount": 100}, {"modality": "IMAGE", "tokenCount": 600}, {"modality": "VIDEO", "tokenCount": 300}],
        candidatesTokensDetails=[{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 1290}],
        cacheTokensDetails=[{"modality": "IMAGE", "tokenCount": 258}, {"modality": "DOCUMENT", "tokenCount": 42}],
    )  # fmt: skip
    read, invalid = read_gemini_usage(told)
    assert (read, invalid) == (
        Usage(
            1000, 1300, 300, input_image_tokens=600, output_image_tokens=1290, cache_read_image_tokens=258, input_video_tokens=300,
            source="provider",
        ),
        False,
    )  # fmt: skip
    assert usage_metadata(read) == {**told, "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 42}, {"modality": "IMAGE", "tokenCount": 258}]}
    made = usage(5, 0, candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 1290}])
    assert read_gemini_usage(made) == (Usage(5, source="provider"), True), "more pictures than output"


@pytest.mark.parametrize(
    ("told", "invalid"),
    [
        ({}, False),
        ("much", True),
        (usage(-1, 2), True),
        (usage(10**10, 2), True),
        ({"promptTokenCount": True, "candidatesTokenCount": 1}, True),
        ({"promptTokenCount": "5"}, True),
    ],
)
def test_a_usage_without_believable_totals_is_none(told: object, invalid: bool) -> None:
    assert read_gemini_usage(told) == (None, invalid)


def test_a_detail_that_cannot_be_true_counts_as_nothing() -> None:
    assert read_gemini_usage(usage(5, 2, cachedContentTokenCount=6)) == (Usage(5, 2, source="provider"), True)
    assert read_gemini_usage({"promptTokenCount": 5}) == (Usage(5, 0, source="provider"), False)
    for name, wrong in (("promptTokensDetails", "x"), ("totalTokenCount", -5)):
        assert read_gemini_usage({**usage(5, 2), name: wrong}) == (Usage(5, 2, source="provider"), True)


def test_a_usage_that_is_written_is_read_the_same() -> None:
    for whole in (Usage(10, 7), Usage(10, 7, 4, 0, 2), Usage(10, 7, 4, 0, 2, 3, 1, 2)):
        assert read_gemini_usage(usage_metadata(whole)) == (whole._replace(source="provider"), False)

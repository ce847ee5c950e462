"""Chat completions: what is checked going up, and what is learnt coming down."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples, some

from muxx.errors import InvalidRequest, MuxxError, RateLimited, UpstreamError, UpstreamProtocolError, UpstreamTruncated
from muxx.money import Cost, Usage, estimate_tokens
from muxx.wire.openai import (
    ChatStream,
    ask_for_usage,
    assembled,
    comment_event,
    error_body,
    error_event,
    input_bytes,
    read_completion,
    read_usage,
    request_parts,
    usage_object,
    validate_chat,
)
from muxx.wire.openai.calls import Calls
from muxx.wire.sse import EventSplitter, data_of
from muxx.wire.wire import Verdict

from .recordings import GOLDENS, cuts, recordings

GOOD: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def observed(pieces: list[bytes], *, asked: bool = False, choices: int = 1) -> tuple[ChatStream, list[tuple[bytes, Verdict]]]:
    splitter, stream = EventSplitter(1 << 24), ChatStream(client_asked_usage=asked, choices=choices)
    verdicts = [(event[0], stream.observe(event)) for piece in pieces for event in splitter.feed(piece)]
    return stream, verdicts


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def observe(value: Any, asked: bool = False) -> tuple[ChatStream, Verdict]:
    stream, [(_, verdict)] = observed([event(value)], asked=asked)
    return stream, verdict


# Requests.


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_chat({name: value for name, value in GOOD.items() if name != field})
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [None, "", 1, ["a"], "a\nb", "a\x00", "a\x7f", "a\x85", "x" * 257]),
        ("messages", [None, [], {}, "hi", 0]),
        ("temperature", [-0.1, 2.1, "1", True, [], 10**30]),
        ("max_tokens", [0, -1, 1.0, True, "5", [1]]),
        ("stream", [0, 1, "true", {}]),
        ("tools", [{}, "x", False]),
    ],
)
def test_a_wrong_value_is_named_and_the_message_says_what_to_do(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            validate_chat({**GOOD, field: value})
        assert (caught.value.code, caught.value.param) == ("invalid_type", field)
        assert "Give " in caught.value.message


@pytest.mark.parametrize(
    "more",
    [
        {"model": "x" * 256, "temperature": 0, "max_tokens": 1, "stream": False, "tools": []},
        {"temperature": 2.0, "max_tokens": 2**63, "stream": True, "tools": [{"anything": 1}]},
        {"temperature": None, "max_tokens": None, "stream": None, "tools": None},
        {"model": "models/ünïcode", "seed": "any", "n": -1, "unknown": {"x": []}},
    ],
)
def test_what_the_contract_allows_passes(more: dict[str, Any]) -> None:
    validate_chat({**GOOD, **more})


def test_parts_find_every_text_and_write_it_back() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "image_url", "image_url": {"url": "data:"}}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "d", "type": "custom", "custom": {"name": "g", "input": "in"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "t"}]},
            {"role": "function", "name": "f", "content": "old"},
            {
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "no"}],
                "function_call": {"name": "f", "arguments": "a"},
            },
        ],
        "prediction": {"type": "content", "content": "p"},
    }
    found = [(part.role, part.kind, part.path, part.text) for part in request_parts(body)]
    assert found == [
        ("system", "text", "messages[0].content", "s"),
        ("user", "text", "messages[1].content[0].text", "u"),
        ("assistant", "text", "messages[2].reasoning_content", "r"),
        ("assistant", "tool_arguments", "messages[2].tool_calls[0].function.arguments", "{}"),
        ("assistant", "tool_arguments", "messages[2].tool_calls[1].custom.input", "in"),
        ("tool", "tool_result", "messages[3].content[0].text", "t"),
        ("function", "tool_result", "messages[4].content", "old"),
        ("assistant", "text", "messages[5].content[0].refusal", "no"),
        ("assistant", "tool_arguments", "messages[5].function_call.arguments", "a"),
        ("assistant", "text", "prediction.content", "p"),
    ]
    for part in request_parts(body):
        part.text = part.text.upper() + "!"
    assert [part.text for part in request_parts(body)] == [text.upper() + "!" for *_, text in found]
    assert body["messages"][1]["content"][0]["text"] == "U!"


@pytest.mark.parametrize(
    "messages", [None, "x", [None, 1, "x", []], [{}], [{"role": 5, "content": 5, "tool_calls": [1, {}]}], [{"content": [1, {}]}]]
)
def test_parts_of_a_strange_body_are_none_and_no_error(messages: Any) -> None:
    assert list(request_parts({"messages": messages})) == []
    assert input_bytes({"messages": messages}) == 0


def test_input_is_measured_in_bytes_of_text_and_tools() -> None:
    assert input_bytes({"messages": [{"role": "user", "content": "grüß"}], "tools": [{"a": 1}]}) == 6 + len('[{"a":1}]')


@pytest.mark.parametrize(("n_bytes", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (41, 10), (42, 11), (10**12, 243902439025)])
def test_the_estimate_is_bytes_by_four_point_one_rounded_up(n_bytes: int, tokens: int) -> None:
    assert estimate_tokens(n_bytes) == tokens


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ({}, False, {"stream_options": {"include_usage": True}}),
        ({"stream_options": None}, False, {"stream_options": {"include_usage": True}}),
        ({"stream_options": {"include_usage": False, "x": 1}}, False, {"stream_options": {"include_usage": True, "x": 1}}),
        ({"stream_options": {"include_usage": True}}, True, {"stream_options": {"include_usage": True}}),
        ({"stream_options": "yes"}, False, {"stream_options": "yes"}),
    ],
)
def test_usage_is_asked_for_without_touching_the_clients_own_options(
    before: dict[str, Any], asked: bool, after: dict[str, Any]
) -> None:
    options = before.get("stream_options")
    kept = json.dumps(options)
    body = dict(before)
    assert ask_for_usage(body) is asked
    assert body == after
    assert json.dumps(options) == kept


# Streams.


@pytest.mark.parametrize(
    ("name", "reasons", "usage", "text", "complete"),
    [
        ("plain", {0: "stop"}, (12, 5, 4, 0), "Grüß Gott 👋", True),
        ("cumulative", {0: "length"}, (7, 3, 0, 0), "one two three", True),
        ("tools", {0: "tool_calls"}, None, "", True),
        ("two_choices", {0: "stop", 1: "length"}, (3, 4, 0, 0), "aAbB", True),
        ("reasoning", {0: "stop"}, (20, 30, 16, 28), "42", True),
        ("empty_first", {0: "stop"}, (2, 1, 0, 0), "hi", True),
        ("usage_not_last", {0: "stop"}, (2, 1, 0, 0), "hi", True),
        ("refusal", {0: "stop"}, None, "", True),
        ("dialect", {0: "stop"}, None, "xy", True),
        ("error", {}, (5, 2, 0, 0), "Half an", False),
        ("cut", {}, None, "Half an answer", False),
    ],
)
def test_the_facts_of_our_own_streams(name: str, reasons: Any, usage: Any, text: str, complete: bool) -> None:
    stream, verdicts = observed([GOLDENS[name]])
    assert stream.finish_reasons == reasons
    assert stream.finished is stream.done is complete
    assert stream.text == text
    assert stream.output_bytes > 0
    got = stream.usage
    if usage is None:
        assert got is None
    else:
        assert got is not None
        assert (got.input_tokens, got.output_tokens, got.cache_read_tokens, got.reasoning_tokens) == usage
        assert got.source == "provider"
    assert (verdicts[-1][1] is Verdict.DONE) is complete


def test_an_answer_has_the_first_id_model_and_time_that_say_something() -> None:
    """Azure begins a stream with the verdict on the prompt, which has an empty id and the year 1970."""
    stream, _ = observed([GOLDENS["empty_first"].replace(b'"created":1700000000', b'"created":0', 1)])
    assert (stream.id, stream.model, stream.created) == ("chatcmpl-1", "gpt-4o-2024-08-06", 1700000000)
    assert assembled(stream)["created"] == 1700000000


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", ["plain", "two_choices", "empty_first", "usage_not_last"])
def test_only_the_usage_event_is_withheld_and_only_from_who_did_not_ask(name: str, asked: bool) -> None:
    _, verdicts = observed([GOLDENS[name]], asked=asked)
    withheld = [raw for raw, verdict in verdicts if verdict is Verdict.WITHHOLD]
    assert len(withheld) == (0 if asked else 1)
    for raw in withheld:
        chunk = json.loads(data_of(raw) or b"")
        assert chunk["choices"] == []
        assert chunk["usage"]
    assert all(verdict in (Verdict.FORWARD, Verdict.DONE, Verdict.WITHHOLD) for _, verdict in verdicts)


def test_usage_on_an_event_with_choices_is_never_withheld() -> None:
    _, verdicts = observed([GOLDENS["cumulative"]])
    assert {verdict for _, verdict in verdicts[:-1]} == {Verdict.FORWARD}


def test_events_without_data_are_dropped_and_comments_pass() -> None:
    _, verdicts = observed(
        [b": hi\n\n", b"event: ping\n\n", b"retry: 1\n\n", b"data:\n\n", b"data\n\n", b": a\nevent: b\n\n", b"\n\n"]
    )
    words = [verdict for _, verdict in verdicts]
    assert words == [Verdict.FORWARD, *[Verdict.DROP] * 5, Verdict.FORWARD]


@pytest.mark.parametrize("data", [b"x", b"[]", b"1", b"null", b'"a"', b"{", b"[DONE] x", b"{}{}", b'{"a":"\xff"}', b"<html>"])
def test_data_that_is_no_object_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        observed([b"data: " + data + b"\n\n"])
    assert caught.value.code == "upstream_protocol_error"


@pytest.mark.parametrize(
    "raw", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data:  [DONE] \r\n\r\n", b"event: done\ndata: [DONE]\n\n"]
)
def test_done_is_known_in_every_dialect(raw: bytes) -> None:
    stream, verdicts = observed([raw])
    assert [verdict for _, verdict in verdicts] == [Verdict.DONE]
    assert stream.done
    assert not stream.finished


def test_the_providers_error_event_ends_the_stream_and_keeps_what_was_used() -> None:
    stream, verdicts = observed([GOLDENS["error"]])
    assert [verdict for _, verdict in verdicts] == [Verdict.FORWARD, Verdict.ERROR_EVENT]
    assert stream.error["code"] == "overloaded"
    assert stream.usage is not None
    assert observe({"error": "text"})[1] is Verdict.ERROR_EVENT
    assert observe({"error": None, "choices": []})[1] is Verdict.FORWARD


def test_an_answer_is_finished_when_every_choice_asked_for_has_its_reason() -> None:
    first, second = (
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [{"index": 1, "delta": {"content": "x"}}]}),
    )
    assert not observed([])[0].finished
    assert observed([first])[0].finished
    assert not observed([first], choices=2)[0].finished
    assert not observed([first, second])[0].finished
    assert not observed([event({"choices": [{"index": 0, "delta": {}, "finish_reason": ""}]})])[0].finished


STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5) | st.just("tool_calls"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["index", "delta", "content", "tool_calls", "function", "finish_reason", "text", "id", "audio", "refusal"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=examples(400), deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "choices": STRANGE | st.lists(STRANGE),
            "id": STRANGE,
            "model": STRANGE,
            "created": STRANGE,
            "service_tier": STRANGE,
        },
    )
)
def test_a_strange_object_is_passed_on_and_never_an_exception(chunk: dict[str, Any]) -> None:
    data = json.dumps(chunk).encode()
    stream = ChatStream(client_asked_usage=False)
    assert stream.observe((b"data: " + data + b"\n\n", data)) is Verdict.FORWARD
    assert stream.output_bytes >= 0
    assembled(stream)


# Usage.


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {}),
        ({"prompt_tokens_details": None, "completion_tokens_details": None}, {}),
        ({"prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 5}}, {"cache_read_tokens": 60, "input_audio_tokens": 5}),
        (
            {"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 40}},
            {"cache_read_tokens": 60, "cache_write_tokens": 40},
        ),
        (
            {"completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 7}},
            {"reasoning_tokens": 50, "output_audio_tokens": 7},
        ),
        (
            {"prompt_tokens_details": {"image_tokens": 30, "video_tokens": 20}, "completion_tokens_details": {"image_tokens": 40}},
            {"input_image_tokens": 30, "input_video_tokens": 20, "output_image_tokens": 40},
        ),
        ({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, {"cache_read_tokens": 64}),
        ({"cached_tokens": 64}, {"cache_read_tokens": 64}),
        ({"total_tokens": 150, "completion_tokens_details": {"reasoning_tokens": 40}}, {"reasoning_tokens": 40}),
        (
            {"total_tokens": 190, "completion_tokens_details": {"reasoning_tokens": 40}},
            {"reasoning_tokens": 40, "output_tokens": 90},
        ),
    ],
)
def test_usage_dialects_come_to_the_same_words(more: dict[str, Any], expected: dict[str, int]) -> None:
    usage, invalid = read_usage({"prompt_tokens": 100, "completion_tokens": 50, **more}, "flex")
    base = {"input_tokens": 100, "output_tokens": 50, "source": "provider", "service_tier": "flex"}
    assert usage == Usage(**{**base, **expected})  # type: ignore[arg-type]
    assert not invalid


def test_a_usage_object_is_read_back_as_it_was_written() -> None:
    """What Anthropic counts as written to its cache reaches a client of chat completions too."""
    usage = Usage(100, 50, cache_read_tokens=60, cache_write_tokens=30, reasoning_tokens=20, source="provider")
    assert read_usage(usage_object(usage)) == (usage, False)


@pytest.mark.parametrize("wrong", [-5, 10**18, 1.5, "12", True, [], None])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_unbelievable_totals_are_flagged_and_ignored(field: str, wrong: Any) -> None:
    good = {"prompt_tokens": 3, "completion_tokens": 4}
    stream, _ = observed([event({"choices": [], "usage": good}), event({"choices": [], "usage": {**good, field: wrong}})])
    assert stream.usage_invalid
    assert stream.usage == Usage(3, 4, source="provider")
    assert observe({"choices": [], "usage": {}})[0].usage is None


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_tokens_details": {"cached_tokens": 101}},
        {"prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens_details": {"cached_tokens": "5"}},
        {"completion_tokens_details": {"reasoning_tokens": 51}},
        {"completion_tokens_details": {"reasoning_tokens": 1.5}},
    ],
)
def test_an_unbelievable_detail_is_flagged_and_the_totals_stand(more: dict[str, Any]) -> None:
    usage, invalid = read_usage({"prompt_tokens": 100, "completion_tokens": 50, **more})
    assert usage == Usage(100, 50, source="provider")
    assert invalid


@settings(max_examples=examples(150), deadline=None)
@given(
    STRANGE
    | st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens"]), STRANGE
    )
)
def test_any_usage_is_read_without_an_exception(value: Any) -> None:
    usage, _ = read_usage(value)
    if usage is not None:
        assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens


# Plain answers and the answer in one piece.


def completion(stream: bytes) -> bytes:
    facts, _ = observed([stream])
    return json.dumps(assembled(facts)).encode()


@pytest.mark.parametrize("name", [name for name in GOLDENS if name != "error"])
def test_a_plain_answer_has_the_same_facts_as_its_stream(name: str) -> None:
    stream, _ = observed([GOLDENS[name]])
    facts = read_completion(completion(GOLDENS[name]))
    assert (facts.id, facts.model, facts.created, facts.usage) == (stream.id, stream.model, stream.created, stream.usage)
    assert (facts.finish_reasons, facts.text, facts.output_bytes) == (stream.finish_reasons, stream.text, stream.output_bytes)
    assert assembled(facts) == assembled(stream)


def test_fragments_of_tool_calls_are_joined() -> None:
    [choice] = assembled(observed([GOLDENS["tools"]])[0])["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Graz"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]


def test_thousands_of_calls_in_one_event_take_no_longer_than_their_bytes() -> None:
    """A worker that one event of megabytes holds for half a minute is taken for hung, with all that it carries."""
    count = 20_000
    calls = [{"index": number, "id": f"call_{number}", "function": {"name": "f", "arguments": "{}"}} for number in range(count)]
    started = time.process_time()
    stream, _ = observed([b"data: %b\n\n" % orjson.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})])
    told = list(Calls(0, set()).read(calls, None))
    assert time.process_time() - started < 2
    assert len(stream.choices[0].tool_calls) == len(told) == count


FRAGMENT = {"index": 1, "function": {"arguments": '"x'}}
"""Of the second of two calls."""


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [FRAGMENT]},
        {"tool_calls": [FRAGMENT], "content": None},
        {"tool_calls": [FRAGMENT], "content": ""},
        {"tool_calls": [FRAGMENT], "role": "assistant"},
        {"tool_calls": [FRAGMENT], "content": None, "reasoning": "hm"},
        {"tool_calls": [FRAGMENT], "refusal": "no"},
        {"tool_calls": [FRAGMENT, FRAGMENT]},
        {"tool_calls": []},
        {"tool_calls": [{**FRAGMENT, "index": 0}]},
        {"tool_calls": [{**FRAGMENT, "index": True}]},
        {"tool_calls": [{**FRAGMENT, "index": 7}]},
        {"tool_calls": [{"function": {"arguments": "{}"}}]},
        {"tool_calls": [{**FRAGMENT, "id": "call_b"}]},
        {"tool_calls": [{**FRAGMENT, "id": "call_c"}]},
        {"tool_calls": [{**FRAGMENT, "type": "function"}]},
        {"tool_calls": [{**FRAGMENT, "type": "custom", "custom": {"input": "y"}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "other", "arguments": "z"}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": {"a": 1}}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": None}]},
    ],
    ids=str,
)
def test_the_short_way_for_arguments_learns_what_the_long_one_does(delta: dict[str, Any]) -> None:
    begun = [{"index": number, "id": f"call_{name}", "function": {"name": name, "arguments": "{"}} for number, name in enumerate("ab")]
    short, long = ChatStream(client_asked_usage=True), ChatStream(client_asked_usage=True)
    for said in ({"tool_calls": begun}, delta):
        chunk = {"choices": [{"index": 0, "delta": said, "finish_reason": None}]}
        data = json.dumps(chunk).encode()
        assert short.observe((data, data)) is long._observe_any(chunk)
    assert assembled(short) == assembled(long)
    assert short.output_bytes == long.output_bytes


def test_calls_that_a_provider_numbers_alike_stay_apart_by_their_ids() -> None:
    calls = [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    stream, _ = observed([event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}) for call in calls])
    [choice] = assembled(stream)["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["a", "b"]


def test_reasoning_refusal_old_function_calls_lists_of_parts_and_speech_are_kept_and_counted() -> None:
    assert assembled(observed([GOLDENS["reasoning"]])[0])["choices"][0]["message"]["reasoning_content"] == "Let me think."
    assert assembled(observed([GOLDENS["refusal"]])[0])["choices"][0]["message"]["refusal"] == "I can't help."
    deltas = [
        {"function_call": {"name": "f", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm "}]}, {"type": "text", "text": "yes"}]},
        {"audio": {"id": "a", "data": "AAAA", "transcript": "spoken"}},
    ]
    stream, _ = observed([event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas])
    message = assembled(stream)["choices"][0]["message"]
    assert message["function_call"] == {"name": "f", "arguments": "{}"}
    assert (message["content"], message["audio"]["transcript"]) == ("hm yes", "spoken")
    assert stream.output_bytes == len("f{}hm yesspoken")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>", UpstreamError),
        (b'{"error":{"message":"x"}}', UpstreamError),
        (b"", UpstreamProtocolError),
        (b"[]", UpstreamProtocolError),
        (b'{"choices":', UpstreamProtocolError),
        (b"{}", UpstreamProtocolError),
        (b'{"object":"error","message":"x"}', UpstreamError),
    ],
)
def test_what_is_no_answer_is_an_error_of_the_right_kind(body: bytes, error: type[MuxxError]) -> None:
    with pytest.raises(error) as caught:
        read_completion(body)
    assert caught.type is error


# The gateway's own words.


def test_the_error_envelope_has_all_four_members() -> None:
    assert json.loads(error_body(InvalidRequest("Mend it.", param="model"))) == {
        "error": {"message": "Mend it.", "type": "invalid_request_error", "param": "model", "code": "invalid_type"}
    }
    assert "retry_after" not in json.loads(error_body(UpstreamTruncated(retry_after=3)))["error"]


def test_a_rate_limit_tells_whole_seconds() -> None:
    assert json.loads(error_body(RateLimited("Wait.", retry_after=1.2)))["error"]["retry_after"] == 2
    assert json.loads(error_body(RateLimited("Wait."), 45))["error"]["retry_after"] == 45


def test_an_error_event_is_one_event() -> None:
    raw = error_event(UpstreamTruncated("two\nlines"))
    assert EventSplitter(1000).feed(raw) == [(raw, raw[6:-2])]
    assert json.loads(raw[6:])["error"]["code"] == "upstream_truncated"


def test_the_cost_comment_is_a_comment_to_every_parser() -> None:
    raw = comment_event(Cost(10**8, 5 * 10**7, "v"), "req_1", Usage(12, 5, source="provider"))
    assert data_of(raw) is None
    assert raw.startswith(b": muxx {")
    assert raw.endswith(b"}\n\n")
    told = json.loads(raw[7:])
    assert (told["cost"], told["request_id"], told["usage"]["total_tokens"]) == ("0.00015", "req_1", 17)
    assert json.loads(comment_event(None, "req_1", None)[7:]) == {"cost": None, "request_id": "req_1", "usage": None}


# Recordings.


def reference(stream: bytes) -> tuple[Any, dict[int, str], dict[int, str], set[str]]:
    """Usage, finish reasons, texts and ids, the simplest way, from all the bytes at once."""
    usage, reasons, texts, ids = None, {}, {}, set()
    for block in stream.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                chunk = json.loads(line[5:])
                ids.add(chunk["id"])
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
                    if choice.get("finish_reason"):
                        reasons[choice["index"]] = choice["finish_reason"]
    return usage, reasons, texts, ids


def check(stream: ChatStream, expected: tuple[Any, dict[int, str], dict[int, str], set[str]]) -> None:
    usage, reasons, texts, ids = expected
    assert stream.finish_reasons == reasons
    assert {index: "".join(choice.text) for index, choice in stream.choices.items()} == texts
    assert stream.id in ids or ids == {""}
    assert stream.done
    assert not stream.usage_invalid
    got = stream.usage
    if usage is None:
        assert got is None
        return
    assert got is not None
    given, made = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    assert (got.input_tokens, got.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (got.cache_read_tokens, got.reasoning_tokens) == (given.get("cached_tokens", 0), made.get("reasoning_tokens", 0))


def test_every_recording_has_the_facts_of_a_simple_reference_in_every_seeded_chunking() -> None:
    for number, path in enumerate(some(recordings())):
        data = path.read_bytes()
        expected = reference(data)
        for seed in (number, number + 500):
            stream, verdicts = observed(list(cuts(data, seed)))
            check(stream, expected)
            delivered = b"".join(raw for raw, verdict in verdicts if verdict is not Verdict.WITHHOLD)
            withheld = [raw for raw, verdict in verdicts if verdict is Verdict.WITHHOLD]
            assert len(withheld) <= 1
            assert delivered == data.replace(b"".join(withheld), b"") if withheld else delivered == data
        stream, verdicts = observed([data], asked=True)
        assert b"".join(raw for raw, _ in verdicts) == data


def test_twenty_recordings_have_the_same_facts_at_every_cut_position() -> None:
    small = [path for path in recordings() if path.stat().st_size < 5_000]
    for path in random.Random(2).sample(small, min(20, len(small))):
        data = path.read_bytes()
        expected = reference(data)
        for at in some(range(len(data) + 1), 0.1):
            check(observed([data[:at], data[at:]])[0], expected)


def test_a_stream_cut_anywhere_is_not_complete_and_counts_what_came() -> None:
    for path in random.Random(5).sample(recordings(), 20):
        events = [raw + b"\n\n" for raw in path.read_bytes().split(b"\n\n") if raw]
        whole = observed(events)[0].output_bytes
        counted = -1
        for end in range(len(events)):
            stream, _ = observed(events[:end])
            assert not stream.done
            assert counted <= stream.output_bytes <= whole
            counted = stream.output_bytes


def test_the_sdks_own_types_read_the_same() -> None:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    for path in random.Random(3).sample(recordings(), 12):
        data = path.read_bytes()
        stream, verdicts = observed([data])
        sent = [json.loads(data_of(raw) or b"") for raw, verdict in verdicts if verdict is not Verdict.DONE]
        chunks = [ChatCompletionChunk.model_validate({**chunk, "object": "chat.completion.chunk"}) for chunk in sent]
        usages = [chunk.usage for chunk in chunks if chunk.usage]
        assert (stream.usage.output_tokens if stream.usage else None) == (usages[-1].completion_tokens if usages else None)
        whole = ChatCompletion.model_validate(assembled(stream) if stream.id else {**assembled(stream), "id": ""})
        for choice in whole.choices:
            mine = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
            assert (choice.message.content or "") == "".join(part.delta.content or "" for part in mine)
            assert choice.finish_reason == next(part.finish_reason for part in reversed(mine) if part.finish_reason)
            pieces = [call for part in mine for call in part.delta.tool_calls or []]
            arguments = "".join(call.function.arguments or "" for call in pieces if call.function)
            assert (
                "".join(call.function.arguments for call in choice.message.tool_calls or [] if call.type == "function")
                == arguments
            )

"""Responses: what is checked going up, and what is learnt coming down."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples, some

from muxx.errors import InvalidRequest, MuxxError, UpstreamError, UpstreamProtocolError, UpstreamTruncated
from muxx.money import Usage, estimate_tokens
from muxx.wire.responses import (
    ResponseStream,
    assembled,
    error_event,
    input_bytes,
    read_response,
    read_response_usage,
    request_parts,
    response_usage_object,
    validate_response,
)
from muxx.wire.sse import EventSplitter, data_of
from muxx.wire.wire import Verdict
from muxx.wire.wires import RESPONSES

from .passing import objects, observed
from .recordings import cuts, recordings
from .responses_kit import OWN, USAGE, begun, call, ended, message, plain, refusal, stream

GOOD: dict[str, Any] = {"model": "gpt-5", "input": "hi"}


def facts_of(data: bytes) -> ResponseStream:
    facts, _ = observed(RESPONSES, [data])
    assert isinstance(facts, ResponseStream)
    return facts


# Requests.


@pytest.mark.parametrize("body", [{"input": "hi"}, {"model": "gpt-5"}, {"model": "gpt-5", "input": None, "store": True}])
def test_a_model_and_something_to_answer_are_needed(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_response(body)
    assert (caught.value.code, caught.value.param) == ("missing_field", "input" if "model" in body else "model")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [None, "", 1, ["a"], "a\nb", "x" * 257]),
        ("input", [1, {}, True]),
        ("instructions", [1, ["be brief"], {}]),
        ("temperature", [-0.1, 2.1, "1", True]),
        ("max_output_tokens", [0, -1, 1.0, True, "5"]),
        ("stream", [0, 1, "true"]),
        ("tools", [{}, "x", False]),
    ],
)
def test_a_wrong_value_is_named_and_the_message_says_what_to_do(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            validate_response({**GOOD, field: value})
        assert (caught.value.code, caught.value.param) == ("invalid_type", field)
        assert "Give " in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"input": ""},
        {"input": []},
        {"input": [{"role": "user", "content": "hi"}, 1]},
        {"prompt": {"id": "pmpt_1"}},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1", "input": None},
        {**GOOD, "store": True, "background": True, "include": ["reasoning.encrypted_content"], "n": -1, "temperature": None},
    ],
)
def test_what_the_api_allows_passes(body: dict[str, Any]) -> None:
    validate_response({"model": "gpt-5", **body})


REQUEST: dict[str, Any] = {
    "model": "gpt-5",
    "instructions": "be brief",
    "prompt": {
        "id": "p",
        "variables": {"city": "Graz", "note": {"type": "input_text", "text": "n"}, "photo": {"type": "input_image"}},
    },
    "input": [
        {"role": "developer", "content": "d"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "u"}, {"type": "input_image", "image_url": "x"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}],
        },
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "r"}],
            "encrypted_content": "gAAAA",
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "p"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "g", "input": "i"},
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls", "pwd"]}},
        {
            "type": "shell_call_output",
            "call_id": "c",
            "output": [{"stdout": "out", "stderr": "err", "outcome": {"type": "exit"}}],
        },
        {"type": "code_interpreter_call", "id": "x", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "update_file", "diff": "+x", "path": "p"}},
        {"type": "image_generation_call", "id": "x", "result": "iVBORw0KGgo="},
        {"type": "item_reference", "id": "msg_1"},
        "no item at all",
    ],
}
FOUND = [
    ("system", "text", "instructions", "be brief"),
    ("developer", "text", "input[0].content", "d"),
    ("user", "text", "input[1].content[0].text", "u"),
    ("assistant", "text", "input[2].content[0].text", "a"),
    ("assistant", "text", "input[2].content[1].refusal", "no"),
    ("assistant", "text", "input[3].summary[0].text", "s"),
    ("assistant", "text", "input[3].content[0].text", "r"),
    ("assistant", "tool_arguments", "input[4].arguments", "{}"),
    ("tool", "tool_result", "input[5].output", "o"),
    ("tool", "tool_result", "input[6].output[0].text", "p"),
    ("assistant", "tool_arguments", "input[7].input", "i"),
    ("assistant", "tool_arguments", "input[8].action.commands[0]", "ls"),
    ("assistant", "tool_arguments", "input[8].action.commands[1]", "pwd"),
    ("tool", "tool_result", "input[9].output[0].stdout", "out"),
    ("tool", "tool_result", "input[9].output[0].stderr", "err"),
    ("assistant", "tool_arguments", "input[10].code", "1+1"),
    ("tool", "tool_result", "input[10].outputs[0].logs", "2"),
    ("assistant", "tool_arguments", "input[11].operation.diff", "+x"),
    ("user", "text", "prompt.variables.city", "Graz"),
    ("user", "text", "prompt.variables.note.text", "n"),
]


def at_path(body: Any, path: str) -> Any:
    for step in path.replace("[", ".").replace("]", "").split("."):
        body = body[int(step)] if isinstance(body, list) else body[step]
    return body


def test_parts_find_every_text_and_write_it_back() -> None:
    body = json.loads(json.dumps(REQUEST))
    assert [(part.role, part.kind, part.path, part.text) for part in request_parts(body)] == FOUND
    for part in request_parts(body):
        part.text = f"<{part.text}>"
    for _, _, path, text in FOUND:
        assert at_path(body, path) == f"<{text}>"
    assert json.dumps(body).count("<") == len(FOUND)


def test_a_string_is_the_users() -> None:
    body = dict(GOOD)
    [part] = request_parts(body)
    assert (part.role, part.kind, part.path) == ("user", "text", "input")
    part.text = "ho"
    assert body["input"] == "ho"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "content", "text", "output", "action", "commands", "variables"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
@settings(max_examples=examples(80), deadline=None)
def test_parts_of_a_strange_body_are_no_error_and_can_be_written(value: Any) -> None:
    body = {"input": value, "prompt": value, "instructions": value}
    for part in request_parts(body):
        part.text += "!"
        assert part.text.endswith("!")


def test_input_is_measured_in_bytes_of_text_and_tools() -> None:
    assert input_bytes({"input": "ü", "instructions": "ab", "tools": [{"a": 1}]}) == 2 + 2 + len('[{"a":1}]')
    assert input_bytes({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x" * 99}]}]}) == 0
    assert input_bytes({"previous_response_id": "resp_1"}) == 0


# Answers.


@pytest.mark.parametrize(
    ("name", "text", "reasons"),
    [
        ("text", "Grüß Gott 👋", ["stop"]),
        ("many", "It is warm.", ["tool_calls"]),
        ("unnamed", "ab", ["stop"]),
        ("unnumbered", "ab", ["stop"]),
        ("incomplete", "cut off", ["length"]),
        ("failed", "", ["error"]),
        ("whole", "all at once", ["stop"]),
        ("only_the_end", "nothing before", ["tool_calls"]),
        ("unknown", "", ["stop"]),
    ],
)
def test_the_facts_of_our_own_streams_and_of_the_same_answers_plain(name: str, text: str, reasons: list[str]) -> None:
    streamed, fact = facts_of(OWN[name]), read_response(plain(name))
    for facts in (streamed, fact):
        assert (facts.id, facts.model, facts.created) == ("resp_1", "gpt-5", 1700000000)
        assert (facts.text, list(facts.finish_reasons.values())) == (text, reasons)
        assert assembled(facts) == json.loads(plain(name))
    assert streamed.done
    assert streamed.finished
    assert (streamed.usage, streamed.error) == (fact.usage, fact.error)
    if name != "failed":
        assert streamed.usage == Usage(20, 30, cache_read_tokens=5, reasoning_tokens=7, source="provider")


def test_all_that_was_written_counts_whether_it_came_in_pieces_or_whole() -> None:
    texts = "Let me think.It is warm." + '{"city":"Graz"}' + "print(1)" + "x = 1" + '{"q":1}' + "I cannot." + "ls -lacat *"
    assert facts_of(OWN["many"]).output_bytes == read_response(plain("many")).output_bytes == len(texts)
    assert facts_of(OWN["whole"]).output_bytes == len("all at once")


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_the_terminal_event_is_held_back_and_nothing_after_it_counts(kind: str) -> None:
    facts = ResponseStream()
    data = stream(*begun(), *ended(kind=kind))
    verdicts = [facts.observe(event) for event in EventSplitter(1 << 20).feed(data)]
    assert verdicts == [Verdict.FORWARD, Verdict.FORWARD, Verdict.DONE]
    assert facts.finished


def test_why_an_answer_failed_is_kept() -> None:
    assert facts_of(OWN["failed"]).error == {"code": "server_error", "message": "Sorry."}


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None},
        {"type": "error", "sequence_number": 2, "error": {"code": "rate_limit_exceeded", "message": "Slow down."}},
        {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}},
    ],
)
def test_the_providers_error_event_ends_the_stream_in_each_of_its_shapes(error: dict[str, Any]) -> None:
    facts = facts_of(stream(*begun(), *message(0, "par", "tial")[0]))
    [raw] = EventSplitter(1 << 20).feed(b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n")
    assert facts.observe(raw) is Verdict.ERROR_EVENT
    assert facts.error["code"] == "rate_limit_exceeded"
    assert not facts.done
    assert facts.text == "partial"


def test_a_done_of_another_format_is_no_end_and_is_not_sent() -> None:
    facts, out = observed(RESPONSES, [stream(*begun()), b"data: [DONE]\n\n"])
    assert not facts.done
    assert b"[DONE]" not in out


def test_events_without_data_are_dropped_and_comments_pass() -> None:
    facts = ResponseStream()
    events = EventSplitter(1 << 20).feed(b": hi\n\nevent: ping\n\nid: 7\n\ndata:\n\n")
    assert [facts.observe(event) for event in events] == [Verdict.FORWARD, Verdict.DROP, Verdict.DROP, Verdict.DROP]


@pytest.mark.parametrize("data", [b"{", b"1", b"[]", b'"x"', b"null", b"<html>"])
def test_data_that_is_no_object_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        ResponseStream().observe((b"data: " + data + b"\n\n", data))


_MEMBERS = [
    "type",
    "output_index",
    "content_index",
    "delta",
    "item",
    "part",
    "response",
    "output",
    "content",
    "text",
    "usage",
    "id",
]
_KINDS = ["response.output_text.delta", "response.output_text.done", "response.output_item.done", "response.created", "message"]


@given(
    st.dictionaries(
        st.sampled_from(_MEMBERS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.sampled_from(_KINDS),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_MEMBERS), inner, max_size=4),
            max_leaves=8,
        ),
        max_size=6,
    )
)
@settings(max_examples=examples(150), deadline=None)
def test_a_strange_object_is_passed_on_and_never_an_exception(value: dict[str, Any]) -> None:
    facts = ResponseStream()
    for kind in [value.get("type"), *_KINDS]:
        data = json.dumps({**value, "type": kind}).encode()
        assert facts.observe((b"data: " + data + b"\n\n", data)) in (Verdict.FORWARD, Verdict.DONE)
    assert isinstance(facts.text, str)
    assert isinstance(facts.output_bytes, int)
    assert isinstance(assembled(facts), dict)


def test_text_that_came_after_a_running_count_is_known() -> None:
    running = {**begun()[1][1]["response"], "usage": {**USAGE, "output_tokens": 0, "output_tokens_details": {}}}
    events = [*begun(), ("response.in_progress", {"response": running}), *message(0, "more")[0]]
    facts = facts_of(stream(*events))
    assert facts.text_since_usage
    assert not facts_of(stream(*events, *ended())).text_since_usage


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "content_filter"}, "content_filter"),
        ({"reason": "max_messages"}, "max_messages"),
        (None, "length"),
        ({}, "length"),
    ],
)
def test_why_an_answer_is_incomplete_is_told_in_known_words_or_the_providers(details: Any, reason: str) -> None:
    answer = {"object": "response", "status": "incomplete", "incomplete_details": details}
    assert read_response(json.dumps(answer).encode()).finish_reasons == {0: reason}


def test_a_message_that_is_a_string_counts() -> None:
    facts = read_response(json.dumps({"status": "completed", "output": [{"type": "message", "content": "four"}]}).encode())
    assert (facts.output_bytes, facts.text_since_usage) == (4, False)


def test_where_the_terminal_event_has_no_items_they_are_as_they_came() -> None:
    facts = facts_of(stream(*begun(), *message(0, "a")[0], *call(1, "{}")[0], *ended()))
    assert assembled(facts)["output"] == [message(0, "a")[1], call(1, "{}")[1]]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"no"}}', UpstreamError),
        (b"<html>", UpstreamError),
        (b"", UpstreamProtocolError),
        (b"[]", UpstreamProtocolError),
        (b"{", UpstreamProtocolError),
    ],
)
def test_what_is_no_answer_is_an_error_of_the_right_kind(body: bytes, error: type[MuxxError]) -> None:
    with pytest.raises(MuxxError) as caught:
        read_response(body)
    assert type(caught.value) is error


def test_an_answer_that_has_not_begun_has_no_finish_reason() -> None:
    queued = read_response(
        json.dumps({"id": "resp_1", "object": "response", "status": "queued", "output": [], "usage": None}).encode()
    )
    assert (queued.finish_reasons, queued.usage, queued.text) == ({}, None, "")


# Usage.


def test_usage_comes_to_the_same_words_as_everywhere() -> None:
    details = {"cached_tokens": 8, "cache_write_tokens": 2}
    value = {**USAGE, "input_tokens_details": details}
    expected = Usage(
        20, 30, cache_read_tokens=8, cache_write_tokens=2, reasoning_tokens=7, service_tier="flex", source="provider"
    )
    assert read_response_usage(value, "flex") == (expected, False)
    assert read_response_usage(response_usage_object(expected), "flex") == (expected, False)


@pytest.mark.parametrize(("field", "wrong"), [("total_tokens", -5), ("input_tokens_details", "x"), ("output_tokens_details", [])])
def test_a_total_or_details_that_cannot_be_true_leave_the_counts_alone(field: str, wrong: Any) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, field: wrong}
    assert read_response_usage(usage) == (Usage(3, 4, source="provider"), True)


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("wrong", [-1, 1.5, "9", True, None, 10**10])
def test_unbelievable_totals_are_flagged_and_ignored(field: str, wrong: Any) -> None:
    assert read_response_usage({**USAGE, field: wrong}) == (None, True)
    facts = facts_of(stream(*begun(), *ended(usage={**USAGE, field: wrong})))
    assert (facts.usage, facts.usage_invalid) == (None, True)


def test_an_unbelievable_detail_is_flagged_and_the_totals_stand() -> None:
    usage, invalid = read_response_usage({**USAGE, "input_tokens_details": {"cached_tokens": 21}})
    assert invalid
    assert usage == Usage(20, 30, reasoning_tokens=7, source="provider")


# The gateway's own error.


def test_an_error_event_is_read_by_every_kind_of_client() -> None:
    facts = facts_of(stream(*begun(), *message(0, "par")[0]))
    raw = RESPONSES.error_event(UpstreamTruncated(), "req_1", facts.next_number)
    assert raw.startswith(b"event: error\ndata: ")
    told = json.loads(data_of(raw) or b"")
    assert told["type"] == "error"
    assert told["code"] == told["error"]["code"] == "upstream_truncated"
    assert told["message"] == told["error"]["message"]
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["sequence_number"] == objects(stream(*begun(), *message(0, "par")[0]))[-1]["sequence_number"] + 1
    assert json.loads(data_of(error_event(UpstreamTruncated())) or b"")["sequence_number"] == 0


# Recordings.


def reference(data: bytes) -> tuple[Any, str, int]:
    """The terminal event's response, the text and the bytes of all that came in pieces, the simplest way."""
    values = [json.loads(line[5:]) for line in data.splitlines() if line.startswith(b"data:")]
    pieces = [(value["type"], value["delta"]) for value in values if value["type"].endswith(".delta")]
    text = "".join(piece for kind, piece in pieces if kind == "response.output_text.delta")
    return values[-1]["response"], text, sum(len(piece.encode()) for _, piece in pieces)


def check(facts: ResponseStream, expected: tuple[Any, str, int]) -> None:
    response, text, size = expected
    assert facts.done
    assert facts.text == text
    assert facts.output_bytes >= size
    assert (facts.id, facts.model, facts.service_tier) == (response["id"], response["model"], response.get("service_tier"))
    assert list(facts.finish_reasons.values()) in (["stop"], ["tool_calls"], ["length"])
    assert facts.usage is not None
    assert not facts.usage_invalid
    told, used = response["usage"], facts.usage
    assert (used.input_tokens, used.output_tokens) == (told["input_tokens"], told["output_tokens"])
    assert used.cache_read_tokens == told["input_tokens_details"]["cached_tokens"]
    assert used.reasoning_tokens == told["output_tokens_details"]["reasoning_tokens"]
    assert assembled(facts) == response


def test_every_recording_has_the_facts_of_a_simple_reference_in_every_seeded_chunking() -> None:
    for number, path in enumerate(some(recordings("openai-responses"))):
        data = path.read_bytes()
        expected = reference(data)
        for seed in (number, number + 500):
            facts, out = observed(RESPONSES, cuts(data, seed))
            assert isinstance(facts, ResponseStream)
            check(facts, expected)
            assert out == data


def test_a_stream_cut_anywhere_is_not_complete_and_counts_what_came() -> None:
    for path in random.Random(5).sample(recordings("openai-responses"), 20):
        events = [raw + b"\n\n" for raw in path.read_bytes().split(b"\n\n") if raw]
        whole = facts_of(b"".join(events)).output_bytes
        counted = -1
        for end in range(0, len(events), 7):
            facts = facts_of(b"".join(events[:end]))
            assert not facts.finished
            assert counted <= facts.output_bytes <= whole
            counted = facts.output_bytes


def test_the_estimate_of_a_broken_stream_is_never_nothing() -> None:
    facts = facts_of(stream(*begun(), *refusal(0, "no")[0][:3]))
    assert estimate_tokens(facts.output_bytes) == 1

"""The endpoints' formats as the kernel sees them: what holds for one holds for all."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from muxx.errors import RateLimited, UpstreamTruncated
from muxx.reply import Chunk
from muxx.testing import Said, Tool
from muxx.testing.speaking import streamed
from muxx.wire.openai import DONE_EVENT
from muxx.wire.sse import EventSplitter, data_of, is_comment
from muxx.wire.wire import AnswerHead, Verdict, Wire
from muxx.wire.wires import BY_NAME, CHAT, COMPLETIONS, ERROR_BODIES, GENERATE_CONTENT, MESSAGES, RESPONSES, WIRES, named_in

from . import responses_kit, test_completions
from .passing import Hook, hooked, observed, shout, through
from .recordings import GOLDENS, recordings

STREAMS = [
    *[(CHAT, GOLDENS[name]) for name in GOLDENS if name not in ("error", "cut")],
    *[(COMPLETIONS, data) for data in test_completions.OWN.values()],
    *[(RESPONSES, data) for data in responses_kit.OWN.values()],
    (MESSAGES, b"".join(streamed("messages", Said("Hello there", "Hm.", (Tool("add", '{"a": 1}'),)), "m"))),
]
STREAMING = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]
"""Those whose streams have a last event."""


def named(wire: Wire) -> str:
    return wire.name


def test_every_endpoint_has_its_paths_and_names() -> None:
    openai = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
    assert WIRES.keys() == openai | {"/v1/messages", "/v1/messages/count_tokens"}
    for path, wire in WIRES.items():
        assert path == wire.path
        assert wire.upstream_url("http://x/v1", "m", False) == "http://x" + path
        assert named_in(path) is None
    operations = {"chat", "text_completion", "embeddings", "count_tokens", "generate_content"}
    assert {wire.operation for wire in BY_NAME.values()} == operations
    plain = {wire.name for wire in BY_NAME.values() if not wire.streams}
    assert plain == {"embeddings", "count_tokens", "count_content"}
    assert {wire.name for wire in BY_NAME.values() if wire.counts} == {"count_tokens", "count_content"}


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_a_path_of_googles_names_the_model_and_whether_a_stream_is_wanted(version: str) -> None:
    for action, name, stream in (
        ("generateContent", "generate_content", False),
        ("streamGenerateContent", "generate_content", True),
        ("countTokens", "count_content", False),
    ):
        found = named_in(f"/{version}/models/my%2Fmodel:{action}")
        assert found is not None
        assert (found[0].name, found[1]) == (name, {"model": "my/model", "stream": stream})


def test_a_format_is_a_constant() -> None:
    with pytest.raises(FrozenInstanceError):
        CHAT.path = "/elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(("wire", "data"), STREAMS)
def test_the_last_event_is_held_back_and_is_the_last(wire: Wire, data: bytes) -> None:
    facts = wire.stream({}, True)
    verdicts = [facts.observe(event) for event in EventSplitter(1 << 20).feed(data)]
    assert verdicts.count(Verdict.DONE) == 1
    assert verdicts[-1] is Verdict.DONE
    assert facts.done
    assert facts.finished


@pytest.mark.parametrize(("wire", "data"), STREAMS)
@pytest.mark.parametrize("hook", [lambda chunk: None, lambda chunk: [replace(chunk)]])
def test_what_nobody_touched_leaves_as_its_own_bytes(wire: Wire, data: bytes, hook: Hook) -> None:
    assert through(wire, data, hook) == observed(wire, [data])[1]


@pytest.mark.parametrize("wire", STREAMING, ids=named)
def test_an_answer_of_chunks_is_complete_in_both_forms(wire: Wire) -> None:
    chunks = [Chunk("text", "Hel"), Chunk("text", "lo"), Chunk("end", finish_reason="length")]
    head = AnswerHead(f"{wire.id_prefix}1", "m", 1)
    codec = wire.codec(head, False)
    events = b"".join([codec.encode([chunk]) for chunk in chunks])
    facts, _ = observed(wire, [events])
    assert not facts.done, "the last event is not among those that are encoded"
    facts, _ = observed(wire, [events + codec.last()])
    plain = wire.read_plain(wire.encode_answer(chunks, head))
    for read in (facts, plain):
        assert (read.text, list(read.finish_reasons.values()), read.id, read.model) == ("Hello", ["length"], head.id, "m")
    assert wire.assembled(facts) == wire.assembled(plain)


@pytest.mark.parametrize("wire", STREAMING, ids=named)
def test_a_plain_answer_can_be_streamed_through_hooks(wire: Wire) -> None:
    body = wire.encode_answer([Chunk("text", "Hello"), Chunk("end")], AnswerHead("id", "m", 1))
    codec = wire.codec(AnswerHead("id", "m", 1), False)
    data = codec.encode(hooked(wire.decode_plain(body), shout)) + codec.last()
    facts, _ = observed(wire, [data])
    assert (facts.text, facts.done, list(facts.finish_reasons.values())) == ("HELLO", True, ["stop"])


@pytest.mark.parametrize("wire", [*STREAMING, GENERATE_CONTENT], ids=named)
@pytest.mark.parametrize("number", [None, 7])
def test_an_error_event_never_looks_like_success(wire: Wire, number: int | None) -> None:
    raw = wire.error_event(UpstreamTruncated(), "req_1", number)
    [event] = EventSplitter(1 << 20).feed(raw)
    facts = wire.stream({}, True)
    assert facts.observe(event) is Verdict.ERROR_EVENT
    assert not facts.finished
    said = json.loads(event[1] or b"")["error"]
    assert said["message"] == UpstreamTruncated().message
    assert wire.format != "openai" or said["code"] == "upstream_truncated"


@pytest.mark.parametrize("wire", BY_NAME.values(), ids=named)
def test_an_error_is_told_in_the_vendors_own_shape(wire: Wire) -> None:
    error = RateLimited("Wait.", retry_after=3)
    body = wire.error_body(error, "req_1")
    assert body == ERROR_BODIES[wire.format](error, "req_1")
    assert json.loads(body) == {
        "openai": {
            "error": {
                "message": "Wait.",
                "type": "rate_limit_error",
                "param": None,
                "code": "rate_limit_exceeded",
                "retry_after": 3,
            }
        },
        "anthropic": {"type": "error", "error": {"type": "rate_limit_error", "message": "Wait."}, "request_id": "req_1"},
        "gemini": {"error": {"code": 429, "message": "Wait.", "status": "RESOURCE_EXHAUSTED"}},
    }[wire.format]


@pytest.mark.parametrize("wire", STREAMING, ids=named)
def test_the_comment_is_one_to_every_parser(wire: Wire) -> None:
    assert wire.comment_event is not None
    comment = wire.comment_event(None, "req_1", None)
    assert is_comment(comment)
    assert data_of(comment) is None


@pytest.mark.parametrize("wire", STREAMING, ids=named)
def test_the_comment_goes_before_the_last_event(wire: Wire) -> None:
    """To every parser of the format, a stream with the comment is the stream without it."""
    data = next(data for of, data in STREAMS if of is wire)
    *events, last = [raw for raw, _ in EventSplitter(1 << 20).feed(data)]
    assert wire.comment_event is not None
    told = b"".join(events) + wire.comment_event(None, "req_1", None) + last
    assert wire.assembled(observed(wire, [told])[0]) == wire.assembled(observed(wire, [data])[0])


def test_clients_of_google_get_no_comment() -> None:
    assert GENERATE_CONTENT.comment_event is None


CLOSED = [
    (CHAT, GOLDENS["plain"]),
    (CHAT, GOLDENS["two_choices"]),
    (COMPLETIONS, test_completions.OWN["usage"]),
    (COMPLETIONS, test_completions.OWN["two"]),
]


@pytest.mark.parametrize(("wire", "data"), CLOSED)
@pytest.mark.parametrize(
    "hook",
    [
        lambda chunk: [] if chunk.finish_reason and chunk.kind != "end" else None,
        lambda chunk: [] if chunk.kind != "end" else None,
        lambda chunk: [Chunk("text", "more", index=7), chunk] if chunk.kind == "end" else None,
    ],
    ids=["finish dropped", "all dropped", "choice added"],
)
def test_what_a_plugin_left_open_is_closed_at_the_providers_own_end(wire: Wire, data: bytes, hook: Hook) -> None:
    before, after = observed(wire, [data])[0], observed(wire, [through(wire, data, hook)])[0]
    assert after.finished
    assert after.done
    totals = [(facts.usage.input_tokens, facts.usage.output_tokens) if facts.usage else None for facts in (before, after)]
    assert totals[0] == totals[1]
    reasons = list(before.finish_reasons.values())
    assert after.finish_reasons[0] == reasons[0]
    assert set(after.finish_reasons.values()) <= set(reasons)


@pytest.mark.parametrize("wire", [CHAT, COMPLETIONS], ids=named)
def test_what_the_provider_left_open_stays_open(wire: Wire) -> None:
    data = (GOLDENS["plain"] if wire is CHAT else test_completions.OWN["usage"]).replace(b'"stop"', b"null")
    assert not observed(wire, [data])[0].finish_reasons
    assert through(wire, data, lambda chunk: [replace(chunk)]) == data
    assert not observed(wire, [through(wire, data, shout)])[0].finish_reasons


def test_a_provider_that_ends_responses_as_chat_does_has_said_all_before() -> None:
    facts, out = observed(RESPONSES, [responses_kit.TEXT, DONE_EVENT])
    assert (facts.done, out) == (True, responses_kit.TEXT)


def test_every_chat_recording_leaves_a_codec_as_its_own_bytes() -> None:
    for path in recordings():
        assert through(CHAT, path.read_bytes(), lambda chunk: [replace(chunk)]) == path.read_bytes()

"""The endpoints' formats as the kernel sees them: what holds for one holds for all."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from muxx.errors import RateLimited, UpstreamTruncated
from muxx.reply import Chunk
from muxx.wire.openai import DONE_EVENT, AnswerHead, Verdict
from muxx.wire.sse import EventSplitter, data_of, is_comment
from muxx.wire.wires import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, WIRES, Wire

from . import responses_kit, test_completions
from .passing import Hook, hooked, observed, shout, through
from .recordings import GOLDENS, recordings

STREAMS = [
    *[(CHAT, GOLDENS[name]) for name in GOLDENS if name not in ("error", "cut")],
    *[(COMPLETIONS, data) for data in test_completions.OWN.values()],
    *[(RESPONSES, data) for data in responses_kit.OWN.values()],
]
STREAMING = [CHAT, COMPLETIONS, RESPONSES]


def named(wire: Wire) -> str:
    return wire.name


def test_every_endpoint_has_its_paths_and_names() -> None:
    assert WIRES.keys() == {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
    for path, wire in WIRES.items():
        assert (path, wire.path) == (wire.path, "/v1" + wire.upstream_path)
    assert len({wire.name for wire in WIRES.values()}) == len(WIRES)
    assert {wire.operation for wire in WIRES.values()} == {"chat", "text_completion", "embeddings"}
    assert [wire for wire in WIRES.values() if not wire.streams] == [EMBEDDINGS]


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


@pytest.mark.parametrize("wire", STREAMING, ids=named)
@pytest.mark.parametrize("known", [False, True])
def test_an_error_event_never_looks_like_success(wire: Wire, known: bool) -> None:
    raw = wire.error_event(UpstreamTruncated(), wire.stream({}, True) if known else None)
    [event] = EventSplitter(1 << 20).feed(raw)
    facts = wire.stream({}, True)
    assert facts.observe(event) is Verdict.ERROR_EVENT
    assert not facts.finished
    assert json.loads(event[1] or b"")["error"]["code"] == "upstream_truncated"


@pytest.mark.parametrize("wire", WIRES.values(), ids=named)
def test_the_gateways_own_words_are_openais(wire: Wire) -> None:
    assert json.loads(wire.error_body(RateLimited("Wait.", retry_after=3)))["error"]["retry_after"] == 3
    comment = wire.comment_event(None, "req_1", None)
    assert is_comment(comment)
    assert data_of(comment) is None


@pytest.mark.parametrize("wire", STREAMING, ids=named)
def test_the_comment_goes_before_the_last_event(wire: Wire) -> None:
    """To every parser of the format, a stream with the comment is the stream without it."""
    data = next(data for of, data in STREAMS if of is wire)
    *events, last = [raw for raw, _ in EventSplitter(1 << 20).feed(data)]
    told = b"".join(events) + wire.comment_event(None, "req_1", None) + last
    assert wire.assembled(observed(wire, [told])[0]) == wire.assembled(observed(wire, [data])[0])


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

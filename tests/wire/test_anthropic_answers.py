"""Anthropic answers written for clients and read for those of other formats: Anthropic's own SDK gets the same message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import APIStatusError
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import (
    AuthenticationError,
    InvalidRequest,
    ModelNotFound,
    MuxxError,
    PermissionDenied,
    PluginError,
    RateLimited,
    RequestTooLarge,
    SpendCapExceeded,
    Unavailable,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.anthropic import (
    MessageCodec,
    MessageReader,
    assembled,
    decode_count,
    decode_message,
    encode_count,
    encode_message,
    encode_plain,
    encode_plain_count,
    error_body,
    error_event,
    read_answer,
    read_count,
    read_message,
    stream_of,
)
from muxx.wire.counts import assembled_count
from muxx.wire.wire import AnswerHead

from .anthropic_kit import (
    ASKED,
    HEAD,
    MANY,
    OWN,
    RESULT,
    TEXT,
    WIRE,
    accepted,
    accepted_plain,
    answer,
    block,
    cited,
    client_for,
    consistent,
    ending,
    event,
    passed,
    said,
    stream,
    strung,
    text,
    thinking,
    tool,
    translated,
    written,
)
from .passing import objects, observed, shout, strings, words
from .recordings import recordings

USED = Usage(30, 9, cache_read_tokens=10, cache_write_tokens=4, reasoning_tokens=2)


def end(reason: str | None = None, usage: Usage | None = USED) -> Chunk:
    return Chunk("end", finish_reason=reason, usage=usage)


def call(number: int, arguments: str = "", *, id: str | None = None, name: str | None = None, **members: Any) -> Chunk:
    return Chunk("tool_call", tool_call=ToolCall(number, id, name, arguments), **members)


def chunks_of(data: bytes) -> list[Chunk]:
    """A stream as Chunks for another format."""
    reader = MessageReader()
    return [*(chunk for value in objects(data) for chunk in reader.read(value)), reader.end()]


# Written.

KINDS = [
    Chunk("reasoning", "Let me "),
    Chunk("reasoning", "think."),
    Chunk("reasoning", signature="sig=="),
    Chunk("text", "It is "),
    Chunk("text", "warm."),
    call(0, id="call_1", name="look"),
    call(0, '{"city":'),
    call(0, '"Graz"}'),
    call(1, '{"city":"Linz"}', id="call_2", name="look"),
    end("tool_calls"),
]


def test_an_answer_from_elsewhere_is_a_message_to_the_sdk() -> None:
    out = written(*KINDS)
    consistent(out)
    message = accepted(out)
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me think.", "signature": "sig=="},
        {"type": "text", "text": "It is warm."},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"city": "Graz"}},
        {"type": "tool_use", "id": "call_2", "name": "look", "input": {"city": "Linz"}},
    ]
    assert (message["id"], message["model"], message["stop_reason"]) == ("msg_mine", "gpt-5", "tool_use")
    assert said(message)["tokens"] == (16, 10, 4, 9)
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


def test_a_plain_answer_from_elsewhere_says_the_same() -> None:
    plain, streamed = accepted_plain(encode_message(KINDS, HEAD)), accepted(written(*KINDS))
    assert {**plain, "usage": None, "stop_details": None} == {**streamed, "usage": None}
    assert said(plain) == said(streamed)


def test_encoding_in_any_number_of_steps_is_the_same() -> None:
    codec = MessageCodec(HEAD)
    assert codec.encode(KINDS) + codec.last() == written(*KINDS)
    codec = MessageCodec(HEAD)
    assert codec.encode(iter(KINDS)) + codec.last() == written(*KINDS)


@pytest.mark.parametrize(
    ("reason", "word"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "tool_use"), (None, "end_turn"),
     ("pause_turn", "pause_turn"), ("cancelled", "end_turn")],
)  # fmt: skip
def test_finish_reasons_are_told_in_anthropics_words(reason: str | None, word: str) -> None:
    assert accepted(written(Chunk("text", "a"), end(reason)))["stop_reason"] == word
    assert accepted(written(Chunk("text", "a"), Chunk("other", finish_reason=reason), end()))["stop_reason"] == word


def test_an_answer_that_calls_tools_stops_for_that_whatever_others_call_it() -> None:
    assert accepted(written(call(0, "{}", id="c", name="f"), end("stop")))["stop_reason"] == "tool_use"
    assert accepted(written(call(0, "{", id="c", name="f"), end("length")))["stop_reason"] == "max_tokens"


def test_a_refusal_is_text_that_its_end_tells_apart() -> None:
    out = accepted(written(Chunk("other", "I "), Chunk("other", "cannot."), end("content_filter")))
    assert (out["content"], out["stop_reason"]) == ([{"type": "text", "text": "I cannot."}], "refusal")


def test_reasoning_behind_a_signature_is_a_block_of_its_own() -> None:
    signed = [Chunk("reasoning", "a", signature="1"), Chunk("reasoning", "b"), Chunk("reasoning", signature="2")]
    content = accepted(written(*signed, Chunk("reasoning", signature="3"), Chunk("text", "c"), end()))["content"]
    assert [block.get("signature") for block in content] == ["1", "2", "3", None]
    assert [block.get("thinking") for block in content] == ["a", "b", "", None]


def test_redacted_reasoning_is_a_block_of_redacted_thinking() -> None:
    content = accepted(written(Chunk("reasoning", "a"), Chunk("reasoning", signature="redacted:xyz"), Chunk("text", "b"), end()))
    assert content["content"][1:] == [{"type": "redacted_thinking", "data": "xyz"}, {"type": "text", "text": "b"}]


def test_the_signature_of_a_call_is_told_beside_it() -> None:
    content = accepted(written(call(0, "{}", id="c", name="f", signature="thought"), end()))["content"]
    assert content == [{"type": "tool_use", "id": "c", "name": "f", "input": {}, "signature": "thought"}]


def test_calls_that_others_number_alike_or_mix_are_kept_apart() -> None:
    alike = [call(0, '{"a":1}', id="c1", name="f"), call(0, '{"a":2}', id="c2", name="f"), end()]
    assert [made[2] for made in said(accepted(written(*alike)))["calls"]] == [{"a": 1}, {"a": 2}]
    mixed = [call(0, '{"a"', id="c1", name="f"), call(1, '{"b"', id="c2", name="g"), call(0, ":1}"), call(1, ":2}"), end()]
    assert [made[2] for made in said(accepted(written(*mixed)))["calls"]] == [{"a": 1}, {"b": 2}]


def test_a_call_without_id_gets_one() -> None:
    [made] = said(accepted(written(call(0, "{}", name="f"), end())))["calls"]
    assert made == ("toolu_0", "f", {})


def test_of_several_choices_the_first_is_the_message() -> None:
    others = [
        Chunk("text", "b", index=1),
        Chunk("other", index=1, finish_reason="length"),
        call(0, "{}", id="c", name="f", index=1),
    ]
    out = written(Chunk("text", "a"), *others, Chunk("text", "c"), Chunk("text", "d", index=2), end("stop"))
    assert (said(accepted(out))["text"], said(accepted(out))["calls"], accepted(out)["stop_reason"]) == ("ac", [], "end_turn")


def test_what_says_nothing_is_in_no_event() -> None:
    out = written(Chunk("text", ""), Chunk("reasoning", ""), Chunk("other"), end())
    assert [value["type"] for value in objects(out)] == ["message_start", "message_delta", "message_stop"]
    assert written(Chunk("text", "a"), Chunk("text", ""), Chunk("text", "b"), end()).count(b"text_delta") == 2


def test_an_answer_starts_with_the_usage_that_is_known_and_ends_with_all_of_it() -> None:
    facts, _ = observed(WIRE, [TEXT[: TEXT.index(b"event: content_block_start")]])
    out = written(Chunk("text", "a"), end(usage=None), head=facts)
    assert objects(out)[0]["message"]["usage"]["input_tokens"] == 20
    assert said(accepted(out))["tokens"] == (20, 5, 3, 1)
    assert objects(written(end()))[0]["message"]["usage"]["input_tokens"] == 0
    assert AnswerHead(None, None, None).id is None
    nameless = accepted(written(end(), head=AnswerHead(None, None, None)))
    assert (nameless["id"], nameless["model"]) == ("msg_muxx", "")


def plain_chunks() -> st.SearchStrategy[list[Chunk]]:
    said_ = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    pieces = st.one_of(
        st.builds(Chunk, st.sampled_from(["text", "reasoning", "other"]), said_),
        st.builds(lambda mark: Chunk("reasoning", signature=mark), said_),
        st.builds(lambda value: ("call", json.dumps(value)), st.dictionaries(said_, said_, max_size=2)),
    )

    def numbered(items: list[Any]) -> list[Chunk]:
        chunks: list[Chunk] = []
        calls = 0
        for item in items:
            if isinstance(item, Chunk):
                chunks.append(item)
                continue
            chunks += [call(calls, item[1][:1], id=f"c{calls}", name="f"), call(calls, item[1][1:])]
            calls += 1
        return [*chunks, end("tool_calls" if calls else "stop")]

    return st.lists(pieces, max_size=12).map(numbered)


def gathered(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    """Chunks with the pieces of each text put together, and what tools are called with as values; a refusal is text here."""
    whole: list[list[Any]] = []
    for chunk in chunks:
        kind = "text" if chunk.kind == "other" and chunk.text else chunk.kind
        key = (kind, chunk.tool_call.index if chunk.tool_call else None)
        if whole and whole[-1][0] == key and whole[-1][2] is None:
            whole[-1][1] += words(chunk)
            whole[-1][2] = chunk.signature
        else:
            whole.append([key, words(chunk), chunk.signature])
    return [(key, json.loads(text) if key[0] == "tool_call" else text, mark) for key, text, mark in whole]


@settings(max_examples=examples(150), deadline=None)
@given(plain_chunks())
def test_what_is_written_is_read_back(chunks: list[Chunk]) -> None:
    out = written(*chunks)
    consistent(out)
    assert gathered(chunks_of(out)) == gathered(chunks)
    assert chunks_of(out)[-1].finish_reason == chunks[-1].finish_reason
    used, known = chunks_of(out)[-1].usage, chunks[-1].usage
    assert known is not None
    assert used == known._replace(source="provider")
    plain, lost = read_answer(encode_message(chunks, HEAD))
    assert gathered(plain) == gathered(chunks)
    assert not lost
    assert said(accepted(out)) == said(accepted_plain(encode_message(chunks, HEAD)))


# Read for another format.


def test_the_chunks_of_an_answer_for_another_format() -> None:
    assert strung(chunks_of(MANY)) == [
        ("reasoning", 0, "Let me ", None, None),
        ("reasoning", 0, "think.", None, None),
        ("reasoning", 0, "", "sig==", None),
        ("text", 0, "It is ", None, None),
        ("text", 0, "warm.", None, None),
        ("reasoning", 0, "", "redacted:hidden==", None),
        ("tool_call", 0, (0, "toolu_3", "weather", ""), None, None),
        ("tool_call", 0, (0, None, None, '{"city":'), None, None),
        ("tool_call", 0, (0, None, None, ' "Graz"}'), None, None),
        ("text", 0, "as a ", None, None),
        ("text", 0, "source says", None, None),
        ("tool_call", 0, (1, "toolu_7", "weather", ""), None, None),
        ("tool_call", 0, (1, None, None, '{"city": "Linz"}'), None, None),
        ("end", 0, "", None, "tool_calls"),
    ]
    assert chunks_of(MANY)[-1].usage == Usage(28, 30, 5, 3, service_tier="standard", source="provider")
    assert all(chunk.raw is None for chunk in chunks_of(MANY))


def test_what_has_no_counterpart_is_told() -> None:
    _, reader = translated(MANY)
    assert reader.lost == {"server_tool_use", "code_execution_tool_result", "citations"}
    paused = stream(*answer(text(0, "a"), reason="pause_turn"))
    assert translated(paused)[1].lost == {"pause_turn"}
    compacted = stream(*answer(block(0, {"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "s"})))
    assert translated(compacted)[1].lost == {"compaction"}
    assert translated(TEXT)[1].lost == set()
    odd = stream(*answer(block(0, {"type": "text", "text": ""}, {"type": "hologram_delta"})))
    assert translated(odd)[1].lost == {"hologram_delta"}


@pytest.mark.parametrize("pieces", [(), ("",)])
def test_a_call_without_arguments_has_an_empty_object(pieces: tuple[str, ...]) -> None:
    chunks = chunks_of(stream(*answer(tool(0, *pieces), reason="tool_use")))
    assert "".join(words(chunk) for chunk in chunks) == "{}"


def test_a_call_that_comes_whole_is_read_whole() -> None:
    begun = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    [made, _] = chunks_of(stream(*answer(block(0, begun), reason="tool_use")))
    assert made.tool_call == ToolCall(0, "t", "f", '{"a":1}')


def test_text_that_comes_with_its_block_is_read() -> None:
    begun = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "yes"}]
    chunks = chunks_of(stream(*answer(*(block(at, one) for at, one in enumerate(begun)))))
    assert [(chunk.kind, chunk.text) for chunk in chunks] == [("reasoning", "hm"), ("text", "yes"), ("end", "")]


def test_a_failure_the_answer_tells_of_is_raised() -> None:
    with pytest.raises(UpstreamError) as caught:
        MessageReader().read({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert caught.value.code == "overloaded_error"
    with pytest.raises(UpstreamError):
        MessageReader().read({"type": "error", "error": None})


@pytest.mark.parametrize(
    "value",
    [{}, {"type": "ping"}, {"delta": []}, {"type": "content_block_start"}, {"type": "content_block_stop", "index": 9},
     {"type": "message_delta"}, {"type": "message_start", "message": {"usage": 3}}, {"type": ["odd"]},
     {"type": "content_block_delta", "index": 4, "delta": {"type": "input_json_delta", "partial_json": "x"}}],
)  # fmt: skip
def test_what_says_nothing_is_no_chunk(value: dict[str, Any]) -> None:
    assert MessageReader().read(value) == []


def test_an_answer_without_usage_has_none() -> None:
    reader = MessageReader()
    reader.read({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert reader.end() == Chunk("end", finish_reason="stop")


def test_of_every_recording_another_format_gets_what_the_sdk_reads() -> None:
    for path in recordings("anthropic-messages"):
        data = path.read_bytes()
        out, reader = translated(data)
        consistent(out)
        before, after = said(accepted(data)), said(accepted(out))
        paused = "pause_turn" in reader.lost
        assert after == {**before, "stop_reason": "end_turn" if paused else before["stop_reason"]}, path.name


def test_of_every_recording_the_plain_answer_is_read_like_the_stream() -> None:
    for path in recordings("anthropic-messages"):
        facts, _ = observed(WIRE, [path.read_bytes()])
        body = json.dumps(assembled(facts)).encode()
        chunks, lost = read_answer(body)
        reader = MessageReader()
        streamed = [*(chunk for value in objects(path.read_bytes()) for chunk in reader.read(value)), reader.end()]
        assert [entry[:2] for entry in gathered(chunks)] == [entry[:2] for entry in gathered(streamed)], path.name
        assert (lost, chunks[-1]) == (reader.lost, streamed[-1])


# Plain answers through hooks.

PLAIN = {name: json.dumps(assembled(observed(WIRE, [data])[0])).encode() for name, data in OWN.items()}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_answer_nobody_touched_is_its_own_bytes(name: str) -> None:
    assert encode_plain(PLAIN[name], decode_message(PLAIN[name])) is PLAIN[name]


@pytest.mark.parametrize("name", PLAIN)
def test_the_stream_of_a_plain_answer_is_the_same_answer(name: str) -> None:
    out = stream_of(PLAIN[name])
    consistent(out)
    assert assembled(observed(WIRE, [out])[0]) == json.loads(PLAIN[name])


def test_a_plain_answer_and_its_stream_show_the_same_texts() -> None:
    def shown(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
        return [(chunk.kind, chunk.index, words(chunk)) for chunk in chunks if words(chunk)]

    codec = MessageCodec(HEAD)
    streamed = [chunk for value in stream_of(PLAIN["many"]).split(b"\n\n")[:-1] for chunk in _decoded(codec, value)]
    assert shown(decode_message(PLAIN["many"])) == shown(streamed)
    assert decode_message(PLAIN["many"])[-1].kind == "end"


def _decoded(codec: MessageCodec, raw: bytes) -> list[Chunk]:
    return codec.decode((raw + b"\n\n", raw.partition(b"data: ")[2]))


def test_a_changed_plain_answer_keeps_all_nobody_changed() -> None:
    loud = [one for chunk in decode_message(PLAIN["many"]) for one in (shout(chunk) if chunk.kind == "text" else None) or [chunk]]
    before, after = json.loads(PLAIN["many"]), json.loads(encode_plain(PLAIN["many"], loud))
    for one in before["content"]:
        if one["type"] == "text":
            one["text"] = one["text"].upper()
    assert after == before


def test_a_plain_answer_can_be_streamed_by_a_codec() -> None:
    codec = MessageCodec(HEAD)
    out = codec.encode(decode_message(PLAIN["many"])) + codec.last()
    assert out == stream_of(PLAIN["many"])


def test_what_was_dropped_of_a_plain_answer_is_gone() -> None:
    out = encode_plain(PLAIN["many"], [chunk for chunk in decode_message(PLAIN["many"]) if chunk.index != 3 and not chunk.text])
    content = json.loads(out)["content"]
    assert [one["type"] for one in content if one["type"] == "tool_use"] == ["tool_use"]
    assert not {"Graz", "It is warm."} & set(strings(content))


def test_whatever_was_dropped_of_a_plain_answer_it_is_the_providers() -> None:
    before, chunks = json.loads(PLAIN["many"]), decode_message(PLAIN["many"])
    message = json.loads(encode_plain(PLAIN["many"], [chunk for chunk in chunks if chunk.kind in ("text", "end")]))
    assert {**message, "content": None} == {**before, "content": None}
    assert [one["text"] for one in message["content"]] == ["It is warm.", "as a source says"]
    message = json.loads(encode_plain(PLAIN["many"], [chunk for chunk in chunks if chunk.kind == "text"]))
    assert (message["stop_reason"], said(message)["tokens"]) == ("end_turn", said(before)["tokens"])


def test_a_plain_answer_ended_early_says_why() -> None:
    message = json.loads(encode_plain(PLAIN["text"], [*decode_message(PLAIN["text"])[:2], Chunk("end", finish_reason="length")]))
    assert (message["stop_reason"], message["usage"]["input_tokens"]) == ("max_tokens", 20)


def test_a_citation_stays_with_its_text() -> None:
    data = stream(*answer(cited(0, "a ", "b")))
    [told] = accepted(passed(data, lambda chunk: shout(chunk) if chunk.kind == "text" else None))["content"]
    assert (told["text"], told["citations"][0]["cited_text"]) == ("A B", "a source")


# Counting.


def test_a_count_is_free_and_says_nothing_but_itself() -> None:
    facts = read_count(b'{"input_tokens": 12, "context_management": {}}')
    assert facts.usage == Usage()
    assert (facts.id, facts.model, facts.created, facts.text, facts.output_bytes) == (None, None, None, "", 0)
    assert (facts.finish_reasons, facts.usage_invalid, facts.text_since_usage) == ({}, False, False)
    assert assembled_count(facts) == {"input_tokens": 12, "context_management": {}}


def test_a_count_is_one_end_and_is_written_back_from_it() -> None:
    body = b'{ "input_tokens": 12, "more": 1 }'
    [told] = decode_count(body)
    assert (told.kind, told.usage) == ("end", Usage(input_tokens=12))
    assert encode_plain_count(body, [told]) is body
    assert encode_plain_count(body, [Chunk("end")]) is body
    assert json.loads(encode_plain_count(body, [Chunk("end", usage=Usage(13))])) == {"input_tokens": 13, "more": 1}
    assert json.loads(encode_count([told], HEAD)) == {"input_tokens": 12}
    assert json.loads(encode_count([], HEAD)) == {"input_tokens": 0}
    counted = client_for(encode_count([told], HEAD), "application/json").messages.count_tokens(
        model="claude", messages=[{"role": "user", "content": "hi"}]
    )
    assert counted.input_tokens == 12


@pytest.mark.parametrize("body", [b'{"type":"error","error":{}}', b"{}", b"<html>", b'{"input_tokens": "12"}'])
def test_what_tells_no_count_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        read_count(body)
    with pytest.raises(UpstreamProtocolError):
        read_count(b"[12]")


# Errors.

ERRORS = [
    (InvalidRequest("no"), "invalid_request_error"),
    (InvalidRequest("no", status=422), "invalid_request_error"),
    (AuthenticationError(), "authentication_error"),
    (SpendCapExceeded("no"), "billing_error"),
    (PermissionDenied("no"), "permission_error"),
    (ModelNotFound("no"), "not_found_error"),
    (RequestTooLarge("no"), "request_too_large"),
    (RateLimited("no"), "rate_limit_error"),
    (PluginError(), "api_error"),
    (UpstreamError(), "api_error"),
    (Unavailable(), "overloaded_error"),
    (UpstreamError(status=529), "overloaded_error"),
    (UpstreamTimeout(), "timeout_error"),
    (InvalidRequest("no", status=504), "invalid_request_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: value if isinstance(value, str) else str(value.status))
def test_an_error_is_anthropics_and_its_sdk_knows_it(error: MuxxError, kind: str) -> None:
    body = error_body(error, "req_1")
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": "req_1"}
    with pytest.raises(APIStatusError) as caught:
        client_for(body, "application/json", error.status).messages.create(**ASKED)
    assert (caught.value.status_code, caught.value.type, caught.value.api_message) == (error.status, kind, error.message)


def test_an_error_event_ends_a_stream_for_the_sdk() -> None:
    broken = TEXT[: TEXT.index(b"event: content_block_stop")] + error_event(UpstreamError(), "req_1")
    with pytest.raises(APIStatusError) as caught:
        accepted(broken)
    assert (caught.value.type, caught.value.api_message) == ("api_error", UpstreamError().message)
    facts, _ = observed(WIRE, [broken])
    assert facts.error == {"type": "api_error", "message": UpstreamError().message}
    assert event({"type": "error"}).startswith(b"event: error\n")


def test_a_message_can_be_read_however_little_it_has() -> None:
    assert read_answer(b'{"content":null}') == ([Chunk("end")], set())
    assert read_message(b'{"content":[]}').usage is None
    odd = b'{"content":[{"type":[]},{"type":"text","text":3},{"type":"tool_use","input":"x"},7],"usage":[],"stop_reason":{}}'
    assert encode_plain(odd, decode_message(odd)) is odd
    assert read_answer(json.dumps({"content": [RESULT]}).encode()) == ([Chunk("end")], {"code_execution_tool_result"})
    assert strung(chunks_of(stream(*thinking(0, "a"), *ending()))) == [
        ("reasoning", 0, "a", None, None),
        ("reasoning", 0, "", "sig==", None),
        ("end", 0, "", None, "stop"),
    ]

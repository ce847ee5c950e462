"""Responses answers that are not streamed by a provider: those that plugins make, and plain ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from muxx.money import Usage
from muxx.reply import Chunk, ToolCall
from muxx.wire.responses import ResponseCodec, read_response
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import RESPONSES

from .passing import Hook, holder, hooked, masker, objects, shout
from .responses_judge import accepted, consistent, drop, passed, texts_of
from .responses_kit import MANY, OWN, plain

HEAD = AnswerHead("resp_mine", "gpt-5", 1)


# Answers that plugins make.


CHUNKS = [
    Chunk("reasoning", "hm"),
    Chunk("text", "Hello"),
    Chunk("text", " you"),
    Chunk("tool_call", tool_call=ToolCall(0, "c", "f", "{")),
    Chunk("tool_call", tool_call=ToolCall(0, arguments="}")),
    Chunk("tool_call", tool_call=ToolCall(0, "d", "g")),
    Chunk("other", "no"),
    Chunk("end", usage=Usage(5, 6)),
]


def made(chunks: Iterable[Chunk]) -> bytes:
    codec = ResponseCodec(HEAD)
    return b"".join([codec.encode([chunk]) for chunk in chunks]) + codec.last()


def test_a_reply_of_chunks_is_the_same_answer_in_both_forms() -> None:
    data = made(CHUNKS)
    *_, last = consistent(data)
    assert last["response"] == json.loads(RESPONSES.encode_answer(CHUNKS, HEAD))
    assert (last["response"]["id"], last["response"]["model"], last["response"]["created_at"]) == ("resp_mine", "gpt-5", 1)
    assert [item["type"] for item in last["response"]["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    assert [event["sequence_number"] for event in objects(data)] == list(range(len(objects(data))))
    assert accepted(data) == "Hello you"
    facts = read_response(RESPONSES.encode_answer(CHUNKS, HEAD))
    assert (facts.text, facts.usage and facts.usage.output_tokens, facts.finish_reasons) == ("Hello you", 6, {0: "tool_calls"})


@pytest.mark.parametrize(
    "chunks", [[], [Chunk("end")], [Chunk("text", "x")], [Chunk("other")], [Chunk("text", "x"), Chunk("text", "")]]
)
def test_even_the_shortest_reply_is_complete(chunks: list[Chunk]) -> None:
    assert consistent(made(chunks))[-1]["type"] == "response.completed"
    assert read_response(RESPONSES.encode_answer(chunks, HEAD)).finish_reasons == {0: "stop"}


# Plain answers.


@pytest.mark.parametrize("name", OWN)
def test_a_plain_answer_nobody_touched_leaves_as_its_own_bytes(name: str) -> None:
    body = plain(name)
    chunks = RESPONSES.decode_plain(body)
    assert RESPONSES.encode_plain(body, [replace(chunk) for chunk in chunks]) is body
    assert chunks[-1].kind == "end"


@pytest.mark.parametrize("hook", [shout, drop, holder(), holder(until_end=True), masker("Graz"), masker("warm")])
def test_a_plain_answer_becomes_what_its_stream_does(hook: Hook) -> None:
    out = json.loads(RESPONSES.encode_plain(plain("many"), hooked(RESPONSES.decode_plain(plain("many")), hook)))
    streamed = objects(passed(MANY, hook))[-1]["response"]
    for item in (*out["output"], *streamed["output"]):
        item.pop("id")
    assert sorted(map(json.dumps, out.pop("output"))) == sorted(map(json.dumps, streamed.pop("output")))
    assert out == streamed


def test_a_changed_plain_answer_changes_only_what_was_changed() -> None:
    value = json.loads(plain("text"))
    value["output"][0]["content"][0] |= {"annotations": [{"type": "url_citation", "url": "u"}], "logprobs": [{"token": "G"}]}
    value["vendor"] = True
    body = json.dumps(value).encode()
    out = json.loads(RESPONSES.encode_plain(body, hooked(RESPONSES.decode_plain(body), shout)))
    value["output"][0]["content"][0] |= {"text": "GRÜSS GOTT 👋", "logprobs": []}
    assert out == value


def test_a_plain_answer_can_be_cut_short_and_added_to() -> None:
    body = plain("many")
    chunks = RESPONSES.decode_plain(body)
    cut = json.loads(
        RESPONSES.encode_plain(body, [chunks[0], Chunk("text", "Blocked."), Chunk("end", finish_reason="content_filter")])
    )
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert [item["content"][0]["text"] for item in cut["output"]] == ["Blocked."]
    assert cut["usage"]["total_tokens"] == 50
    more = json.loads(RESPONSES.encode_plain(body, [*chunks[:-1], Chunk("text", " More.", 1), chunks[-1]]))
    assert more["output"][1]["content"][0]["text"] == "It is warm. More."


def test_a_plain_answer_can_be_streamed() -> None:
    codec = RESPONSES.codec(HEAD, True)
    data = codec.encode(RESPONSES.decode_plain(plain("many"))) + codec.last()
    assert consistent(data)[-1]["response"] == json.loads(plain("many"))
    assert texts_of(data)[0] == texts_of(MANY)[0]
    assert accepted(data) == "It is warm."
    for event in objects(data):
        if event["type"] == "response.output_item.added":
            assert event["item"].get("status") in (None, "in_progress")
            assert not any(event["item"].get(field) for field in ("content", "summary", "arguments", "input", "code"))
    codec = RESPONSES.codec(HEAD, True)
    loud = codec.encode(hooked(RESPONSES.decode_plain(plain("many")), shout)) + codec.last()
    assert texts_of(loud)[0] == texts_of(loud)[1] == {place: text.upper() for place, text in texts_of(MANY)[0].items()}

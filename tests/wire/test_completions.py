"""Completions: the rules of chat completions hold, with the text in another place."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from muxx.errors import InvalidRequest, UpstreamError, UpstreamProtocolError
from muxx.money import Usage, estimate_tokens
from muxx.reply import Chunk, ToolCall
from muxx.wire.openai import DONE_EVENT
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerHead, Verdict
from muxx.wire.wires import COMPLETIONS

from .passing import Hook, holder, hooked, masker, objects, observed, shout, strings, through
from .recordings import cuts, recordings

HEAD = AnswerHead("cmpl-mine", "instruct", 1)
GOOD: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once"}


def event(*choices: Any, **members: Any) -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "instruct"}
    return b"data: " + json.dumps({**head, "choices": list(choices), **members}).encode() + b"\n\n"


def piece(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
PLAIN_STREAM = event(piece("On")) + event(piece("ce ")) + event(piece("upon", "length")) + DONE_EVENT
WITH_USAGE = event(piece("On")) + event(piece("ce", "stop")) + event(usage=USAGE) + DONE_EVENT
TWO = event(piece("a", index=1), piece("b")) + event(piece("c", "stop", 0)) + event(piece("", "length", 1)) + DONE_EVENT
OWN = {"plain": PLAIN_STREAM, "usage": WITH_USAGE, "two": TWO}


def completion_recordings() -> list[bytes]:
    """The recordings of completions, which stand among the others."""
    found = [path.read_bytes() for path in recordings("other")]
    return [data for data in found if b'"object":"text_completion"' in data]


# Requests.


@pytest.mark.parametrize("field", ["model", "prompt"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        COMPLETIONS.validate({name: value for name, value in GOOD.items() if name != field})
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [None, "", 1, "a\nb"]),
        ("prompt", [1, {}, True, [], ["a", 1], [1.5], [True], [None], [{}]]),
        ("temperature", [-0.1, 2.1, "1", True]),
        ("max_tokens", [-1, 1.0, True, "5"]),
        ("stream", [0, "true"]),
    ],
)
def test_a_wrong_value_is_named_and_the_message_says_what_to_do(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            COMPLETIONS.validate({**GOOD, field: value})
        assert (caught.value.code, caught.value.param) == ("invalid_type", field)
        assert "Give " in caught.value.message


@pytest.mark.parametrize("prompt", ["", None, ["a", "b"], [1, 2], [[1, 2], [3]], [[]]])
def test_every_form_of_a_prompt_passes(prompt: Any) -> None:
    COMPLETIONS.validate({**GOOD, "prompt": prompt, "max_tokens": 0, "echo": True, "best_of": "any", "suffix": None})


def test_parts_find_every_text_and_write_it_back() -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"], "suffix": "s"}
    assert [(part.role, part.kind, part.path, part.text) for part in COMPLETIONS.parts(body)] == [
        ("user", "text", "prompt[0]", "a"),
        ("user", "text", "prompt[1]", "b"),
        ("user", "text", "suffix", "s"),
    ]
    for part in COMPLETIONS.parts(body):
        part.text += "!"
    assert body == {"prompt": ["a!", "b!"], "suffix": "s!"}
    assert [part.path for part in COMPLETIONS.parts({"prompt": "x"})] == ["prompt"]
    assert list(COMPLETIONS.parts({"prompt": [1, 2, [3]], "suffix": 1})) == []


@pytest.mark.parametrize("tokens", range(1, 60, 7))
def test_tokens_are_estimated_as_what_they_are(tokens: int) -> None:
    assert estimate_tokens(COMPLETIONS.input_bytes({"prompt": [7] * tokens})) == tokens
    assert estimate_tokens(COMPLETIONS.input_bytes({"prompt": [[7] * tokens, [7]]})) == tokens + 1
    assert COMPLETIONS.input_bytes({"prompt": ["ü", "a"], "suffix": "bc"}) == 5


def test_usage_is_asked_for_as_in_chat() -> None:
    body = dict(GOOD)
    assert not COMPLETIONS.ask_for_usage(body)
    assert body["stream_options"] == {"include_usage": True}


# Answers.


@pytest.mark.parametrize(
    ("name", "text", "reasons", "usage"),
    [
        ("plain", "Once upon", {0: "length"}, None),
        ("usage", "Once", {0: "stop"}, Usage(12, 3, source="provider")),
        ("two", "bca", {0: "stop", 1: "length"}, None),
    ],
)
def test_the_facts_of_our_own_streams(name: str, text: str, reasons: Any, usage: Usage | None) -> None:
    facts, out = observed(COMPLETIONS, [OWN[name]], body={"prompt": ["a", "b"]} if name == "two" else {})
    assert (facts.text, facts.finish_reasons, facts.usage, facts.done, facts.finished) == (text, reasons, usage, True, True)
    assert (facts.id, facts.model, facts.created, facts.output_bytes) == ("cmpl-1", "instruct", 1700000000, len(text))
    assert out == OWN[name]
    whole = COMPLETIONS.assembled(facts)
    assert whole["object"] == "text_completion"
    assert {choice["index"]: choice["text"] for choice in whole["choices"]}[0] == text.removesuffix("a" if name == "two" else "")
    again = COMPLETIONS.read_plain(json.dumps(whole).encode())
    assert (again.text, again.finish_reasons, again.usage) == (text, reasons, usage)


@pytest.mark.parametrize("asked", [False, True])
def test_the_usage_event_is_withheld_from_who_did_not_ask(asked: bool) -> None:
    facts, out = observed(COMPLETIONS, [WITH_USAGE], asked=asked)
    assert facts.usage == Usage(12, 3, source="provider")
    assert (b'"usage"' in out) is asked
    assert out.endswith(DONE_EVENT)


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [[1], [2]], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": None, "n": "x"}, 1),
    ],
)
def test_an_answer_is_finished_when_every_choice_asked_for_has_its_reason(body: dict[str, Any], choices: int) -> None:
    facts = COMPLETIONS.stream(body, True)
    for index in range(choices):
        assert not facts.finished
        [one] = EventSplitter(1 << 20).feed(event(piece("x", "stop", index)))
        assert facts.observe(one) is Verdict.FORWARD
    assert facts.finished


@pytest.mark.parametrize("data", [b"{", b"1", b"[]", b'"text"'])
def test_data_that_is_no_object_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        COMPLETIONS.stream({}, True).observe((b"data: " + data + b"\n\n", data))


def test_an_error_ends_a_stream_and_is_no_answer() -> None:
    facts, _ = observed(COMPLETIONS, [event(piece("x")), b'data: {"error":{"code":"c"}}\n\n'])
    assert facts.error == {"code": "c"}
    with pytest.raises(UpstreamError):
        COMPLETIONS.read_plain(b'{"error":{"code":"c"}}')


def test_every_recording_has_its_facts_and_leaves_as_its_own_bytes() -> None:
    found = completion_recordings()
    assert len(found) > 5
    for number, data in enumerate(found):
        facts, out = observed(COMPLETIONS, cuts(data, number))
        values = [value for value in objects(data) if value.get("choices")]
        assert facts.text == "".join(choice.get("text") or "" for value in values for choice in value["choices"])
        assert facts.finish_reasons == {0: values[-1]["choices"][0]["finish_reason"]}
        assert (facts.done, facts.id, out) == (True, values[0]["id"], data)
        assert through(COMPLETIONS, data, lambda chunk: [replace(chunk)]) == data


# Chunks.


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("hook", [lambda chunk: None, lambda chunk: [replace(chunk)]])
def test_an_answer_nobody_touched_leaves_as_its_own_bytes(name: str, hook: Hook) -> None:
    assert through(COMPLETIONS, OWN[name], hook) == OWN[name]


def test_a_changed_text_changes_only_itself() -> None:
    before, after = objects(TWO), objects(through(COMPLETIONS, TWO, shout))
    for old, new in zip(before, after, strict=True):
        assert {choice["index"]: {**choice, "text": choice["text"].upper()} for choice in old.pop("choices")} == {
            choice["index"]: choice for choice in new.pop("choices")
        }
        assert old == new


def test_log_probabilities_do_not_give_a_changed_text_away() -> None:
    data = event({**piece("secret"), "logprobs": {"tokens": ["secret"]}}) + DONE_EVENT
    out = through(COMPLETIONS, data, lambda chunk: [replace(chunk, text="***")] if chunk.text else None)
    assert b"secret" not in out
    assert objects(out)[0]["choices"][0]["text"] == "***"


def test_a_masked_text_split_over_pieces_is_in_no_event() -> None:
    out = through(COMPLETIONS, PLAIN_STREAM, masker("nce u"))
    assert observed(COMPLETIONS, [out])[0].text == "O*pon"
    assert not any("nce" in text for text in strings(objects(out)))


def test_a_held_text_comes_whole_and_an_early_end_ends_the_answer() -> None:
    assert observed(COMPLETIONS, [through(COMPLETIONS, PLAIN_STREAM, holder())])[0].text == "Once upon"
    numbers = count()
    out = through(
        COMPLETIONS, PLAIN_STREAM, lambda chunk: [Chunk("end", finish_reason="content_filter")] if next(numbers) == 1 else None
    )
    facts, _ = observed(COMPLETIONS, [out])
    assert (facts.text, facts.finish_reasons, facts.done) == ("On", {0: "content_filter"}, True)
    assert all(value["object"] == "text_completion" for value in objects(out))


CHUNKS = [
    Chunk("text", "Hello"),
    Chunk("reasoning", "hm"),
    Chunk("tool_call", tool_call=ToolCall(0, "c", "f", "{}")),
    Chunk("text", " you"),
    Chunk("text", "second", index=1),
    Chunk("end", finish_reason="length", usage=Usage(5, 6, source="provider")),
]


def test_a_reply_of_chunks_is_the_same_answer_in_both_forms() -> None:
    codec = COMPLETIONS.codec(HEAD, True)
    streamed = codec.encode(CHUNKS) + codec.last()
    plain = json.loads(COMPLETIONS.encode_answer(CHUNKS, HEAD))
    facts, _ = observed(COMPLETIONS, [streamed])
    assert streamed.endswith(DONE_EVENT)
    assert COMPLETIONS.assembled(facts) == plain
    assert [(choice["text"], choice["finish_reason"]) for choice in plain["choices"]] == [
        ("Hello you", "length"),
        ("second", "length"),
    ]
    assert (plain["id"], plain["object"], plain["usage"]["total_tokens"]) == ("cmpl-mine", "text_completion", 11)
    members = {"text", "index", "logprobs", "finish_reason"}
    assert all(choice.keys() == members for value in [plain, *objects(streamed)] for choice in value["choices"])


BODY = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{**piece("one", "stop"), "logprobs": {"tokens": ["one"]}}, piece("two", "length", 1)],
        "usage": USAGE,
        "vendor": True,
    }
).encode()


def test_a_plain_answer_nobody_touched_leaves_as_its_own_bytes() -> None:
    chunks = COMPLETIONS.decode_plain(BODY)
    assert [(chunk.kind, chunk.text) for chunk in chunks if chunk.text or chunk.kind == "end"] == [
        ("text", "one"),
        ("text", "two"),
        ("end", ""),
    ]
    assert COMPLETIONS.encode_plain(BODY, [replace(chunk) for chunk in chunks]) is BODY


def test_a_changed_plain_answer_changes_only_what_was_changed() -> None:
    out = json.loads(COMPLETIONS.encode_plain(BODY, hooked(COMPLETIONS.decode_plain(BODY), shout)))
    expected = json.loads(BODY)
    expected["choices"] = [piece("ONE", "stop"), piece("TWO", "length", 1)]
    assert out == expected
    ended = json.loads(COMPLETIONS.encode_plain(BODY, [Chunk("text", "new"), Chunk("end", finish_reason="content_filter")]))
    assert [choice["text"] for choice in ended["choices"]] == ["new", ""]

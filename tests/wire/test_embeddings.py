"""Embeddings: checked going up, read and never touched coming down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muxx.errors import InvalidRequest, UpstreamError, UpstreamProtocolError
from muxx.money import Usage, estimate_tokens
from muxx.reply import Chunk
from muxx.wire.wire import AnswerHead
from muxx.wire.wires import EMBEDDINGS

GOOD: dict[str, Any] = {"model": "text-embedding-3-small", "input": "hi"}
BODY = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-9]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}'


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EMBEDDINGS.validate({name: value for name, value in GOOD.items() if name != field})
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [None, "", 1]),
        ("input", [None, 1, {}, [], [1, "a"], [[1], "a"], [1.5]]),
        ("dimensions", [0, 1.0, "8", True]),
        ("encoding_format", [1, ["float"], {}]),
    ],
)
def test_a_wrong_value_is_named_and_the_message_says_what_to_do(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            EMBEDDINGS.validate({**GOOD, field: value})
        assert (caught.value.code, caught.value.param) == ("invalid_type", field)
        assert "Give " in caught.value.message


@pytest.mark.parametrize("given", ["", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_every_form_of_input_passes(given: Any) -> None:
    EMBEDDINGS.validate({"model": "e", "input": given, "dimensions": None, "encoding_format": "base64", "vendor": 1})


def test_parts_are_the_texts_and_can_be_written() -> None:
    body: dict[str, Any] = {"input": ["a", "b"]}
    for part in EMBEDDINGS.parts(body):
        part.text += part.path
    assert body["input"] == ["ainput[0]", "binput[1]"]
    assert [part.path for part in EMBEDDINGS.parts(GOOD)] == ["input"]
    assert list(EMBEDDINGS.parts({"input": [1, 2]})) == []


def test_input_is_measured_in_bytes_and_tokens_as_what_they_are() -> None:
    assert EMBEDDINGS.input_bytes({"input": ["ü", "ab"]}) == 4
    assert estimate_tokens(EMBEDDINGS.input_bytes({"input": [[1, 2, 3], [4]]})) == 4


def test_there_is_nothing_to_ask_for_and_no_stream() -> None:
    assert EMBEDDINGS.ask_for_usage(body := dict(GOOD))
    assert body == GOOD
    assert not EMBEDDINGS.streams


def test_all_that_was_used_is_the_input() -> None:
    facts = EMBEDDINGS.read_plain(BODY)
    assert facts.usage == Usage(8, 0, source="provider")
    assert (facts.model, facts.id, facts.text, facts.output_bytes, facts.finish_reasons) == ("e", None, "", 0, {})
    assert not facts.usage_invalid
    assert EMBEDDINGS.assembled(facts) == json.loads(BODY)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1}, {"prompt_tokens": 10**10}, {}, [], "x", {"prompt_tokens": 1, "completion_tokens": "x"}]
)
def test_unbelievable_usage_is_flagged_and_ignored(usage: Any) -> None:
    facts = EMBEDDINGS.read_plain(json.dumps({"data": [], "usage": usage}).encode())
    assert (facts.usage, facts.usage_invalid) == (None, True)


def test_an_answer_without_usage_has_none() -> None:
    facts = EMBEDDINGS.read_plain(b'{"data":[]}')
    assert (facts.usage, facts.usage_invalid, facts.model) == (None, False, None)


@pytest.mark.parametrize(
    ("body", "error"), [(b'{"error":"no"}', UpstreamError), (b"<p>", UpstreamError), (b"[]", UpstreamProtocolError)]
)
def test_what_is_no_answer_is_an_error_of_the_right_kind(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(UpstreamError) as caught:
        EMBEDDINGS.read_plain(body)
    assert type(caught.value) is error


def test_an_answer_is_one_end_and_leaves_as_its_own_bytes_whatever_becomes_of_it() -> None:
    [end] = EMBEDDINGS.decode_plain(BODY)
    assert end == Chunk("end", usage=Usage(8, 0, source="provider"), raw=BODY)
    for chunks in ([end], [], [Chunk("text", "x"), Chunk("end")]):
        assert EMBEDDINGS.encode_plain(BODY, chunks) is BODY
    assert EMBEDDINGS.encode_answer([end], AnswerHead(None, None, None)) is BODY
    with pytest.raises(ValueError, match="cannot be made of chunks"):
        EMBEDDINGS.encode_answer([Chunk("text", "x"), Chunk("end")], AnswerHead(None, None, None))

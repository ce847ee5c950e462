"""The answer to `POST /v1/messages/count_tokens`, which only counts a prompt's tokens. It is never streamed, and free."""

from __future__ import annotations

from collections.abc import Iterable

from orjson import dumps

from ...errors import UpstreamError
from ...money import Usage
from ...reply import Chunk
from ..counts import CountFacts
from ..openai import ended
from ..openai.answer import parse_answer
from ..wire import Head


def read_count(body: bytes) -> CountFacts:
    """The facts of the answer. Raises `UpstreamError` when it is an error, a web page, or tells no count;
    `UpstreamProtocolError` when it is no JSON object."""
    answer = parse_answer(body)
    if type(answer.get("input_tokens")) is not int:
        raise UpstreamError
    return CountFacts(answer)


def decode_count(body: bytes) -> list[Chunk]:
    """One `end`, whose usage tells the count."""
    return [Chunk("end", usage=Usage(input_tokens=read_count(body).answer["input_tokens"]), raw=body)]


def encode_plain_count(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's answer after the hooks: its own bytes, unless they told another count."""
    answer = read_count(body).answer
    told = _count(chunks)
    return body if told in (None, answer["input_tokens"]) else dumps({**answer, "input_tokens": told})


def encode_count(chunks: Iterable[Chunk], head: Head) -> bytes:
    """An answer that came from no provider."""
    return dumps({"input_tokens": _count(chunks) or 0})


def _count(chunks: Iterable[Chunk]) -> int | None:
    *_, end = ended(chunks)
    return None if end.usage is None else end.usage.input_tokens

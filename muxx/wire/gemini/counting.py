"""Counting the tokens of a request, which costs nothing: `:countTokens`, with a plain answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orjson import dumps

from ...money import Usage
from ...reply import Chunk
from ..counts import CountFacts
from ..openai import ended
from ..openai.answer import parse_answer, whole_answer
from ..wire import Head
from .usage import read_gemini_usage


def read_count(body: bytes) -> CountFacts:
    """The facts of a count. Raises as `read_generated` does."""
    return CountFacts(whole_answer(body, "totalTokens"))


def decode_count(body: bytes) -> list[Chunk]:
    """The one Chunk of a count: an `end` whose usage has the number as its input."""
    return [Chunk("end", usage=_counted(parse_answer(body)), raw=body)]


def encode_plain_count(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """A provider's count after the hooks: its own bytes when nobody touched it."""
    answer = parse_answer(body)
    [*_, end] = ended(chunks)
    if end.usage is None or end.usage == _counted(answer):
        return body
    return dumps({**answer, "totalTokens": end.usage.input_tokens})


def encode_count(chunks: Iterable[Chunk], head: Head) -> bytes:
    """A count that came from no provider of this format."""
    [*_, end] = ended(chunks)
    return dumps({"totalTokens": end.usage.input_tokens if end.usage is not None else 0})


def read_count_answer(body: bytes) -> tuple[list[Chunk], set[str]]:
    """A count for a client of another format. Raises as `read_generated` does."""
    return [Chunk("end", usage=_counted(whole_answer(body, "totalTokens")))], set()


def _counted(answer: dict[str, Any]) -> Usage | None:
    usage, _ = read_gemini_usage({"promptTokenCount": answer.get("totalTokens", 0)})
    return usage._replace(source="none") if usage is not None else None

"""OpenAI's embeddings, both directions: `POST /v1/embeddings`. The answer is numbers, so it is one `end`, and never touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...money import Usage
from ...reply import Chunk
from ...request import Part
from ..fields import MODEL, Rule, at_least, check, is_string, part_at
from ..wire import Head
from .answer import whole_answer
from .prompt import is_prompt, prompt_bytes, prompt_places
from .usage import read_usage

_REQUIRED = {
    "model": MODEL,
    "input": Rule(is_prompt, "Give a string, an array of strings, an array of tokens, or an array of arrays of tokens."),
}
_OPTIONAL = {
    "dimensions": Rule(at_least(1), "Give an integer of at least 1, or leave it out."),
    "encoding_format": Rule(is_string, 'Give "float" or "base64", or leave it out.'),
}


def validate_embeddings(body: dict[str, Any]) -> None:
    """Check what the API fixes; the rest is the provider's to judge."""
    check(body, _REQUIRED, _OPTIONAL)


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every text of `input`; tokens are no text."""
    return map(part_at, prompt_places(body, "input"))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of `input`; a token counts as many as the estimate takes for one."""
    return prompt_bytes(body.get("input"))


class EmbeddingFacts:
    """What is known of an answer of embeddings. It has no text, so all it used is its input."""

    __slots__ = ("answer", "created", "id", "model", "usage", "usage_invalid")

    text = ""
    output_bytes = 0
    text_since_usage = False

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.id: str | None = None
        model = answer.get("model")
        self.model: str | None = model if type(model) is str else None
        self.created: int | None = None
        self.usage: Usage | None = None
        self.usage_invalid = False
        if (usage := answer.get("usage")) is not None:
            self.usage, self.usage_invalid = read_embedding_usage(usage)

    @property
    def finish_reasons(self) -> dict[int, str]:
        return {}


def read_embedding_usage(value: Any) -> tuple[Usage | None, bool]:
    """As `read_usage`; there is no output, and most providers do not say so."""
    return read_usage({"completion_tokens": 0, **value} if type(value) is dict else value)


def read_embeddings(body: bytes) -> EmbeddingFacts:
    """The facts of an answer. Raises as `read_completion` does."""
    return EmbeddingFacts(whole_answer(body, "data"))


def assembled(facts: EmbeddingFacts) -> dict[str, Any]:
    return facts.answer


def decode_embeddings(body: bytes) -> list[Chunk]:
    """One `end`, which is all of the answer."""
    return [Chunk("end", usage=read_embeddings(body).usage, raw=body)]


def encode_plain(body: bytes, chunks: Iterable[Chunk]) -> bytes:
    """The answer as it came, whatever became of its Chunk."""
    return body


def encode_embeddings(chunks: Iterable[Chunk], head: Head) -> bytes:
    """An answer from the `end` of another; numbers cannot be made of text."""
    for chunk in chunks:
        if chunk.kind == "end" and chunk.raw is not None:
            return chunk.raw
    raise ValueError("embeddings cannot be made of chunks; answer with the bytes of an embeddings object")

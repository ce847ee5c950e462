"""What an answer says, apart from the endpoint it came from and the form it came in.

Scripts are made from it (`muxx.testing.answers`), answers are read into it (`muxx.testing.reading`), and two answers say the same
when the two are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
"""Each endpoint by its name in rows and in `exchange.operation`, and the path at which clients call it."""

Pieces = Callable[[str], Iterable[str]]
"""How a text is spread over the events of a stream; joined, the pieces are the text."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A call of a tool. `arguments` is JSON text."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of one choice. `vectors` is what embeddings say instead of text; token counts are None where nobody told them."""

    text: str = ""
    reasoning: str = ""
    tools: tuple[Tool, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    finish_reason: str | None = "stop"
    input_tokens: int | None = 10
    output_tokens: int | None = 5


def words(text: str) -> list[str]:
    """Word by word, as providers stream."""
    return re.findall(r"\S+\s*|\s+", text)


def letters(text: str) -> list[str]:
    """Letter by letter: nothing that is looked for is ever whole in one event."""
    return list(text)


def endpoint_at(target: str) -> str:
    """The endpoint that a request target leads to, at a provider or at muxx; `chat` for any other."""
    path = target.partition("?")[0]
    found = [name for name, known in ENDPOINTS.items() if path.endswith(known.removeprefix("/v1"))]
    return found[0] if found else "chat"

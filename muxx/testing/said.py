"""What an answer says, apart from the endpoint it came from and the form it came in.

Scripts are made from it (`muxx.testing.answers`), answers are read into it (`muxx.testing.reading`), and two answers say the same
when the two are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

Pieces = Callable[[str], Iterable[str]]
"""How a text is spread over the events of a stream; joined, the pieces are the text."""

SIGNATURE = "c2lnbmVkIGJ5IGl0cyBtb2RlbA=="
"""What a provider that signs its reasoning wants back with it, where a script says nothing else."""


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A call of a tool. `arguments` is JSON text; two calls are equal when it holds the same, however it is written."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"

    def __eq__(self, other: object) -> bool:
        return self._compared == other._compared if isinstance(other, Tool) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.id))

    @property
    def _compared(self) -> tuple[Any, ...]:
        try:
            return self.name, self.id, orjson.loads(self.arguments)
        except orjson.JSONDecodeError:
            return self.name, self.id, self.arguments


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of one choice. `vectors` is what embeddings say instead of text; token counts are None where nobody told them.

    `finish_reason` is in the words of chat completions, whatever the endpoint's are: stop, length, tool_calls, content_filter.
    """

    text: str = ""
    reasoning: str = ""
    tools: tuple[Tool, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    finish_reason: str | None = "stop"
    input_tokens: int | None = 10
    """All of the input, what came from the provider's cache included."""
    output_tokens: int | None = 5
    """All of the output, reasoning included."""
    cached_tokens: int = 0
    """Tokens of the input that came from the provider's cache."""
    signature: str = field(default=SIGNATURE, compare=False)
    """The provider's seal on the reasoning, where the endpoint has a place for it; two answers say the same whatever it is."""


def words(text: str) -> list[str]:
    """Word by word, as providers stream."""
    return re.findall(r"\S+\s*|\s+", text)


def letters(text: str) -> list[str]:
    """Letter by letter: nothing that is looked for is ever whole in one event."""
    return list(text)

"""Counts of tokens as providers tell them, in any dialect: whether they can be true, and answers that are nothing else."""

from __future__ import annotations

from typing import Any, TypeGuard

from ..money import Usage

MAX_TOKENS = 10**9
"""No answer has more tokens than this; a larger count is a mistake, and would take a cost near the end of 64 bits."""


def is_believable(count: Any) -> TypeGuard[int]:
    """Whether it can be a number of an answer's tokens."""
    return type(count) is int and 0 <= count <= MAX_TOKENS


class Details:
    """Reads the parts of totals and remembers whether one of them was impossible."""

    invalid = False

    def part(self, count: Any, total: int) -> int:
        """So many tokens; 0 where nothing is told, and for what is no count, or more than the total it is part of."""
        if count is None:
            return 0
        if is_believable(count) and count <= total:
            return count
        self.invalid = True
        return 0


class CountFacts:
    """What is known of an answer that only counts a prompt's tokens: nothing was used for it, so its usage is zeros of the source
    `none`."""

    __slots__ = ("answer",)

    id: str | None = None
    model: str | None = None
    created: int | None = None
    usage: Usage | None = Usage()
    usage_invalid = False
    text = ""
    output_bytes = 0
    text_since_usage = False

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    @property
    def finish_reasons(self) -> dict[int, str]:
        return {}


def assembled_count(facts: CountFacts) -> dict[str, Any]:
    return facts.answer

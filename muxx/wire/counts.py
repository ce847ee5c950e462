"""Counts of tokens as providers tell them, and whether they can be true, whatever their dialect."""

from __future__ import annotations

from typing import Any, TypeGuard

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

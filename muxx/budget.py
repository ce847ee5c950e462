"""How often the same target may be asked again for what it was asked before: a share of what it is asked at all."""

from __future__ import annotations

BURST = 10.0
SHARE = 0.1
"""With a burst of 10, a share of a tenth is at most a fifth of any 100 first tries or more, however all of them fail."""


class RetryBudget:
    """A bucket of tokens: each first try puts a share of one in, each repetition takes one out.

    Invariant: of any n first tries in a row, at most `BURST + n * SHARE` are followed by a repetition that fails.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = BURST

    def first(self) -> None:
        """A first try is made."""
        if self._tokens < BURST:
            self._tokens = min(BURST, self._tokens + SHARE)

    def spend(self) -> bool:
        """Whether a repetition may be made now; it counts."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """The repetition got its answer, after a failure that was none of the provider's: it does not count."""
        self._tokens = min(BURST, self._tokens + 1)

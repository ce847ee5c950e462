"""The requests of a key that are under way, by the process that carries them, in the words of a record.

Words of a record, from its first on: until when it has to be kept, then 32 pairs of a process and its requests. A process is its
number and the moment it started, so that another process with that number is another one. What a dead process carried counts no
more: that is found out before anybody is refused.
"""

from __future__ import annotations

from muxx import lives

PAIRS = 32
"""Processes that may carry requests of one key at a time; more are refused."""
WORDS = 1 + 2 * PAIRS
KEPT = 86_400_000
"""Milliseconds a record is kept after its last request: no request lasts as long."""


class Flying:
    """The records of a table, as what is under way. `at` is a record's first word; every call is made while it is held."""

    def __init__(self, table: memoryview) -> None:
        self._table = table

    def count(self, at: int) -> int:
        return sum(self._table[at + 2 : at + WORDS : 2])

    def has_room(self, at: int, limit: int, owner: int) -> bool:
        """Whether one more may go; the dead are let go of where it matters."""
        if self.count(at) < limit and self._pair(at, owner) is not None:
            return True
        for pair in range(at + 1, at + WORDS, 2):
            word = self._table[pair]
            if self._table[pair + 1] and not lives(word):
                self._table[pair + 1] = 0
        return self.count(at) < limit and self._pair(at, owner) is not None

    def take(self, at: int, now: int, owner: int) -> None:
        """One more goes. Ask `has_room` before."""
        pair = self._pair(at, owner)
        assert pair is not None
        self._table[at] = now + KEPT
        self._table[pair] = owner
        self._table[pair + 1] += 1

    def give_back(self, at: int, owner: int) -> None:
        """One has ended."""
        pair = self._pair(at, owner)
        if pair is not None and self._table[pair + 1]:
            self._table[pair + 1] -= 1

    def _pair(self, at: int, owner: int) -> int | None:
        """Where that process counts; None where all places are others'."""
        free = None
        for pair in range(at + 1, at + WORDS, 2):
            if self._table[pair] == owner:
                return pair
            if not self._table[pair + 1]:
                free = free or pair
        return free

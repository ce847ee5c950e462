"""Lists of holds that end at a stroke, in memory that outlives the process that wrote them.

Words of a list, from its first on: until when it has to be kept, how many holds it names, then their places. Each ledger has one
and writes it anew; a list that a dead process left is read by whoever completes what that had begun, which is within seconds of a
start (`refill.recover`).
"""

from __future__ import annotations

from array import array
from secrets import token_bytes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxx import Counters, Shared

MOST = 500
WORDS = 2 + MOST
LISTS = 64
"""Of processes that have one: 260 KiB of the shared file."""
KEPT_MS = 86_400_000

_COUNT, _FIRST = 1, 2


class HoldLists:
    """The list of one ledger, and those of others to read."""

    def __init__(self, shared: Shared) -> None:
        self._counters: Counters = shared.counters("spend.lists", LISTS, WORDS)
        self._key = token_bytes(16)
        self._holding = shared.holding((self._counters.place(self._key),))
        self._at, self._until = 0, 0
        """Where this ledger's list stands, and until when it need not be looked for again, in milliseconds."""

    def write(self, holds: array[int], now: int) -> int:
        """Where the list with these stands, until the next is written; 0 when there is no room. At most `MOST`."""
        if now >= self._until and not self._keep(now):
            return 0
        table, at, count = self._counters.table, self._at, len(holds)
        table[at + _FIRST : at + _FIRST + count] = holds
        table[at + _COUNT] = count
        return at

    def _keep(self, now: int) -> bool:
        """Keep the list's place for another while; False when there is none."""
        with self._holding:
            at = self._counters.find(self._key, now)
            if at is None:
                return False
            self._counters.table[at] = now + KEPT_MS
        self._at, self._until = at, now + KEPT_MS // 2
        return True

    def read(self, at: int) -> list[int]:
        table = self._counters.table
        return list(table[at + _FIRST : at + _FIRST + table[at + _COUNT]])

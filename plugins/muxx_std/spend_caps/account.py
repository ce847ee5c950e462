"""What a project has spent and what is held of its money, in the words of a record.

Words of a record, from its first on:

    0   until when it has to be kept
    1   the newest day it has seen, in days since 1970
    2   when that day was first seen, in milliseconds of the monotonic clock
    3   three days: of each its number, what is spent, what is held, in pico-dollars; 0: no day
    12  three months likewise, counted from January 1970 as 1
    21  the last correction of a price that is counted
    22  what is still to be changed: 0, or one more than the words; the list of the holds that end, 0: none; then each word with
        its new value. See `change`

Invariants: several words change together or not at all, whenever the process dies; what is spent in a window is never forgotten
while the window can come back, so a clock that is set forward and back again finds everything where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

DAY_SECONDS = 86_400
DAY_MS = DAY_SECONDS * 1000

_KEPT, _NEWEST, _BEGAN, _DAYS, _MONTHS, _ADJUSTED, _PENDING, _ENDING, _CHANGES = 0, 1, 2, 3, 12, 21, 22, 23, 24
_NUMBER, _SPENT, _HELD, _WINDOW_WORDS = 0, 1, 2, 3
_MOST_CHANGES = 5
"""Both sums of both windows, and a hold or the last correction."""
WORDS = _CHANGES + 2 * _MOST_CHANGES

HOLDS = 1 << 62
"""Added to the place of a word that stands among the holds."""

FOR_EVER = 1 << 62

Change = tuple[int, int]
"""The place of a word, and the value it is to have."""


Windows = tuple[int | None, int | None]
"""Where the windows of a day and its month stand; None: nowhere any more."""


def adjusted_to(at: int, number: int) -> Change:
    """The change that remembers the last correction that is counted."""
    return at + _ADJUSTED, number


@lru_cache(maxsize=64)
def month_of(day: int) -> int:
    """The month a day (since 1970) is in; the first is 1."""
    date = datetime.fromtimestamp(day * DAY_SECONDS, UTC)
    return (date.year - 1970) * 12 + date.month


class Accounts:
    """The records of a table, as accounts. `at` is a record's first word; every call is made while the record is held, but for
    `day_for`. `write_hold` changes a word among the holds, `end_listed` ends the holds of a list."""

    def __init__(
        self, table: memoryview, write_hold: Callable[[int, int], None], end_listed: Callable[[int], None]
    ) -> None:
        self._table = table
        self._write_hold = write_hold
        self._end_listed = end_listed

    def day_for(self, at: int, day: int, now: int) -> int:
        """The day in which a request of that day counts: no earlier one than the newest that was seen, so that no clock that is
        set back gives a window twice. After a whole day has really passed the clock is believed again, or one that was wrong by a
        year would count in the wrong window for a year."""
        newest = self._table[at + _NEWEST]
        return newest if newest > day and now - self._table[at + _BEGAN] < DAY_MS else day

    def open(self, at: int, day: int, now: int) -> Windows:
        """See to it that there is a record of the day and its month. In this order, for the process may die in between."""
        table = self._table
        self.complete(at)
        table[at + _KEPT] = FOR_EVER
        if table[at + _NEWEST] < day:
            table[at + _BEGAN] = now
            table[at + _NEWEST] = day
        return self._window(at + _DAYS, day, make=True), self._window(at + _MONTHS, month_of(day), make=True)

    def change(
        self, at: int, windows: Windows, spent: int, held: int, then: Iterable[Change] = (), ending: int = 0
    ) -> None:
        """Add to what is spent and held in the windows that `open` has found, where they are still known, make the changes
        `then`, and end the holds of the list that stands at `ending`."""
        table, changes = self._table, list(then)
        for slot in windows:
            if slot is not None:
                if spent:
                    changes.append((slot + _SPENT, max(table[slot + _SPENT] + spent, 0)))
                if held:
                    changes.append((slot + _HELD, max(table[slot + _HELD] + held, 0)))
        place = at + _CHANGES
        for word, value in changes:
            table[place], table[place + 1] = word, value
            place += 2
        table[at + _ENDING] = ending
        table[at + _PENDING] = len(changes) + 1  # from here on they happen, even if this process dies
        self._apply(at, changes, ending)

    def complete(self, at: int) -> None:
        """Do what a process that died had begun; it may have done all of it but say so."""
        if not self._table[at + _PENDING]:
            return
        table, first = self._table, at + _CHANGES
        places = range(first, first + 2 * (table[at + _PENDING] - 1), 2)
        self._apply(at, [(table[place], table[place + 1]) for place in places], table[at + _ENDING])

    def _apply(self, at: int, changes: Iterable[Change], ending: int) -> None:
        table = self._table
        for word, value in changes:
            if word >= HOLDS:
                self._write_hold(word - HOLDS, value)
            else:
                table[word] = value
        if ending:
            self._end_listed(ending)
        table[at + _PENDING] = 0

    def newest(self, at: int) -> int:
        """The newest day that was seen."""
        return self._table[at + _NEWEST]

    def adjusted(self, at: int) -> int:
        """The number of the last correction of a price that is counted."""
        return self._table[at + _ADJUSTED]

    def figures(self, at: int, window: Literal["day", "month"], day: int) -> tuple[int, int]:
        """What is spent and held, in pico-dollars, in the window of that kind that the day is in."""
        return self.figures_in(
            self._window(at + _DAYS, day) if window == "day" else self._window(at + _MONTHS, month_of(day))
        )

    def figures_in(self, slot: int | None) -> tuple[int, int]:
        """As `figures`, of a window that `open` has found."""
        return (0, 0) if slot is None else (self._table[slot + _SPENT], self._table[slot + _HELD])

    def _window(self, first: int, number: int, *, make: bool = False) -> int | None:
        """Where a window stands; a new one takes the place of the oldest, and one that is older than all is not made."""
        table, slots = self._table, (first, first + _WINDOW_WORDS, first + 2 * _WINDOW_WORDS)
        for slot in slots:
            if table[slot] == number:
                return slot
        oldest = min(slots, key=table.__getitem__)
        if not make or table[oldest] > number:
            return None
        table[oldest + _NUMBER] = 0
        table[oldest + _SPENT] = table[oldest + _HELD] = 0
        table[oldest + _NUMBER] = number
        return oldest

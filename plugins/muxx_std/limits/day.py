"""The requests of a UTC day, in the words of a record.

Words of a record, from its first on:

    0   until when it has to be kept: a day after the last request, so that no clock that is set makes it go
    1   the day that is counted, in days since 1970
    2   its requests
    3   when its count began, in milliseconds of the monotonic clock

A day that has begun stays: a clock that is set back finds it still running, and when it comes to that day again there is no
second one. Only when a whole day has really passed since the count began does an earlier day begin (or one clock that was wrong
by a year would hold a limit for a year).
"""

from __future__ import annotations

WORDS = 4
DAY = 86_400_000
"""Milliseconds."""

_KEPT, _DAY, _REQUESTS, _BEGAN = range(4)


class Days:
    """The records of a table, as days. `at` is a record's first word, `now` the monotonic clock and `wall` Unix time, in
    milliseconds; every call is made while the record is held."""

    def __init__(self, table: memoryview) -> None:
        self._table = table

    def end(self, at: int) -> int:
        """When the day that ran when `look` was last called ends, in milliseconds of Unix time."""
        return (self._table[at + _DAY] + 1) * DAY

    def look(self, at: int, now: int, wall: int) -> int:
        """Begin a new day, if one has begun. Returns the requests of the day."""
        table, today = self._table, max(wall, 0) // DAY
        day = table[at + _DAY]
        if today > day or (today < day and now - table[at + _BEGAN] >= DAY):
            # In this order, for the process may die in between: it must leave no new day with an old count.
            table[at + _REQUESTS] = 0
            table[at + _BEGAN] = now
            table[at + _DAY] = today
        return table[at + _REQUESTS]

    def take(self, at: int, now: int, requests: int) -> int:
        """Count so many. Call `look` before. Returns the day they are counted in."""
        self._table[at + _KEPT] = now + DAY
        self._table[at + _REQUESTS] += requests
        return self._table[at + _DAY]

    def give_back(self, at: int, day: int) -> None:
        """Count one less, if that day still runs."""
        if self._table[at + _DAY] == day and self._table[at + _REQUESTS]:
            self._table[at + _REQUESTS] -= 1

    def wait(self, at: int, now: int, wall: int) -> int:
        """Milliseconds until the day ends: by the clock, or where that is so far behind that the day will not have come by then,
        when a whole day has really passed."""
        day = self._table[at + _DAY]
        really = self._table[at + _BEGAN] + DAY - now
        if wall < day * DAY and wall + really < day * DAY:
            return max(0, really)
        return (day + 1) * DAY - wall

"""A sliding minute: what was admitted in the last sixty seconds, in the words of a record.

Words of a record, from its first on:

    0   until when it has to be kept
    1   the first second that may still count
    2   the last moment anybody looked
    3   requests that count
    4   tokens that count
    5   1 while somebody changes it
    6   64 seconds, each at its number modulo 64: tokens << 32 | requests << 10 | millisecond of the last admission within it

Moments are whole milliseconds of the monotonic clock. What a second holds leaves as one, a minute after the last admission within
it, so that no window of a minute ever holds more than is counted; the end of that millisecond is meant, for the same reason.

A process that dies in the middle leaves word 5: whoever comes next adds the seconds up. A second is one word, written whole, so
it is as it was before or as it is after.
"""

from __future__ import annotations

WORDS = 70
MINUTE = 60_000

_KEPT, _FIRST, _LAST, _REQUESTS, _TOKENS, _CHANGING, _SECONDS = range(7)
_SLOTS = 64

MOST_REQUESTS = 2**22 - 1
MOST_TOKENS = 2**32 - 1
"""More within one second are counted as so many; no limit is as high."""


def _pack(tokens: int, requests: int, millisecond: int) -> int:
    if not (0 <= tokens <= MOST_TOKENS and 0 <= requests <= MOST_REQUESTS):
        tokens, requests = max(0, min(tokens, MOST_TOKENS)), max(0, min(requests, MOST_REQUESTS))
    return tokens << 32 | requests << 10 | millisecond


Looked = tuple[int, int, int]
"""The moment at which somebody looked, and the requests and tokens of the minute that ended then."""


class Minutes:
    """The records of a table, as minutes. `at` is a record's first word; every call is made while it is held."""

    def __init__(self, table: memoryview) -> None:
        self._table = table

    def look(self, at: int, now: int) -> Looked:
        """Let go of what is a minute old. Its moment is `now`, or the last one anybody looked if that is later: time never goes
        back."""
        table = self._table
        _, was_first, last, requests, tokens, changing = table[at : at + _SECONDS]
        if changing:
            self._add_up(at)
        if now < last:
            now = last
        oldest, current, slots = (now - MINUTE) // 1000, now // 1000, at + _SECONDS
        first = max(was_first, oldest - _SLOTS)
        while first < oldest or (first < current and self._leaves(slots, first) <= now):
            word = table[slots + first % _SLOTS]
            if word:
                self._change(at, first, word, 0)
            first += 1
        table[at + _LAST] = now
        if changing or first != was_first:
            table[at + _FIRST] = first
            requests, tokens = table[at + _REQUESTS], table[at + _TOKENS]
        return now, requests, tokens

    def _leaves(self, slots: int, second: int) -> int:
        """When what that second holds leaves; at once where it holds nothing."""
        word = self._table[slots + second % _SLOTS]
        return second * 1000 + (word & 1023) + MINUTE if word >> 10 else 0

    def take(self, at: int, now: int, requests: int, tokens: int) -> int:
        """Count so many; `now` is the moment `look` returned. Returns the second they are counted in."""
        second, millisecond = divmod(now + 1, 1000)
        self._table[at + _KEPT] = now + MINUTE + 1000
        old = self._table[at + _SECONDS + second % _SLOTS]
        self._change(at, second, old, _pack((old >> 32) + tokens, (old >> 10 & MOST_REQUESTS) + requests, millisecond))
        return second

    def give_back(self, at: int, second: int, requests: int, tokens: int) -> None:
        """Count so many less in that second, unless it has left."""
        _, first, last, _, _, changing = self._table[at : at + _SECONDS]
        if changing:
            self._add_up(at)
        if first <= second <= last // 1000 + 1:
            old = self._table[at + _SECONDS + second % _SLOTS]
            self._change(at, second, old, _pack((old >> 32) - tokens, (old >> 10 & MOST_REQUESTS) - requests, old & 1023))

    def wait(self, at: int, now: int, requests: int, tokens: int) -> int:
        """Milliseconds until so many requests and tokens have left, when nothing comes in between; a minute at most."""
        table, slots = self._table, at + _SECONDS
        second, leaves = table[at + _FIRST], now
        while (requests > 0 or tokens > 0) and second <= now // 1000 + 1:
            word = table[slots + second % _SLOTS]
            if word >> 10:
                requests, tokens = requests - (word >> 10 & MOST_REQUESTS), tokens - (word >> 32)
                leaves = second * 1000 + (word & 1023) + MINUTE
            second += 1
        return min(max(leaves - now, 0), MINUTE)

    def _change(self, at: int, second: int, old: int, word: int) -> None:
        """Write a second, and the sums with it."""
        table = self._table
        table[at + _CHANGING] = 1
        table[at + _SECONDS + second % _SLOTS] = word
        table[at + _REQUESTS] += (word >> 10 & MOST_REQUESTS) - (old >> 10 & MOST_REQUESTS)
        table[at + _TOKENS] += (word >> 32) - (old >> 32)
        table[at + _CHANGING] = 0

    def _add_up(self, at: int) -> None:
        words = self._table[at + _SECONDS : at + _SECONDS + _SLOTS]
        self._table[at + _REQUESTS] = sum(word >> 10 & MOST_REQUESTS for word in words)
        self._table[at + _TOKENS] = sum(word >> 32 for word in words)
        self._table[at + _CHANGING] = 0

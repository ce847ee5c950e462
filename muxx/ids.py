"""Request ids: `req_` and 32 hex digits that sort by time: 48 bits of Unix milliseconds, then 80 random bits."""

from __future__ import annotations

import random
import time

_RANDOM_BITS = 80


class RequestIds:
    """Unique ids, increasing within this process: the random part is counted up within a millisecond."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._last = 0
        """The last id as a number."""
        self._source = random.Random()  # noqa: S311  (seeded by the system for each process; an id is unique, not secret)

    def next(self) -> str:
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            self._last = ms << _RANDOM_BITS | self._source.getrandbits(_RANDOM_BITS - 1)  # the free bit leaves room to count up
        else:
            self._last += 1
        return "req_" + self._last.to_bytes(16).hex()

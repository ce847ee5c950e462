"""Request ids: `req_` and 26 characters that sort by time (Crockford base32 of 48 bits of milliseconds and 80 random bits)."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


class RequestIds:
    """Unique ids, increasing within this process: the random part is counted up within a millisecond."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._prefix = ""
        self._random = 0

    def next(self) -> str:
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            self._prefix = "req_" + "".join([_PAIRS[ms >> shift & 1023] for shift in (40, 30, 20, 10, 0)])
            self._random = int.from_bytes(os.urandom(10)) >> 1  # the free top bit leaves room to count up
        else:
            self._random += 1
        value, pairs = self._random, _PAIRS
        return self._prefix + "".join([pairs[value >> shift & 1023] for shift in (70, 60, 50, 40, 30, 20, 10, 0)])

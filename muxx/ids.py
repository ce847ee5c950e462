"""Request ids: `req_` and 32 hex digits that sort by time: 48 bits of Unix milliseconds, then 80 random bits."""

from __future__ import annotations

import random
import time


class RequestIds:
    """Unique ids, increasing within this process: the random part is counted up within a millisecond."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._head = ""
        self._count = 0
        self._source = random.Random()  # noqa: S311  (seeded by the system for each process; an id is unique, not secret)

    def next(self) -> str:
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            self._head = f"req_{ms:012x}{self._source.getrandbits(40):010x}"
            self._count = self._source.getrandbits(39)  # the free 40th bit leaves room to count up
        else:
            self._count += 1
        return f"{self._head}{self._count:010x}"

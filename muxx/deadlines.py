"""Time limits without a timer per request: one tick looks at every running call a few times a second.

A limit is a field on the call; setting it costs an attribute store. A limit is therefore kept to within `TICK` seconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from .errors import MuxxError

TICK = 0.1


class Limited(Protocol):
    """What runs under a limit. `due` is monotonic seconds; `check(now)` is called once that moment has passed, and on every tick."""

    def check(self, now: float) -> None: ...

    def abort(self, reason: MuxxError) -> None: ...


class Deadlines:
    """The calls that run now. `tick()` runs as one owned task of the gateway."""

    def __init__(self) -> None:
        self.running: set[Limited] = set()

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for call in tuple(self.running):
                call.check(now)

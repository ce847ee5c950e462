"""Transactions short enough for the recorder to wait for one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from muxx import Connection, Database

SLICE_SECONDS = 0.01
"""What one transaction should take."""
FIRST_ROWS, MOST_ROWS = 20, 2000


class Slices:
    """Runs one kind of work in transactions of some rows each, as many as take about the time they should."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._rows = FIRST_ROWS

    async def run(self, work: Callable[[Connection, int], Awaitable[int]]) -> int:
        """One transaction. `work` gets the number of rows it may take, and returns how many it took."""
        return await self._db.write_logs(partial(self._timed, work))

    async def _timed(self, work: Callable[[Connection, int], Awaitable[int]], db: Connection) -> int:
        """Waiting for the recorder is not counted: it says nothing of how long the recorder will have to wait."""
        begun = time.monotonic()
        count = await work(db, self._rows)
        if count:
            seconds = max(time.monotonic() - begun, 1e-4)
            self._rows = max(1, min(int(count * SLICE_SECONDS / seconds), 2 * self._rows, MOST_ROWS))
        return count

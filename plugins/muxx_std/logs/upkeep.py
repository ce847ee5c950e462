"""What becomes of rows once they are stored: they are indexed, and deleted when their time is over.

All of it is done in short transactions beside the recorder, which may have to wait for one of them, and in a small share of the
time as long as rows arrive. Nothing is lost by a crash: the next start goes on from the last commit.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

from muxx import Database

from .indexes import INDEXES, Index, extend, merge, prepare
from .retention import Rules, sweep
from .settings import LogsConfig
from .slices import Slices

if TYPE_CHECKING:
    from muxx import Gateway

EVERY_SECONDS = 0.25
BUSY_SECONDS = 0.02
IDLE_SECONDS = 0.15
"""Work in each round: less than a tenth of the time while rows arrive, more while none do."""
BATCH = 100
"""While rows arrive they are indexed so many at a time: each time leaves a piece that has to be merged."""
SWEEP_EVERY = 3600.0
FAULT_SECONDS = 5.0
"""Pause after the database could not do its work; that it could not is said once."""
_NEWEST = "SELECT coalesce(max(position), 0) AS position FROM generations"


class Indexing:
    """Brings one index up to date and keeps its pieces few."""

    def __init__(self, db: Database, index: Index) -> None:
        self._db = db
        self._index = index
        self._slices = Slices(db)
        self._extended = False

    async def step(self) -> bool:
        """One transaction; False when there was nothing to do. Rows and merging take turns, as long as there are rows."""
        if self._extended:
            self._extended = False
            if await self._merge():
                return True
        self._extended = await self._slices.run(partial(extend, index=self._index)) > 0
        return self._extended or await self._merge()

    async def _merge(self) -> bool:
        return await self._db.write_logs(partial(merge, index=self._index))


class Upkeep:
    """Does its share in each `round`."""

    def __init__(self, gateway: Gateway, settings: LogsConfig) -> None:
        self._gateway = gateway
        self._settings = settings
        self._indexing = [Indexing(gateway.db, index) for index in INDEXES]
        self._prepared = False
        self._newest = 0
        self._indexed = -BATCH
        """What was the newest row when everything was indexed."""
        self._sweep: AsyncIterator[int] | None = None
        self._sweep_due = 0.0
        self._resume = 0.0
        """When to try again; 0 while there is no trouble."""

    async def round(self) -> None:
        """Work for a while, if there is anything to do."""
        begun = time.monotonic()
        if begun < self._resume:
            return
        try:
            if not self._prepared:
                await self._gateway.db.write_logs(partial(prepare, wanted=self._settings.search_index))
                self._prepared = True
            idle = await self._look()
            while await self._step(idle) and time.monotonic() - begun < (IDLE_SECONDS if idle else BUSY_SECONDS):
                pass
            self._resume = 0.0
        except sqlite3.Error as error:
            if not self._resume:
                self._gateway.log.warning("the log is neither indexed nor swept for now: %s: %s", type(error).__name__, error)
            self._resume = time.monotonic() + FAULT_SECONDS
            if self._sweep is not None:
                self._sweep, self._sweep_due = None, self._resume

    @property
    def caught_up(self) -> bool:
        """Whether there was nothing left to do when last a round ended."""
        return self._sweep is None and self._newest == self._indexed

    async def _look(self) -> bool:
        """Whether no row has arrived since the last round."""
        [row] = await self._gateway.db.scan_logs(_NEWEST)
        before, self._newest = self._newest, row["position"]
        return before == self._newest

    async def _step(self, idle: bool) -> bool:
        swept = await self._sweep_step()
        waiting = self._newest - self._indexed
        return (await self._index_step() if waiting >= BATCH or (waiting and idle) else False) or swept

    async def _index_step(self) -> bool:
        """What fields say is indexed first: it takes little, and filters go by it."""
        for indexing in self._indexing:
            if await indexing.step():
                return True
        self._indexed = self._newest
        return False

    async def _sweep_step(self) -> bool:
        if self._sweep is None and time.monotonic() >= self._sweep_due:
            self._sweep = sweep(self._gateway.db, self._rules())
            self._sweep_due = time.monotonic() + SWEEP_EVERY
        if self._sweep is None:
            return False
        try:
            await anext(self._sweep)
        except StopAsyncIteration:
            self._sweep = None
        return self._sweep is not None

    def _rules(self) -> Rules:
        own = {name: settings.content_retention_days for name, settings in self._gateway.projects.own_settings().items()}
        return Rules.of(self._settings, self._gateway.config, own)

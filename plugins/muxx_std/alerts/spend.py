"""What projects have spent, from the sums of days, and which of their rules that crosses."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import orjson

from muxx import Database

from .rules import Crossing, Stretch, bounds, money_rules
from .store import AlertStore

if TYPE_CHECKING:
    from muxx import Gateway

WINDOWS: tuple[Stretch, ...] = ("day", "month")
PART = 1_000_000
LATE_SECONDS = 900
"""How long after its end a window is still looked at: requests that began in it end later, and so does the last look."""
MOST_OF_THE_TIME = 1 / 20
"""How much of the time adding up may take: with many rows it is done less often."""

_SPENT = (
    "SELECT project, sum(micro) AS micro, sum(rest) AS rest FROM spend_by_day"
    " WHERE day >= date(?, 'unixepoch') AND day < date(?, 'unixepoch')"
    " AND (? IS NULL OR project IN (SELECT value FROM json_each(?))) GROUP BY project"
)
_SPENT_BY_ROWS = (
    "SELECT project, sum(cost_pico / 1000000) AS micro, sum(cost_pico % 1000000) AS rest FROM generations"
    " WHERE started_at >= ? AND started_at < ? AND cost_pico IS NOT NULL AND project IS NOT NULL"
    " AND (? IS NULL OR project IN (SELECT value FROM json_each(?))) GROUP BY project"
)
"""For a host where nobody keeps sums: an alert must not depend on that."""


async def spent(db: Database, start: int, end: int, projects: Collection[str] | None = None) -> dict[str, int]:
    """Pico-dollars of the requests that began in these days, of these projects or of all, live and test traffic together.

    They are added in two parts, as their sum may pass 64 bits. Where nothing was ever logged, nothing was spent.
    """
    wanted = None if projects is None else orjson.dumps(list(projects)).decode()
    for sql in (_SPENT, _SPENT_BY_ROWS):
        try:
            rows = await db.read_logs(sql, (start, end, wanted, wanted))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
        else:
            return {row["project"]: row["micro"] * PART + row["rest"] for row in rows}
    return {}


class SpendWatch:
    """Looks again and again, in one process of the host: what was crossed while nobody looked is found the next time."""

    def __init__(self, gateway: Gateway, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time."""
        self._gateway = gateway
        self._wall = wall
        self._store = AlertStore(gateway.db)
        self._not_before = 0.0

    async def look(self) -> list[Crossing]:
        """The crossings of the windows that run now, or did a moment ago, of which nobody was told yet."""
        began = time.monotonic()
        if began < self._not_before:
            return []
        projects = self._gateway.projects
        if projects.stale:
            await projects.catch_up()
        now = self._wall()
        found = []
        for window in WINDOWS:
            for start, end in {bounds(window, now), bounds(window, now - LATE_SECONDS)}:
                found += await self._crossed(window, start, end)
        if found:
            told = await self._store.told(now - LATE_SECONDS)
            found = [crossing for crossing in found if crossing.key not in told]
        ended = time.monotonic()
        self._not_before = ended + (ended - began) / MOST_OF_THE_TIME
        return found

    async def _crossed(self, window: Stretch, start: int, end: int) -> list[Crossing]:
        own, defaults = self._gateway.projects.own_settings(), self._gateway.projects.defaults
        watched = [name for name, settings in own.items() if money_rules(settings, window)]
        for_all = bool(money_rules(defaults, window))
        if not watched and not for_all:
            return []
        return [
            Crossing(project, rule, pico, end * 1000)
            for project, pico in (await spent(self._gateway.db, start, end, None if for_all else watched)).items()
            for rule in money_rules(own.get(project, defaults), window)
            if rule.crossed_by(pico)
        ]

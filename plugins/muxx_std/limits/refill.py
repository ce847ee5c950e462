"""Counts again, from rows and journal, what the shared file has forgotten: after a reboot, or when it was deleted.

The file outlives every process of muxx, killed or not, so as a rule there is nothing to do.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from muxx import journalled

from .day import DAY
from .ledger import Ledger, monotonic_ms, wall_ms
from .minute import MINUTE

if TYPE_CHECKING:
    from muxx import Gateway, Limits

    from .subject import Subject

    LimitsOf = Callable[[str], Limits | None]
    ReadLogs = Callable[..., Awaitable[Iterable[Any]]]

_MINUTE = (
    "SELECT project, user_id, started_at AS at, 1 AS requests,"
    " CASE WHEN cache IN ('hit', 'joined') OR attempts = 0 THEN 0 ELSE input_tokens + output_tokens END AS tokens"
    " FROM generations WHERE started_at >= ? AND request_id NOT IN (SELECT value FROM json_each(?)) AND project IS NOT NULL"
    " AND NOT (attempts = 0 AND status >= 400 AND cache NOT IN ('hit', 'joined')) AND attributes ->> '$.parent' IS NULL"
    " ORDER BY started_at"
)
_DAY = (
    "SELECT project, user_id, max(started_at) AS at, count(*) AS requests, 0 AS tokens"
    " FROM generations WHERE started_at >= ? AND request_id NOT IN (SELECT value FROM json_each(?)) AND project IS NOT NULL"
    " AND NOT (attempts = 0 AND status >= 400 AND cache NOT IN ('hit', 'joined')) AND attributes ->> '$.parent' IS NULL"
    " GROUP BY project, user_id"
)
_OPEN = "SELECT request_id, record FROM open_requests"


class Spent(NamedTuple):
    """What some requests came to; `at` is Unix time, in seconds."""

    project: str
    user: str | None
    at: float
    requests: int
    tokens: int


async def refill(ledger: Ledger, gateway: Gateway, limits_of: LimitsOf) -> None:
    """Count the requests of the last minute and of the UTC day, if nobody has since the tables were empty."""
    tables = [ledger.minute_table, ledger.day_table]
    if all(table.filled for table in tables):
        return
    wall = wall_ms()
    minute, day = await _read(gateway.db.read_logs, gateway, wall)
    with gateway.shared.holding(sorted(table.head for table in tables)):
        if not all(table.filled for table in tables):
            count(ledger, limits_of, minute, day, monotonic_ms(), wall)
        for table in tables:
            table.filled = True


def count(
    ledger: Ledger, limits_of: LimitsOf, minute: Iterable[Spent], day: Iterable[Spent], now: int, wall: int
) -> None:
    """Count these, `minute` in the order they began. A moment that lies ahead, for the clock was set, is now."""
    for spent in minute:
        ago = min(max(wall - int(spent.at * 1000) - 1000, 0), MINUTE)
        if (subject := _subject(ledger, limits_of, spent)) is not None:
            ledger.recount_minute(subject, max(now - ago, 0), spent.requests, spent.tokens)
    for key, requests in _by_limit(ledger, limits_of, day).items():
        ledger.recount_day(key, requests)


def _by_limit(ledger: Ledger, limits_of: LimitsOf, day: Iterable[Spent]) -> Counter[bytes]:
    """The requests that each limit of a day counts, by its key."""
    found: Counter[bytes] = Counter()
    for spent in day:
        if (subject := _subject(ledger, limits_of, spent)) is not None:
            found.update({limit.key: spent.requests for limit in subject.days})
    return found


class DayWatch:
    """Sees that a limit of a day counts all that the day has had, also where it is set in the middle of it.

    Requests go on meanwhile: those that are admitted while the rows are read may count twice, and none is left out.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._version: int | None = None
        self._limited: set[tuple[str | None, bool, bool]] = set()
        """Whose days were limited at the last look, the project's or its users'; None: those that set nothing themselves."""

    async def look(self) -> None:
        version, projects = self._gateway.shared.version("projects"), self._gateway.projects
        if version == self._version:
            return
        if projects.stale:
            await projects.catch_up()
        own, defaults = dict(projects.own_settings()), projects.defaults
        limits = {None: defaults.limits} | {name: settings.limits for name, settings in own.items()}
        limited = {(name, bool(one.rpd), bool(one.user_rpd)) for name, one in limits.items() if one and (one.rpd or one.user_rpd)}
        if limited - self._limited:
            await self._count(lambda project: own.get(project, defaults).limits)
        self._limited, self._version = limited, version

    async def _count(self, limits_of: LimitsOf) -> None:
        """Whose limit had no rows before what is counted is looked at has been counted from its first request."""
        ledger = Ledger(self._gateway.shared)
        known = {key: ledger.counted_today(key) for key in await self._rows(ledger, limits_of)}
        for key, requests in (await self._rows(ledger, limits_of)).items():
            if (missing := requests - known.get(key, requests)) > 0:
                ledger.recount_day(key, missing)

    async def _rows(self, ledger: Ledger, limits_of: LimitsOf) -> Counter[bytes]:
        gateway = self._gateway
        _, day = await _read(gateway.db.scan_logs, gateway, wall_ms())
        return _by_limit(ledger, limits_of, day)


def _subject(ledger: Ledger, limits_of: LimitsOf, spent: Spent) -> Subject | None:
    limits = limits_of(spent.project)
    return None if limits is None else ledger.subject(limits, spent.project, spent.user, None)


async def _read(read: ReadLogs, gateway: Gateway, wall: int) -> tuple[list[Spent], list[Spent]]:
    """The admitted requests of the last minute, and of the day. The journal first, then what it is moved to, in that order:
    nothing is missed, and what is seen twice is told by its id."""
    minute_start, day_start = (wall - MINUTE - 1000) / 1000, wall // DAY * DAY / 1000
    written = await asyncio.to_thread(journalled, gateway.host.paths.journal)
    try:
        for row in await read(_OPEN):
            written.setdefault(row[0], orjson.loads(row[1]))
        ids = orjson.dumps(list(written)).decode()
        minute = [Spent(*row) for row in await read(_MINUTE, (minute_start, ids))]
        day = [Spent(*row) for row in await read(_DAY, (day_start, ids))]
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise  # rather no start than a window nobody has counted
        minute, day = [], []
    held = list(_admitted(written.values()))
    minute += [spent for spent in held if spent.at >= minute_start]
    return sorted(minute, key=lambda spent: spent.at), day + [spent for spent in held if spent.at >= day_start]


def _admitted(rows: Iterable[Mapping[str, Any]]) -> Iterator[Spent]:
    """The rows and traces of clients' requests that were not refused, as the SQL above has them."""
    for row in rows:
        free = row.get("cache") in ("hit", "joined") or not row["attempts"]
        refused = free and row.get("cache") not in ("hit", "joined") and (row.get("status") or 0) >= 400
        inner = "parent" in (row.get("attributes") or ())
        if row["project"] and not (refused or inner):
            tokens = 0 if free else (row.get("input_tokens") or 0) + (row.get("output_tokens") or 0)
            yield Spent(row["project"], row["user_id"], row["started_at"], 1, tokens)

"""Counts again, from rows and journal, what the shared file has forgotten: after a reboot, or when it was deleted.

The file outlives every process of muxx, killed or not, so as a rule there is nothing to do.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from muxx import journalled

from .day import DAY
from .ledger import Ledger, monotonic_ms, wall_ms
from .minute import MINUTE

if TYPE_CHECKING:
    from muxx import Database, Gateway, Limits

    from .subject import Subject

    LimitsOf = Callable[[str], Limits | None]

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
    minute, day = await _read(gateway.db, gateway, wall)
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
    for spent in day:
        if (subject := _subject(ledger, limits_of, spent)) is not None:
            ledger.recount_day(subject, spent.requests)


def _subject(ledger: Ledger, limits_of: LimitsOf, spent: Spent) -> Subject | None:
    limits = limits_of(spent.project)
    return None if limits is None else ledger.subject(limits, spent.project, spent.user, None)


async def _read(db: Database, gateway: Gateway, wall: int) -> tuple[list[Spent], list[Spent]]:
    """The admitted requests of the last minute, and of the day. The journal first, then what it is moved to, in that order:
    nothing is missed, and what is seen twice is told by its id."""
    minute_start, day_start = (wall - MINUTE - 1000) / 1000, wall // DAY * DAY / 1000
    written = await asyncio.to_thread(journalled, gateway.host.paths.journal)
    try:
        for row in await db.read_logs(_OPEN):
            written.setdefault(row[0], orjson.loads(row[1]))
        ids = orjson.dumps(list(written)).decode()
        minute = [Spent(*row) for row in await db.read_logs(_MINUTE, (minute_start, ids))]
        day = [Spent(*row) for row in await db.read_logs(_DAY, (day_start, ids))]
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise  # rather no start than a window nobody has counted
        minute, day = [], []
    held = list(_admitted(written.values()))
    minute += [spent for spent in held if spent.at >= minute_start]
    return sorted(minute, key=lambda spent: spent.at), day + [spent for spent in held if spent.at >= day_start]


def _admitted(rows: Iterable[Mapping[str, Any]]) -> Iterator[Spent]:
    """The rows and traces of requests that were not refused, as the SQL above has them."""
    for row in rows:
        free = row.get("cache") in ("hit", "joined") or not row["attempts"]
        refused = free and row.get("cache") not in ("hit", "joined") and (row.get("status") or 0) >= 400
        if row["project"] and not refused:
            tokens = 0 if free else (row.get("input_tokens") or 0) + (row.get("output_tokens") or 0)
            yield Spent(row["project"], row["user_id"], row["started_at"], 1, tokens)

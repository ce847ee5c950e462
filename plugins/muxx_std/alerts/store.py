"""The tables of alerts, and the only SQL that touches them.

Invariants: of a rule, a window and a user there is one event, whoever finds it and however often; an event comes with its
deliveries, in one transaction; a delivery is claimed before it is tried, so that of several processes one tries it, and one that
dies meanwhile leaves it to be tried again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from muxx import Connection, Database, Host, Migration

from .rules import Crossing

MOST_USERS = 100
"""Events of one rule in one window: of a limit that each user has by itself, somebody is told of so many of them."""
MOST_WAITING = 1000
"""Deliveries that may wait for one receiver; beyond, they fail at once."""
KEPT_SECONDS = 400 * 86_400
PRUNED_AT_ONCE = 500

TOO_MANY = "too many deliveries wait for this receiver"

MIGRATIONS = (
    Migration(
        "main",
        """
        CREATE TABLE alert_events (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            at REAL NOT NULL,
            type TEXT NOT NULL,
            project TEXT NOT NULL,
            rule TEXT NOT NULL,
            window_end INTEGER NOT NULL,
            user_id TEXT NOT NULL,
            facts TEXT NOT NULL,
            UNIQUE (project, rule, window_end, user_id)
        ) STRICT;
        CREATE INDEX alert_events_by_window ON alert_events (window_end);
        CREATE TABLE alert_deliveries (
            event TEXT NOT NULL REFERENCES alert_events (id) ON DELETE CASCADE,
            receiver TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
            attempts INTEGER NOT NULL DEFAULT 0,
            due_at REAL NOT NULL,
            tried_at REAL,
            status INTEGER,
            problem TEXT,
            PRIMARY KEY (event, receiver)
        ) STRICT;
        CREATE INDEX alert_deliveries_waiting ON alert_deliveries (receiver, due_at) WHERE state = 'waiting';
        """,
    ),
)

_NEW_EVENT = (
    "INSERT OR IGNORE INTO alert_events (id, at, type, project, rule, window_end, user_id, facts) SELECT ?, ?, ?, ?, ?, ?, ?, ?"
    " WHERE (SELECT count(*) FROM alert_events WHERE project = ? AND rule = ? AND window_end = ?) < ?"
)
_NEW_DELIVERY = (
    "INSERT INTO alert_deliveries (event, receiver, state, due_at, problem) SELECT ?, ?, iif(full, 'failed', 'waiting'), ?,"
    " iif(full, ?, NULL) FROM (SELECT count(*) >= ? AS full FROM alert_deliveries WHERE state = 'waiting' AND receiver = ?)"
)
_TOLD = "SELECT project, rule, window_end, user_id FROM alert_events WHERE window_end > ?"
_DUE_RECEIVERS = "SELECT DISTINCT receiver FROM alert_deliveries WHERE state = 'waiting' AND due_at <= ?"
_DUE = (
    "SELECT d.event, d.receiver, d.attempts, e.at, e.type, e.facts"
    " FROM alert_deliveries AS d JOIN alert_events AS e ON e.id = d.event"
    " WHERE d.state = 'waiting' AND d.receiver = ? AND d.due_at <= ? ORDER BY d.due_at LIMIT 1"
)
_CLAIM = (
    "UPDATE alert_deliveries SET attempts = attempts + 1, tried_at = ?, due_at = ?"
    " WHERE event = ? AND receiver = ? AND state = 'waiting' AND attempts = ?"
)
_SETTLE = "UPDATE alert_deliveries SET state = ?, due_at = ?, status = ?, problem = ? WHERE event = ? AND receiver = ?"
_PAGE = (
    "SELECT id, at, type, project, facts FROM alert_events WHERE (? IS NULL OR project = ?)"
    " AND (? IS NULL OR position < ?)"
    " ORDER BY position DESC LIMIT ?"
)
_CURSOR = "SELECT position FROM alert_events WHERE id = ? AND (? IS NULL OR project = ?)"
_DELIVERIES = (
    "SELECT event, receiver, state, attempts, due_at, tried_at, status, problem FROM alert_deliveries"
    " WHERE event IN (SELECT value FROM json_each(?)) ORDER BY receiver"
)
_PRUNE = "DELETE FROM alert_events WHERE position IN (SELECT position FROM alert_events WHERE window_end < ? LIMIT ?)"


class Event(NamedTuple):
    """Something that receivers are told. `facts` is what it says of itself, as JSON; `at` is in Unix seconds."""

    id: str
    at: float
    type: str
    facts: dict[str, Any]

    @classmethod
    def now(cls, type: str, facts: dict[str, Any]) -> Event:
        return cls("alert_" + secrets.token_hex(12), time.time(), type, facts)


class Found(NamedTuple):
    """A crossing, as an event that may be there already, and who is to be told."""

    crossing: Crossing
    event: Event
    receivers: tuple[str, ...]


class Due(NamedTuple):
    """A delivery to be tried; `attempts` were made before."""

    event: Event
    receiver: str
    attempts: int


class Outcome(NamedTuple):
    """What became of a try. `status` is the receiver's, of HTTP or SMTP; `problem` is in our words, None: it was delivered."""

    status: int | None = None
    problem: str | None = None
    in_part: bool = False
    """Some of the receiver's addresses have it all the same. They would get another with each further try, so there is none."""


class AlertStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    @classmethod
    async def prepared(cls, host: Host) -> AlertStore:
        """A store whose tables exist, also when no server has ever run on this database."""
        await host.db.migrate("alerts", MIGRATIONS)
        return cls(host.db)

    async def note(self, found: Sequence[Found]) -> list[Event]:
        """Make the events that are not there yet, each with its deliveries; those it made."""

        async def write(db: Connection) -> list[Event]:
            return [one.event for one in found if await _note(db, one)]

        return await self._db.write(write) if found else []

    async def told(self, now: float) -> set[tuple[str, str, int, str]]:
        """The keys of the crossings there are events of, in windows that have not ended."""
        rows = await self._db.read(_TOLD, (int(now * 1000),))
        return {(row["project"], row["rule"], row["window_end"], row["user_id"]) for row in rows}

    async def due_receivers(self, now: float) -> list[str]:
        """To whom something is to be delivered."""
        return [row["receiver"] for row in await self._db.read(_DUE_RECEIVERS, (now,))]

    async def due(self, receiver: str, now: float) -> Due | None:
        """What is to be delivered next."""
        for row in await self._db.read(_DUE, (receiver, now)):
            event = Event(row["event"], row["at"], row["type"], orjson.loads(row["facts"]))
            return Due(event, row["receiver"], row["attempts"])
        return None

    async def claim(self, due: Due, now: float, until: float) -> bool:
        """Take a delivery on, for nobody else to try it `until` then; False where somebody else has."""

        async def write(db: Connection) -> bool:
            async with db.execute(_CLAIM, (now, until, due.event.id, due.receiver, due.attempts)) as cursor:
                return cursor.rowcount > 0

        return await self._db.write(write)

    async def settle(self, due: Due, outcome: Outcome, again_at: float | None) -> None:
        """Note what became of it; it is tried again at `again_at`, or it is over."""
        status, problem, in_part = outcome
        state = "delivered" if problem is None or in_part else "failed" if again_at is None else "waiting"

        async def write(db: Connection) -> None:
            await db.execute(_SETTLE, (state, again_at or time.time(), status, problem, due.event.id, due.receiver))

        await self._db.write(write)

    async def events(self, project: str | None, after: str | None, limit: int) -> list[dict[str, Any]] | None:
        """The newest first, each with its deliveries. `after` is the id of the last one seen; None where that is no event of the
        project."""
        before = None
        if after is not None:
            cursor = await self._db.read(_CURSOR, (after, project, project))
            if not cursor:
                return None
            before = cursor[0]["position"]
        rows = await self._db.read(_PAGE, (project, project, before, before, limit))
        deliveries: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
        for row in await self._db.read(_DELIVERIES, (orjson.dumps(list(deliveries)).decode(),)):
            deliveries[row["event"]].append(dict(zip(row.keys(), row, strict=True)))
        return [
            {**dict(zip(row.keys(), row, strict=True)), "facts": orjson.loads(row["facts"]), "deliveries": deliveries[row["id"]]}
            for row in rows
        ]

    async def prune(self, now: float) -> None:
        """Forget some events of windows that ended long ago."""

        async def write(db: Connection) -> None:
            await db.execute(_PRUNE, (int((now - KEPT_SECONDS) * 1000), PRUNED_AT_ONCE))

        await self._db.write(write)


async def _note(db: Connection, found: Found) -> bool:
    """Within a transaction; False for an event that is there."""
    event, project, rule, window_end = found.event, *found.crossing.key[:3]
    values = (event.id, event.at, event.type, *found.crossing.key, orjson.dumps(event.facts).decode())
    async with db.execute(_NEW_EVENT, (*values, project, rule, window_end, MOST_USERS)) as cursor:
        if cursor.rowcount < 1:
            return False
    await _deliver(db, event, found.receivers)
    return True


async def _deliver(db: Connection, event: Event, receivers: Iterable[str]) -> None:
    for receiver in receivers:
        await db.execute(_NEW_DELIVERY, (event.id, receiver, event.at, TOO_MANY, MOST_WAITING, receiver))

"""The SQL of the cache's statistics, and the names of its purges. Answers themselves are in no database."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from muxx import Connection, Database, Migration, StartError, usd

if TYPE_CHECKING:
    from muxx import ProjectStore, Shared

MIGRATIONS = (
    Migration(
        "main",
        """
        CREATE TABLE cache_workers (
            worker INTEGER PRIMARY KEY,
            entries INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            max_bytes INTEGER NOT NULL,
            reported_at REAL NOT NULL
        ) STRICT
        """,
    ),
)

STALE_SECONDS = 30.0
"""A worker that has not reported for so long does not run any more."""

_REPORT = (
    "INSERT INTO cache_workers (worker, entries, bytes, max_bytes, reported_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (worker) DO UPDATE SET entries = excluded.entries, bytes = excluded.bytes, max_bytes = excluded.max_bytes,"
    " reported_at = excluded.reported_at"
)
_WORKERS = "SELECT worker, entries, bytes, max_bytes FROM cache_workers WHERE reported_at >= ? ORDER BY worker"
_OUTCOMES = (
    "SELECT project, cache, count(*) AS requests, sum(saved_pico / 1000000) AS micro, sum(saved_pico % 1000000) AS rest"
    " FROM generations WHERE started_at >= ? AND (? IS NULL OR project = ?) AND (? IS NULL OR environment = ?)"
    " AND project IS NOT NULL GROUP BY project, cache ORDER BY project"
)
"""Millionths and the rest are added up apart: the sum of many pico-dollars need not fit into 64 bits."""


_ANY_ROW = "SELECT 1 FROM generations WHERE project = ? LIMIT 1"


class Figures(NamedTuple):
    """How much one worker holds."""

    entries: int
    bytes: int
    max_bytes: int


ANY_PURGE = "cache"
"""A number all workers see: it changes with every purge, of whatever."""


def purge_names(project: str) -> tuple[str, str]:
    """What a project's entries depend on: two more such numbers, one of everything and one of its own."""
    return "cache/", f"cache/{project}"


def purge(shared: Shared, project: str | None) -> None:
    """Forget a project's answers, or all, in every worker, before its next request."""
    shared.bump(purge_names(project or "")[bool(project)])
    shared.bump(ANY_PURGE)


class CacheStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def report(self, worker: int, figures: Figures) -> None:
        """Say how much a worker holds now."""

        async def write(db: Connection) -> None:
            await db.execute(_REPORT, (worker, *figures, time.time()))

        await self._db.write(write)

    async def workers(self) -> list[dict[str, Any]]:
        """What the workers that run hold, as they last said."""
        rows = await self._db.read(_WORKERS, (time.time() - STALE_SECONDS,))
        return [dict(row) for row in rows]

    async def outcomes(self, since: float, project: str | None, environment: str | None) -> list[dict[str, Any]]:
        """Of each project since that moment (Unix seconds): what became of its requests, and what that saved.

        Counted from the log's rows; `StartError` where there is no log.
        """
        if not await self._db.has_table("logs", "generations"):
            raise StartError("Nothing is logged: the plugin `logs` is off, or no gateway has run on this database yet.", 1)
        return _summed(await self._db.read_logs(_OUTCOMES, (since, project, project, environment, environment)))

    async def doubt(self, projects: ProjectStore, project: str | None) -> str | None:
        """A sentence for whoever would purge the answers of a project that nobody has, nor an identity provider names: no request
        of it is known. Where nothing is logged, nobody can say."""
        doubt = await projects.doubt(project)
        if doubt is None or not project:  # an empty name, as of a variable that was never set, is nobody's
            return doubt
        unknown = await self._db.has_table("logs", "generations") and not await self._db.read_logs(_ANY_ROW, (project,))
        return doubt if unknown else None


def _summed(rows: Iterable[Any]) -> list[dict[str, Any]]:
    projects: dict[str, dict[str, Any]] = {}
    for name, outcome, requests, micro, rest in rows:
        found = projects.setdefault(
            name, {"project": name, "hits": 0, "joined": 0, "misses": 0, "bypassed": 0, "hit_rate": None, "saved_usd": 0}
        )
        column = _COLUMNS.get(outcome, "bypassed")
        found[column] += requests
        found["saved_usd"] += (micro or 0) * 1_000_000 + (rest or 0)
    for found in projects.values():
        answered = found["hits"] + found["joined"]
        if asked := answered + found["misses"]:
            found["hit_rate"] = round(answered / asked, 4)
        found["saved_usd"] = usd(found["saved_usd"])
    return list(projects.values())


_COLUMNS = {"hit": "hits", "joined": "joined", "miss": "misses"}

"""FAULTS M08: what is counted of money is what the rows say. Checked after every gateway that a test has run and stopped."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from muxx import Shared, journalled
from muxx_std.spend_caps.account import month_of
from muxx_std.spend_caps.ledger import SpendLedger

Row = Mapping[str, Any]

COLUMNS = ("request_id", "started_at", "project", "key_id", "user_id", "attempts", "cost_pico", "attributes", "status", "error_code")


CHECKED = ContextVar("CHECKED", default=True)
"""Whether the gateways that are stopped just now are checked."""


@contextmanager
def nothing_adds_up() -> Iterator[None]:
    """For gateways that are broken on purpose."""
    before = CHECKED.set(False)
    try:
        yield
    finally:
        CHECKED.reset(before)


def rows_of(directory: Path, database: str = "muxx") -> list[Row]:
    """Every row there is, from the journal and the database."""
    found: dict[str, Row] = dict(journalled(directory / f"{database}.db.journal"))
    with closing(sqlite3.connect(f"file:{directory}/{database}-logs.db?mode=ro", uri=True)) as db:
        for values in db.execute(f"SELECT {', '.join(COLUMNS)} FROM generations"):
            row = dict(zip(COLUMNS, values, strict=True))
            row["attributes"] = orjson.loads(row["attributes"] or "{}")
            found.setdefault(row["request_id"], row)
    return [row for row in found.values() if row.get("status") is not None]


def counts_as(row: Row) -> int:
    """What a row counts as, by the documentation: its cost, or the ceiling it was held at where nobody knows its price."""
    return int(row["attributes"].get("spend_ceiling_pico", 0) if row["cost_pico"] is None else row["cost_pico"])


def day_of(row: Row) -> int:
    told = row["attributes"].get("spend_day")
    return int(row["started_at"] // 86_400) if told is None else (date.fromisoformat(told) - date(1970, 1, 1)).days


def sums(rows: Iterable[Row], *members: str) -> Counter[Any]:
    """Money by the values of these members."""
    found: Counter[Any] = Counter()
    for row in rows:
        found[tuple(row[name] for name in members)] += counts_as(row)
    return found


def check_sums(directory: Path, database: str = "muxx") -> None:
    """The sums of analytics are those of the rows that are in the database; what was deleted since is still in them."""
    with closing(sqlite3.connect(f"file:{directory}/{database}-logs.db?mode=ro", uri=True)) as db:
        rows: Counter[Any] = Counter()
        for project, environment, at, pico in db.execute("SELECT project, environment, started_at, cost_pico FROM generations"):
            if project is not None and environment is not None:
                rows[project, environment, int(at // 86_400)] += pico or 0
        told = {
            (project, environment, (date.fromisoformat(day) - date(1970, 1, 1)).days): micro * 1_000_000 + rest
            for project, environment, day, micro, rest in db.execute(
                "SELECT project, environment, day, sum(micro), sum(rest) FROM spend_by_day GROUP BY project, environment, day"
            )
        }
        kept = db.execute("SELECT count(*) FROM generations WHERE project IS NOT NULL AND environment IS NOT NULL").fetchone()
        if kept == db.execute("SELECT coalesce(sum(requests), 0) FROM spend_by_day").fetchone():
            assert told == rows
        else:
            assert all(told.get(key, 0) >= pico for key, pico in rows.items())


def check_money(directory: Path, database: str = "muxx") -> None:
    """The sum of the rows = of those of each key, each user, each project = what is counted. Nothing is held any more but for
    requests whose rows could not be written while the process lived."""
    shared = Shared(directory / f"{database}.db.shared")
    try:
        ledger = SpendLedger(shared)
        held = {hold.request_id for _, _, holds in ledger.holds.blocks() for hold in holds}
        rows = [row for row in rows_of(directory, database) if row["project"]]
        assert {row["error_code"] for row in rows if row["request_id"] in held} <= {"process_died"}
        rows = [row for row in rows if row["request_id"] not in held]
        total = sum(map(counts_as, rows))
        for members in (("project",), ("project", "key_id"), ("project", "user_id")):
            assert sum(sums(rows, *members).values()) == total
        by_day = _by_day(rows)
        for project, day in by_day:
            months = sum(pico for (name, other), pico in by_day.items() if name == project and month_of(other) == month_of(day))
            figures = ledger.figures(project, day)
            assert (figures["day"][0], figures["month"][0]) == (by_day[project, day], months), (project, day)
            assert held or figures["day"][1] == 0
    finally:
        shared.close()


def _by_day(rows: Iterable[Row]) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for row in rows:
        found[row["project"], day_of(row)] += counts_as(row)
    return found

"""Corrections of what rows say they cost: the rows to look at, the booking, and its history. The SQL of `muxx prices reprice`.

A correction changes the row and leaves an adjustment, in one transaction: so the sum of the rows is always what is owed now, and
with the adjustments taken back what was owed before. Adjustments are never changed or deleted.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from muxx import Cost, Migration, Usage

if TYPE_CHECKING:
    from muxx import Connection, Database

ROWS_AT_ONCE = 500

MIGRATIONS = (
    Migration(
        "logs",
        """
        CREATE TABLE price_adjustments (
            id INTEGER PRIMARY KEY,
            booked_at REAL NOT NULL,
            request_id TEXT NOT NULL,
            project TEXT,
            started_at REAL NOT NULL,
            before_version TEXT,
            before_pico INTEGER,
            after_version TEXT NOT NULL,
            after_pico INTEGER NOT NULL
        ) STRICT
        """,
    ),
    Migration("logs", "CREATE INDEX price_adjustments_by_request ON price_adjustments (request_id)"),
)
"""`id` only grows: who has seen one has seen all before it. `before_pico` is NULL where no cost was known."""

_PRICED_ROWS = (
    " FROM generations WHERE started_at >= ? AND started_at < ? AND (? IS NULL OR project = ?)"
    " AND attempts > 0 AND usage_source NOT IN ('none', 'cache') AND provider IS NOT NULL AND model IS NOT NULL"
)
_COUNT = "SELECT count(*)" + _PRICED_ROWS
_PAGE = (
    "SELECT position, request_id, project, started_at, provider, model, input_tokens, output_tokens,"
    " cache_read_tokens, cache_write_tokens, reasoning_tokens, attributes, input_cost_pico, output_cost_pico, cost_pico,"
    " price_version" + _PRICED_ROWS + " AND position > ? ORDER BY position LIMIT ?"
)
_UPDATE = (
    "UPDATE generations SET input_cost_pico = ?, output_cost_pico = ?, cost_pico = ?, price_version = ?"
    " WHERE request_id = ? AND cost_pico IS ? AND price_version IS ?"
)
_INSERT = (
    "INSERT INTO price_adjustments"
    " (booked_at, request_id, project, started_at, before_version, before_pico, after_version, after_pico)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class Span(NamedTuple):
    """Whose rows of which time, in Unix seconds; `until` is not included."""

    since: float
    until: float
    project: str | None = None


@dataclass(frozen=True, slots=True)
class PricedRow:
    """A row that came to something at a provider."""

    request_id: str
    project: str | None
    started_at: float
    provider: str
    model: str
    priced_as: str
    """The model that was asked of the provider, whatever its answer said."""
    usage: Usage
    input_pico: int | None
    output_pico: int | None
    pico: int | None
    version: str | None


class Correction(NamedTuple):
    row: PricedRow
    cost: Cost


async def count(db: Database, span: Span) -> int:
    """How many rows `pages` gives. None before the first server has run, which makes the table."""
    if not await db.has_table("logs", "generations"):
        return 0
    found = await db.read_logs(_COUNT, (span.since, span.until, span.project, span.project))
    return int(found[0][0])


async def pages(db: Database, span: Span) -> AsyncIterator[list[PricedRow]]:
    """The rows in order of arrival, a few at a time."""
    position = 0
    while found := await db.read_logs(_PAGE, (span.since, span.until, span.project, span.project, position, ROWS_AT_ONCE)):
        yield [_priced_row(row) for row in found]
        position = found[-1]["position"]


def _priced_row(row: Any) -> PricedRow:
    attributes = orjson.loads(row["attributes"] or "{}")
    details = attributes.get("usage_details", {})
    usage = Usage(
        row["input_tokens"] or 0,
        row["output_tokens"] or 0,
        row["cache_read_tokens"] or 0,
        row["cache_write_tokens"] or 0,
        row["reasoning_tokens"] or 0,
        **details,
    )
    return PricedRow(
        row["request_id"],
        row["project"],
        row["started_at"],
        row["provider"],
        row["model"],
        attributes.get("priced_as", row["model"]),
        usage,
        row["input_cost_pico"],
        row["output_cost_pico"],
        row["cost_pico"],
        row["price_version"],
    )


async def book(db: Database, corrections: Sequence[Correction]) -> int:
    """Book them, in one transaction; how many were: a row that somebody changed meanwhile is left as it is."""
    return await db.write_logs(partial(_book, corrections))


async def _book(corrections: Sequence[Correction], db: Connection) -> int:
    booked = 0
    for row, cost in corrections:
        changes = (cost.input_pico, cost.output_pico, cost.total_pico, cost.price_version)
        async with db.execute(_UPDATE, (*changes, row.request_id, row.pico, row.version)) as cursor:
            if cursor.rowcount != 1:
                continue
        before, after = (row.version, row.pico), (cost.price_version, cost.total_pico)
        await db.execute(_INSERT, (time.time(), row.request_id, row.project, row.started_at, *before, *after))
        booked += 1
    return booked

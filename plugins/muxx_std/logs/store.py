"""All SQL of the log: writing in the recorder's transaction, reading through reader connections.

Rows are told apart by `request_id`, so storing a record twice leaves one row. `position` is the order of arrival and only grows;
following and exporting go by it, because a long request arrives after later, shorter ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson

from muxx import Connection, Database, usd

from .filters import Filter, Page
from .listing import PAGE_SECONDS, Found, Listing
from .schema import COLUMNS, NUMBER_COLUMNS, content_of, content_value, plain_columns_of, record_of, row_of

_NAMES = tuple(COLUMNS)
_COLUMNS = ", ".join("g." + name for name in _NAMES)
_CONTENT = "LEFT JOIN contents AS c ON c.request_id = g.request_id WHERE "
_SELECT_WITH_CONTENT = " ".join(("SELECT g.position, c.input, c.output,", _COLUMNS, "FROM generations AS g", _CONTENT))
_ARRIVED = " ".join(("SELECT g.position,", _COLUMNS, "FROM generations AS g NOT INDEXED WHERE "))
"""By position, which is the table's own order: an index would have all of a project's rows sorted for each few of them."""
ROWS_AT_ONCE = 25
"""Most rows of one INSERT: SQLite opens a table and its indexes for each statement, which takes as long as two rows do."""
_CONTENT_NAMES = ("request_id", "started_at", "input", "output")


@lru_cache(maxsize=64)
def _upsert(table: str, shared: tuple[str, ...], own: tuple[str, ...], rows: int) -> str:
    """Insert so many rows, binding first the values they share and then the `own` ones of each. A row whose `request_id`, the
    first of those, is there already changes in its place.

    Not by numbers (`?1`): Python from 3.12 on asks for the name of each, and 3.12 before 3.12.4 warns of each.
    """
    values = "VALUES " + ", ".join([_places(own)] * rows)
    if shared:
        values = " ".join(("SELECT * FROM (VALUES", _places(shared), "), (", values, ") WHERE true"))
    into = table + " (" + ", ".join([*shared, *own]) + ")"
    changes = ", ".join(name + " = excluded." + name for name in (*shared, *own[1:]))
    return " ".join(("INSERT INTO", into, values, "ON CONFLICT (request_id) DO UPDATE SET", changes))


def _places(names: tuple[str, ...]) -> str:
    return "(" + ", ".join("?" * len(names)) + ")"


_STATS_HEAD = (
    "WITH matching AS (SELECT coalesce(g.model, g.model_requested) AS model, g.status, g.error_code, g.duration_ms,"
    " CASE WHEN g.usage_source IS 'cache' THEN 0 ELSE g.input_tokens END AS input_tokens,"
    " CASE WHEN g.usage_source IS 'cache' THEN 0 ELSE g.output_tokens END AS output_tokens,"
    " g.cost_pico FROM generations AS g WHERE "
)
_STATS_TAIL = (
    "), ranked AS (SELECT *, row_number() OVER (PARTITION BY model ORDER BY duration_ms) AS place,"
    " count(*) OVER (PARTITION BY model) AS total FROM matching)"
    " SELECT model, count(*) AS requests, CAST(total(input_tokens) AS INTEGER) AS input_tokens,"
    " CAST(total(output_tokens) AS INTEGER) AS output_tokens, count(cost_pico) AS priced,"
    " sum(cost_pico / 1000000) AS micro, sum(cost_pico % 1000000) AS rest,"
    " sum(status >= 400 OR error_code IS NOT NULL) AS errors,"
    " max(CASE WHEN place = (total * 50 + 99) / 100 THEN duration_ms END) AS p50,"
    " max(CASE WHEN place = (total * 95 + 99) / 100 THEN duration_ms END) AS p95"
    " FROM ranked GROUP BY model ORDER BY requests DESC, model"
)


class LogWriter:
    """Writes batches of records. Of the rows of one statement most columns hold the same, and that is bound once for all of them:
    binding is half of what a row costs."""

    def __init__(self) -> None:
        self._differing = {"request_id"}
        """Columns that were not the same all through some batch. It only grows, so that few statements are made."""

    async def store(self, db: Connection, records: Sequence[Mapping[str, Any]]) -> None:
        """Write a batch; the transaction is the caller's."""
        try:
            await self._put(db, plain_columns_of(records))
        except (KeyError, OverflowError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            await self._put(db, list(zip(*map(row_of, records), strict=True)))
        contents = [content for record in records if (content := content_of(record)) is not None]
        if contents:
            await _insert(db, "contents", (), (), _CONTENT_NAMES, contents)

    async def _put(self, db: Connection, columns: list[tuple[Any, ...]]) -> None:
        self._differing |= {
            name
            for name, column in zip(_NAMES, columns, strict=True)
            if name not in self._differing and not _same(column, name in NUMBER_COLUMNS)
        }
        shared, first, own, varying = [], [], [], []
        for name, column in zip(_NAMES, columns, strict=True):
            if name in self._differing:
                own.append(name)
                varying.append(column)
            else:
                shared.append(name)
                first.append(column[0])
        await _insert(db, "generations", tuple(shared), tuple(first), tuple(own), list(zip(*varying, strict=True)))


def _same(column: tuple[Any, ...], numbers: bool) -> bool:
    """Whether SQLite would store the same for each value. Among numbers that are equal it would only in a column of numbers."""
    first = column[0]
    return (numbers or first is None or type(first) is str) and column[-1] == first and column.count(first) == len(column)


async def _insert(
    db: Connection, table: str, shared: tuple[str, ...], values: tuple[Any, ...], own: tuple[str, ...], rows: list[Any]
) -> None:
    """Insert rows in as few statements as can be, all of one size. The last one is filled with its last row again, which changes
    nothing."""
    count = -(-len(rows) // ROWS_AT_ONCE)
    size = -(-len(rows) // count)
    rows += rows[-1:] * (count * size - len(rows))
    bound = [[*values, *chain.from_iterable(rows[at : at + size])] for at in range(0, len(rows), size)]
    await db.executemany(_upsert(table, shared, own, size), bound)


class LogReader:
    """Reads generations as Record-like dicts. `decode` is applied to stored JSON."""

    def __init__(self, db: Database, decode: Callable[[str], Any] = orjson.loads) -> None:
        self._db = db
        self._decode = decode

    async def one(self, request_id: str) -> dict[str, Any] | None:
        """A row with its content."""
        rows = await self._db.read_logs(_SELECT_WITH_CONTENT + "g.request_id = ?", (request_id,))
        return self._with_content(rows[0]) if rows else None

    async def page(self, filter: Filter, page: Page, seconds: float = PAGE_SECONDS) -> Found | None:
        """Rows newest first, without content, as many as can be found in that time, and where to go on.

        None when the cursor is no row of the project.
        """
        start = None
        if page.after is not None:
            start = await self._cursor(page.after, filter.project)
            if start is None:
                return None
        found = await Listing(self._db, filter, page.limit, start).find(seconds)
        return Found([record_of(row, self._decode) for row in found.rows], found.next)

    async def arrivals(self, filter: Filter, after: int, *, limit: int = 500) -> list[tuple[int, dict[str, Any]]]:
        """Rows that arrived after `after`, in order of arrival, each with its position."""
        conditions, values = filter.where()
        sql = _ARRIVED + " AND ".join([*conditions, "g.position > ?"]) + " ORDER BY g.position LIMIT ?"
        rows = await self._db.scan_logs(sql, (*values, after, limit))
        return [(row["position"], record_of(row, self._decode)) for row in rows]

    async def last_position(self) -> int:
        """The position of the newest arrival; 0 when there is none."""
        rows = await self._db.read_logs("SELECT coalesce(max(position), 0) AS position FROM generations")
        return int(rows[0]["position"])

    async def stats(self, filter: Filter) -> list[dict[str, Any]]:
        """By model. Percentiles are of the nearest rank; pico-dollars are added in two parts, as their sum may pass 64 bits."""
        conditions, values = filter.where()
        rows = await self._db.scan_logs(_STATS_HEAD + " AND ".join(conditions) + _STATS_TAIL, values)
        return [_stats(row) for row in rows]

    async def _cursor(self, request_id: str, project: str | None) -> tuple[float, int] | None:
        sql = "SELECT started_at, position FROM generations WHERE request_id = ? AND (? IS NULL OR project = ?)"
        rows = await self._db.read_logs(sql, (request_id, project, project))
        return (rows[0]["started_at"], rows[0]["position"]) if rows else None

    def _with_content(self, row: Any) -> dict[str, Any]:
        record = record_of(row, self._decode)
        for name in ("input", "output"):
            record[name] = content_value(row[name])
        return record


def _stats(row: Any) -> dict[str, Any]:
    return {
        "model": row["model"],
        "requests": row["requests"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cost_usd": usd(row["micro"] * 1_000_000 + row["rest"]) if row["priced"] else None,
        "unpriced_requests": row["requests"] - row["priced"],
        "error_share": row["errors"] / row["requests"],
        "p50_ms": row["p50"],
        "p95_ms": row["p95"],
    }

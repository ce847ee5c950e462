"""One page of the log: rows newest first, found within a time, however rare they are and however many others there are.

The rows are looked at in chunks, in the order of the list. The newest chunk is simply read: what is frequent stands there. Where
that does not fill the page, the indexes are asked, and if they know but few candidates, these are the rest of the page. If there
are many, or no index has come that far yet, the next chunks follow, each as long as the last ones' time allows.

Invariants:

- A page holds exactly the matching rows between where it begins and where it ends, whichever way they were found.
- When the time is over, the page ends with the chunk, and says where to go on: paging on repeats nothing and leaves nothing out.
- Every page gets further than the one before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from muxx import Database

from .filters import Filter
from .indexes import FACETS, TEXT, Index, facet_words, text_runs, text_words
from .schema import COLUMNS

PAGE_SECONDS = 0.09
CHUNK_SECONDS = 0.015
"""What a chunk should take: it is also how far past its time a page may end."""
FIRST_ROWS = 1000
FIRST_TEXTS = 100
"""Rows of the first chunk, and of one whose contents are looked through."""
LEAST_ROWS, MOST_ROWS = 50, 250_000
MOST_CANDIDATES = 2000
"""Candidates that are simply looked at, all of them."""
ASK_SECONDS = 0.03
"""How long an index may take to say which ones they are; where it takes longer, they are not few."""
MOST_COUNTED = 64
"""Runs of a text that are compared for the rarest."""
MOST_UNINDEXED = 20_000
"""Rows that are looked at beside the candidates because no index knows them yet."""

_NEWEST = (float("inf"), 0)
_OLDEST = float("-inf")
_SELECT = " ".join(("SELECT g.position,", ", ".join("g." + name for name in COLUMNS), "FROM generations AS g WHERE "))
_SELECT_BY_POSITION = _SELECT.replace("WHERE", "NOT INDEXED WHERE")
_IN_LISTS = "g.position IN (SELECT value FROM json_each(?) UNION ALL SELECT value FROM json_each(?))"
_NEWEST_FIRST = " ORDER BY g.started_at DESC, g.position DESC LIMIT ?"
_BEFORE = "(g.started_at, g.position) < (?, ?)"
_FROM = "FROM generations AS g WHERE g.project = ? AND"
_EDGE = " ".join(("SELECT g.started_at", _FROM, _BEFORE, _NEWEST_FIRST, "OFFSET ?"))
_SPAN = " ".join(("SELECT min(g.position), max(g.position)", _FROM, "g.started_at >= ? AND", _BEFORE))
_AT = " ".join(("SELECT g.request_id", _FROM, "g.started_at >= ? ORDER BY g.started_at, g.position LIMIT 1"))
_ANY_PROJECT = ("g.project = ? AND ", "")
_REACHED = (
    "SELECT name, position FROM logs_indexed WHERE EXISTS (SELECT 1 FROM pragma_module_list WHERE name = 'fts5')"
    " UNION ALL SELECT '', coalesce(max(position), 0) FROM generations"
)
_COMMON = (
    "WITH sample AS MATERIALIZED (SELECT substr(input, 1, 2000) || char(10) || substr(coalesce(output, ''), 1, 2000) AS text"
    " FROM contents ORDER BY rowid DESC LIMIT 50)"
    " SELECT r.value AS run, (SELECT count(*) FROM sample WHERE instr(text, r.value)) AS count FROM json_each(?) AS r"
    " ORDER BY count"
)
"""How common runs are in a few new contents, the rarest first."""


class Found(NamedTuple):
    """A page. `next` is the request_id to go on after; None when there is nothing more."""

    rows: list[Any]
    next: str | None


class Asked(NamedTuple):
    """An index, what it is asked for, and how far it has come."""

    searched: Index
    words: str
    reached: int


class Listing:
    """Finds one page, from behind `start` on: the time and the position of a row."""

    def __init__(self, db: Database, filter: Filter, limit: int, start: tuple[float, int] | None) -> None:
        self._db = db
        self._filter = filter
        self._limit = limit
        self._at = min(start or _NEWEST, _NEWEST if filter.until is None else (filter.until, 0))
        self._rows: list[Any] = []

    async def find(self, seconds: float) -> Found:
        """The page, as far as it can be found in that time; some of it at least is looked at."""
        ends = time.monotonic() + seconds
        size = FIRST_ROWS if self._filter.text is None else FIRST_TEXTS
        edge, took = await self._look_at(size, [])
        if edge is not None and not self._is_full:
            asked, last = await self._indexes()
            if await self._is_read_by_candidates(asked, last, ends):
                edge = None
        while edge is not None and not self._is_full:
            if time.monotonic() > ends:
                return Found(self._rows, await self._id_at(edge))
            size = max(LEAST_ROWS, min(int(size * min(4.0, CHUNK_SECONDS / took)), MOST_ROWS))
            edge, took = await self._look_at(size, asked)
        rows = self._rows[: self._limit]
        return Found(rows, rows[-1]["request_id"] if self._is_full else None)

    @property
    def _is_full(self) -> bool:
        """There is one row more than the page holds, so it is known that there are more."""
        return len(self._rows) > self._limit

    async def _look_at(self, size: int, asked: list[Asked]) -> tuple[float | None, float]:
        """Add what matches among the next rows. Where they end, None at the end of all; and the seconds it took."""
        begun = time.monotonic()
        since = _OLDEST if self._filter.since is None else self._filter.since
        found = await self._of_project(_EDGE, (*self._at, 1, size))
        edge = found[0][0] if found and found[0][0] > since else None
        lowest = since if edge is None else edge
        if not (asked and await self._is_read_by_indexes(lowest, asked)):
            await self._read(_SELECT, ["g.started_at >= ?"], [lowest])
        if edge is not None:
            self._at = (edge, 0)
        return edge, max(time.monotonic() - begun, 1e-4)

    async def _is_read_by_indexes(self, lowest: float, asked: list[Asked]) -> bool:
        """Add what matches among the rows down to that time, with those indexes that know them all. One that does not help is not
        asked again."""
        [(first, last)] = await self._of_project(_SPAN, (lowest, *self._at))
        knowing = [each for each in asked if last is not None and last <= each.reached]
        conditions = ["g.started_at >= ?", *(each.searched.among for each in knowing)]
        values = [lowest, *(value for each in knowing for value in (each.words, first, last))]
        try:
            if knowing:
                await self._read(_SELECT_BY_POSITION, conditions, values, ASK_SECONDS)
        except TimeoutError:
            asked.clear()
            return False
        return bool(knowing)

    async def _read(self, select: str, conditions: Sequence[str], values: Sequence[Any], seconds: float | None = None) -> None:
        """Add the rows that match and fulfil the conditions."""
        own, bound = self._filter.where()
        sql = select + " AND ".join((*conditions, _BEFORE, *own)) + _NEWEST_FIRST
        wanted = self._limit + 1 - len(self._rows)
        self._rows += await self._db.scan_logs(sql, (*values, *self._at, *bound, wanted), seconds=seconds)

    async def _indexes(self) -> tuple[list[Asked], int]:
        """The indexes that know something of what is looked for, and the position of the newest row."""
        reached = {row["name"]: row["position"] for row in await self._db.scan_logs(_REACHED)}
        asked = []
        words = facet_words(self._filter)
        if words is not None and FACETS.name in reached:
            asked.append(Asked(FACETS, words, reached[FACETS.name]))
        runs = text_runs(self._filter)
        if runs and TEXT.name in reached:
            rarest = await self._db.scan_logs(_COMMON, (orjson.dumps(runs[:MOST_COUNTED]).decode(),))
            asked.append(Asked(TEXT, text_words(row["run"] for row in rarest), reached[TEXT.name]))
        return asked, reached[""]

    async def _is_read_by_candidates(self, asked: list[Asked], last: int, ends: float) -> bool:
        """Add all the rest that matches, where an index says that it may be few rows only, and these can be read in time."""
        for each in tuple(asked):
            searched, words, reached = each
            if last - reached > MOST_UNINDEXED:
                continue
            try:
                [(count, found)] = await self._db.scan_logs(searched.newest, (words, MOST_CANDIDATES + 1), seconds=ASK_SECONDS)
                if count <= MOST_CANDIDATES:
                    unindexed = orjson.dumps([*range(reached + 1, last + 1)]).decode()
                    left = max(ends - time.monotonic(), 0.0)
                    await self._read(_SELECT_BY_POSITION, [_IN_LISTS], [found, unindexed], left)
                    return True
            except TimeoutError:
                asked.remove(each)
        return False

    async def _id_at(self, edge: float) -> str:
        """The last row that was looked at: it is the caller's to see, whether it matches or not."""
        [(request_id,)] = await self._of_project(_AT, (edge,))
        return str(request_id)

    async def _of_project(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Among the rows of the project that is asked for, or of all."""
        if self._filter.project is None:
            return await self._db.scan_logs(sql.replace(*_ANY_PROJECT), values)
        return await self._db.scan_logs(sql, (self._filter.project, *values))

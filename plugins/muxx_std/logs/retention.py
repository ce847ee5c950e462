"""How long what is kept: content, rows, and how much of both.

Content goes first, by its project's time and then, where the database holds more than it may, from the oldest on. Rows go by
their own time. No rule takes a row of the last two months: what is counted from rows, others count.

Invariants:

- A row goes with its content, in one transaction, and neither leaves anything in an index.
- The newest row stays, however old it is: positions only grow, and indexes go by them.
- A limit of size takes the oldest first, and what is too much, with a twentieth of the limit to spare.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial

import orjson

from muxx import Config, Connection, Database

from .indexes import INDEXES, begin_whole_merge, merge
from .settings import LEAST_ROW_DAYS, LogsConfig
from .slices import Slices

SECONDS_PER_DAY = 86_400
ROW_BYTES = 700
"""What a row without content takes, about, with its place in every index."""
STALE_SHARE = 0.2
"""The share of content that is deleted before an index is made small again, which takes writing all of it anew."""
ROOM = 0.95
"""Where there is more than may be, it is brought down to this share: so it is not done again at once."""

_SWEEP = (
    "DELETE FROM contents WHERE rowid IN"
    " (SELECT rowid FROM (SELECT rowid, started_at FROM contents ORDER BY rowid LIMIT ?) WHERE started_at < ?)"
)
"""Contents arrive nearly in the order of their time, so the oldest stand first and no index has to be kept for them."""
_NEXT_CONTENTS = "SELECT rowid, started_at FROM contents WHERE rowid > ? ORDER BY rowid LIMIT ?"
_SWEEP_PROJECTS = (
    "DELETE FROM contents WHERE rowid IN (SELECT c.rowid FROM contents c LEFT JOIN generations g USING (request_id)"
    " WHERE c.rowid > ? AND c.rowid <= ? AND c.started_at < coalesce((SELECT value FROM json_each(?) WHERE key = g.project), ?))"
)
_OLDEST_CONTENTS = (
    "SELECT rowid, length(CAST(coalesce(input, '') AS BLOB)) + length(CAST(coalesce(output, '') AS BLOB)) AS bytes"
    " FROM contents ORDER BY rowid LIMIT ?"
)
_DELETE_CONTENTS = "DELETE FROM contents WHERE rowid <= ?"
_OLDEST_ROWS = (
    "SELECT position, request_id FROM generations WHERE started_at < ? AND position < (SELECT max(position) FROM generations)"
    " ORDER BY started_at LIMIT ?"
)
_DELETE_CONTENTS_OF = "DELETE FROM contents WHERE request_id IN (SELECT value FROM json_each(?))"
_DELETE_ROWS = "DELETE FROM generations WHERE position IN (SELECT value FROM json_each(?))"
_USED = (
    "SELECT (pages.page_count - free.freelist_count) * size.page_size AS bytes"
    " FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size"
)
_SPAN_OF_CONTENTS = "SELECT coalesce(max(rowid) - min(rowid), 0) AS rows FROM contents"


@dataclass(frozen=True)
class Rules:
    """What is to be kept, from when on, and how much."""

    content_since: float
    projects_since: Mapping[str, float]
    """For projects that say otherwise of their own."""
    rows_since: float | None
    spare_rows_since: float
    """Where there is too much, rows from before may go."""
    max_bytes: int

    @classmethod
    def of(cls, settings: LogsConfig, config: Config, own: Mapping[str, int]) -> Rules:
        """As things stand now; `own` is the retention of content of projects that have one of their own."""
        now, default = time.time(), config.project.content_retention_days
        days = settings.row_retention_days
        return cls(
            content_since=now - default * SECONDS_PER_DAY,
            projects_since={name: now - kept * SECONDS_PER_DAY for name, kept in own.items() if kept != default},
            rows_since=now - days * SECONDS_PER_DAY if days else None,
            spare_rows_since=now - LEAST_ROW_DAYS * SECONDS_PER_DAY,
            max_bytes=settings.max_bytes,
        )


async def sweep(db: Database, rules: Rules) -> AsyncIterator[int]:
    """Delete what may go, a transaction for each step; yields how many rows or contents it deleted."""
    [before] = await db.scan_logs(_SPAN_OF_CONTENTS)
    deleted = 0
    for part in (_old_content(db, rules), _old_rows(db, rules.rows_since)):
        async for count in part:
            deleted += count
            yield count
    if deleted > STALE_SHARE * before["rows"]:
        async for count in _whole_merge(db):
            yield count
    if rules.max_bytes:
        async for count in _by_size(db, rules):
            yield count


async def used_bytes(db: Database) -> int:
    """What the database holds, without the pages that are free to be used again."""
    return int((await db.scan_logs(_USED))[0]["bytes"])


async def _old_content(db: Database, rules: Rules) -> AsyncIterator[int]:
    slices = Slices(db)
    if not rules.projects_since:
        while count := await slices.run(partial(_sweep, before=rules.content_since)):
            yield count
        return
    walk = _Walk(rules)
    while await slices.run(walk.step):
        yield walk.deleted


async def _sweep(db: Connection, rows: int, before: float) -> int:
    async with db.execute(_SWEEP, (rows, before)) as cursor:
        return cursor.rowcount


class _Walk:
    """Goes through the contents, oldest first, while any project's may be too old."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._after = 0
        self.deleted = 0
        """By the last step."""

    async def step(self, db: Connection, rows: int) -> int:
        """Delete what is too old among some contents; how many those were."""
        found = [tuple(row) for row in await db.execute_fetchall(_NEXT_CONTENTS, (self._after, rows))]
        latest = max(self._rules.content_since, *self._rules.projects_since.values())
        if not found or found[0][1] >= latest:
            return 0
        last = found[-1][0]
        projects = orjson.dumps(dict(self._rules.projects_since)).decode()
        async with db.execute(_SWEEP_PROJECTS, (self._after, last, projects, self._rules.content_since)) as cursor:
            self.deleted = cursor.rowcount
        self._after = last
        return len(found)


async def _old_rows(db: Database, before: float | None) -> AsyncIterator[int]:
    slices = Slices(db)
    while before is not None and (count := await slices.run(partial(_delete_rows, before=before))):
        yield count


async def _delete_rows(db: Connection, rows: int, before: float) -> int:
    found = [tuple(row) for row in await db.execute_fetchall(_OLDEST_ROWS, (before, rows))]
    await db.execute(_DELETE_CONTENTS_OF, (orjson.dumps([request_id for _, request_id in found]).decode(),))
    await db.execute(_DELETE_ROWS, (orjson.dumps([position for position, _ in found]).decode(),))
    return len(found)


async def _by_size(db: Database, rules: Rules) -> AsyncIterator[int]:
    """An index gives back what a deleted row took only when it is merged, so that comes before the next look.

    Half of what is too much is in content, about, and half in its place in an index and in pages that are not full.
    """
    if await used_bytes(db) <= rules.max_bytes:
        return
    enough = int(ROOM * rules.max_bytes)
    while (excess := await used_bytes(db) - enough) > 0:
        deleted = 0
        async for count in _oldest(db, rules, excess // 2 + 1):
            deleted += count
            yield count
        if not deleted:
            return
        async for count in _whole_merge(db):
            yield count


async def _oldest(db: Database, rules: Rules, excess: int) -> AsyncIterator[int]:
    """Delete content of so many bytes, oldest first; where there is not that much, the oldest rows that may go."""
    contents, rows = _Oldest(excess), Slices(db)
    slices = Slices(db)
    while contents.excess > 0 and (count := await slices.run(contents.step)):
        yield count
    while contents.excess > 0 and (count := await rows.run(partial(_delete_rows, before=rules.spare_rows_since))):
        contents.excess -= count * ROW_BYTES
        yield count


class _Oldest:
    """Deletes the oldest contents until they come to so many bytes."""

    def __init__(self, excess: int) -> None:
        self.excess = excess

    async def step(self, db: Connection, rows: int) -> int:
        count, last = 0, 0
        for rowid, size in await db.execute_fetchall(_OLDEST_CONTENTS, (rows,)):
            if self.excess <= 0:
                break
            count, last, self.excess = count + 1, rowid, self.excess - size
        await db.execute(_DELETE_CONTENTS, (last,))
        return count


async def _whole_merge(db: Database) -> AsyncIterator[int]:
    for index in INDEXES:
        await db.write_logs(partial(begin_whole_merge, index=index))
        while await db.write_logs(partial(merge, index=index)):
            yield 0

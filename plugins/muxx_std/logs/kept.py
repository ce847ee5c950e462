"""What the log keeps at the moment, how much space it takes, and what its settings will delete next."""

from __future__ import annotations

from typing import Any

import orjson

from muxx import Database, iso_time

from .retention import Rules, used_bytes

_HAS_SIZES = "SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'"
_SIZES = (
    "SELECT CASE WHEN m.tbl_name = 'generations' THEN 'rows' WHEN m.tbl_name = 'contents' THEN 'content'"
    " WHEN m.tbl_name LIKE 'logs\\_%' ESCAPE '\\' THEN 'index' ELSE 'others' END AS part, sum(s.pgsize) AS bytes"
    " FROM dbstat AS s LEFT JOIN sqlite_master AS m ON m.name = s.name WHERE s.aggregate = TRUE GROUP BY part"
)
_FILE = (
    "SELECT pages.page_count * size.page_size AS bytes, free.freelist_count * size.page_size AS free"
    " FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size"
)
_ROWS = "SELECT count(*) AS count, min(started_at) AS oldest, coalesce(sum(started_at < ?), 0) AS due FROM generations"
_CONTENT = (
    "SELECT count(*) AS count, min(c.started_at) AS oldest,"
    " coalesce(sum(c.started_at < coalesce((SELECT value FROM json_each(?) WHERE key = g.project), ?)), 0) AS due"
    " FROM contents AS c LEFT JOIN generations AS g USING (request_id)"
)
_WAITING = (
    "SELECT i.name, (SELECT count(*) FROM generations AS g WHERE g.position > i.position) AS waiting"
    " FROM logs_indexed AS i ORDER BY i.name"
)


async def overview(db: Database, rules: Rules) -> dict[str, Any]:
    """Counts, oldest and bytes of each part. Bytes of a part are None where SQLite cannot say."""
    projects = orjson.dumps(dict(rules.projects_since)).decode()
    [rows] = await db.scan_logs(_ROWS, (rules.rows_since,))
    [content] = await db.scan_logs(_CONTENT, (projects, rules.content_since))
    [file] = await db.scan_logs(_FILE)
    sizes = {row["part"]: row["bytes"] for row in await db.scan_logs(_SIZES)} if await db.scan_logs(_HAS_SIZES) else {}
    used = await used_bytes(db)
    return {
        "content": {**_part(content), "bytes": sizes.get("content")},
        "rows": {**_part(rows), "bytes": sizes.get("rows")},
        "index": {
            "bytes": sizes.get("index"),
            "waiting": {row["name"]: row["waiting"] for row in await db.scan_logs(_WAITING)},
        },
        "file": {
            "bytes": file["bytes"],
            "free_bytes": file["free"],
            "max_bytes": rules.max_bytes or None,
            "too_many_bytes": max(used - rules.max_bytes, 0) if rules.max_bytes else 0,
        },
    }


def _part(row: Any) -> dict[str, Any]:
    oldest = row["oldest"]
    return {"count": row["count"], "oldest": None if oldest is None else iso_time(oldest), "due": row["due"]}

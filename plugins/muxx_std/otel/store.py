"""Which rows of the log have been sent: a position, and what stands behind it.

A row is sent once, as it is some seconds after its answer has ended. What comes to be amended later is in the log.
"""

from __future__ import annotations

from typing import Any

from muxx import Connection, Database, Migration

MIGRATIONS = (Migration("logs", "CREATE TABLE otel_state (position INTEGER NOT NULL) STRICT"),)

_BEFORE = (
    "SELECT coalesce((SELECT min(position) - 1 FROM generations WHERE started_at >= ?),"
    " (SELECT max(position) FROM generations), 0)"
)
"""The position before all rows that began since. A row's position is from when it ended."""
_REACHED = "SELECT min(position, coalesce((SELECT max(position) FROM generations), 0)) FROM otel_state"
"""Positions are given again when the last rows have been deleted, so it never lies beyond the last one there is."""
_BEHIND = (
    "SELECT position, request_id, started_at, first_token_ms, duration_ms, project, environment, user_id, metadata, client_ip,"
    " endpoint, provider, model_requested, model, stream, status, ended_by, phase, attempts, input_tokens, output_tokens,"
    " cache_read_tokens, cache_write_tokens, reasoning_tokens, usage_source, cost_pico, saved_pico, cache, finish_reasons,"
    " error_code, attributes FROM generations WHERE position > ? ORDER BY position LIMIT ?"
)


async def begin(db: Database, since: float) -> None:
    """From now on rows are sent, with those that began since a moment (Unix seconds) if this is the first time."""
    if not await db.read_logs("SELECT 1 FROM otel_state"):
        [(position,)] = await db.scan_logs(_BEFORE, (since,))
        await _write(db, "INSERT INTO otel_state SELECT ? WHERE NOT EXISTS (SELECT 1 FROM otel_state)", position)


async def waiting(db: Database, since: float, most: int) -> list[dict[str, Any]]:
    """The next rows that are not sent yet, but for those that began before a moment."""
    [(reached,)] = await db.read_logs(_REACHED)
    rows = await db.read_logs(_BEHIND, (reached, most))
    if rows and rows[0]["started_at"] < since:
        [(before,)] = await db.scan_logs(_BEFORE, (since,))
        rows = await db.read_logs(_BEHIND, (max(reached, before), most))
    return [dict(row) for row in rows]


async def sent(db: Database, position: int) -> None:
    await _write(db, "UPDATE otel_state SET position = ?", position)


async def _write(db: Database, sql: str, position: int) -> None:
    async def write(writer: Connection) -> None:
        await writer.execute(sql, (position,))

    await db.write_logs(write)

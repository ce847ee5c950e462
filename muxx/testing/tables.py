"""What the log database holds, as text to be compared."""

from __future__ import annotations

import aiosqlite

from muxx.gateway import Gateway

NOT_COMPARED = ("sqlite_", "journal_positions", "open_requests", "rejected_records", "logs_", "analytics_")
"""How names of tables begin in which the recorder notes how far it is, or which follow the rows in a time of their own."""

_OBJECTS = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"


async def log_tables(gateway: Gateway) -> list[str]:
    """Every row and every table of the plugins in the gateway's log database, in no order but the text's."""
    connection = await aiosqlite.connect(f"file:{gateway.host.paths.logs}?mode=ro", uri=True)
    try:
        lines = []
        for name, sql in await connection.execute_fetchall(_OBJECTS):
            if not name.startswith(NOT_COMPARED):
                rows = await connection.execute_fetchall('SELECT * FROM "' + name.replace('"', '""') + '"')
                lines += [sql, *(f"{name} {tuple(row)!r}" for row in rows)]
    finally:
        await connection.close()
    return sorted(lines)

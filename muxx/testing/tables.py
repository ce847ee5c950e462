"""What the log database holds, as text to be compared."""

from __future__ import annotations

import aiosqlite

from muxx.gateway import Gateway

RECORDERS = ("journal_positions", "open_requests", "rejected_records")
"""Tables in which the recorder notes how far it is."""


async def log_tables(gateway: Gateway) -> list[str]:
    """Every row and every table of the plugins in the gateway's log database, in no order but the text's."""
    connection = await aiosqlite.connect(f"file:{gateway.host.paths.logs}?mode=ro", uri=True)
    try:
        lines = [line async for line in connection.iterdump()]
    finally:
        await connection.close()
    return sorted(line for line in lines if not any(f'INTO "{table}"' in line for table in RECORDERS))

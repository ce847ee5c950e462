"""The hooks and routes: rows in through the recorder, rows out through `/v1/logs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import orjson

from muxx import (
    Asked,
    Connection,
    Database,
    HttpRequest,
    InvalidRequest,
    NotFound,
    Record,
    Reply,
    Route,
    find_record,
    hookimpl,
)

from . import described, exporting, filters
from .present import generation
from .schema import MIGRATIONS, content_value
from .settings import LogsConfig
from .store import LogReader, LogWriter
from .upkeep import EVERY_SECONDS, Upkeep

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from muxx import Gateway

MAX_ID = 100


async def find_generation(db: Database, journal: Path, request_id: str) -> dict[str, Any] | None:
    """One row with its content, as soon as its answer has ended.

    It is in the database, or in the journal, or it moved from the second to the first while we looked: so the database is asked
    once more. A request still in flight has no row yet. Any string may be asked for.
    """
    if not request_id.isascii() or len(request_id) > MAX_ID:
        return None
    reader = LogReader(db)
    found = await reader.one(request_id)
    if found is None:
        record = await asyncio.to_thread(find_record, journal, request_id)
        found = await reader.one(request_id) if record is None else _readable(record)
    return found


def _readable(record: Record) -> dict[str, Any]:
    """A row from the journal as one from the database is read: content as JSON values."""
    return {**record, "input": content_value(record["input"]), "output": content_value(record["output"])}


class Logs:
    """Keeps the generations. The recorder alone writes them; everyone else reads, or deletes what is past its time."""

    migrations = MIGRATIONS

    Config = LogsConfig

    def __init__(self, config: LogsConfig) -> None:
        self._settings = config
        self._writer = LogWriter()

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        upkeep = Upkeep(gateway, self._settings)
        gateway.every(EVERY_SECONDS, upkeep.round, name="logs.upkeep", once_per_host=True)
        yield

    @hookimpl
    async def record(self, db: Connection, records: list[Record]) -> None:
        """Store the batch, in the recorder's transaction."""
        await self._writer.store(db, records)

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        return [
            Route("GET", "/v1/logs", list_logs, query=described.QUERY, answer=described.GENERATIONS),
            Route("GET", "/v1/logs/{request_id}", get_log, query=Asked, answer=described.GENERATION),
            exporting.ROUTE,
        ]

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import logs
        from .retentioncommands import retention

        logs.add_command(retention)
        cli.add_command(logs)


async def list_logs(gateway: Gateway, request: HttpRequest) -> Reply:
    """Requests and what became of them, newest first. Their content comes with the single row; `metadata.KEY` filters by a
    member of the metadata."""
    filter, page = filters.parse(request.query_once, filters.asking(request))
    found = await LogReader(gateway.db, decode=orjson.Fragment).page(filter, page)
    if found is None:
        raise InvalidRequest("after must be the request_id of a row you have been given.", param="after")
    rows = [generation(record) for record in found.rows]
    return Reply.json({"object": "list", "data": rows, "has_more": found.next is not None, "next": found.next})


async def get_log(gateway: Gateway, request: HttpRequest) -> Reply:
    """One request, with what was asked and answered. Another project's is answered exactly as one that does not exist."""
    identity = filters.asking(request)
    record = await find_generation(gateway.db, gateway.host.paths.journal, request.params["request_id"])
    if record is None or (identity.role != "admin" and record["project"] != identity.project):
        raise NotFound("There is no such request. Its id is in the X-Muxx-Request-Id header of the answer.")
    return Reply.json(generation(record))

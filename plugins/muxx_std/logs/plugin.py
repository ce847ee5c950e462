"""The hooks and routes: rows in through the recorder, rows out through `/v1/logs`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson

from muxx import (
    Connection,
    Database,
    HttpRequest,
    Identity,
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
from .store import LogReader, store, sweep, sweep_projects

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from muxx import Gateway

SECONDS_PER_DAY = 86_400
SWEEP_EVERY = 3600.0
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
    """Keeps the generations. The recorder is the only writer; everyone else reads."""

    migrations = MIGRATIONS

    def __init__(self) -> None:
        self._sweep_due = 0.0
        self._swept_to = 0
        """How far a sweep by projects has come."""

    @hookimpl
    async def record(self, gateway: Gateway, db: Connection, records: list[Record]) -> None:
        """Store the batch, and now and then delete content past its retention; both are part of the recorder's transaction."""
        await store(db, records)
        if time.monotonic() >= self._sweep_due and not await self._sweep(gateway, db):
            self._sweep_due = time.monotonic() + SWEEP_EVERY

    async def _sweep(self, gateway: Gateway, db: Connection) -> bool:
        """Delete some content past its project's retention; False when none is left."""
        now, default = time.time(), gateway.config.project.content_retention_days
        own = {name: settings.content_retention_days for name, settings in gateway.projects.own_settings().items()}
        before = now - default * SECONDS_PER_DAY
        limits = {name: now - days * SECONDS_PER_DAY for name, days in own.items() if days != default}
        if not limits:
            return await sweep(db, before)
        reached = await sweep_projects(db, self._swept_to, before, limits)
        self._swept_to = reached or 0
        return reached is not None

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        return [
            Route("GET", "/v1/logs", list_logs, query=described.QUERY, answer=described.GENERATIONS),
            Route("GET", "/v1/logs/{request_id}", get_log, answer=described.GENERATION),
            exporting.ROUTE,
        ]

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import logs

        cli.add_command(logs)


async def list_logs(gateway: Gateway, request: HttpRequest) -> Reply:
    """Requests and what became of them, newest first. Their content comes with the single row; `metadata.KEY` filters by a
    member of the metadata."""
    filter, page = filters.parse(request.query, _identity(request))
    found = await LogReader(gateway.db, decode=orjson.Fragment).page(filter, page)
    if found is None:
        raise InvalidRequest("after must be the request_id of a row you have been given.", param="after")
    records, more = found
    return Reply.json({"object": "list", "data": [generation(record) for record in records], "has_more": more})


async def get_log(gateway: Gateway, request: HttpRequest) -> Reply:
    """One request, with what was asked and answered. Another project's is answered exactly as one that does not exist."""
    identity = _identity(request)
    record = await find_generation(gateway.db, gateway.host.paths.journal, request.params["request_id"])
    if record is None or (identity.role != "admin" and record["project"] != identity.project):
        raise NotFound("There is no such request. Its id is in the X-Muxx-Request-Id header of the answer.")
    return Reply.json(generation(record))


def _identity(request: HttpRequest) -> Identity:
    if request.identity is None:
        raise RuntimeError("the kernel calls a project's route with an identity")
    return request.identity

"""A plugin of which there is much to be said, though muxx would take it."""

from __future__ import annotations

import time

import muxx
from muxx.plugins import Step

SHARED: list[str] = []
KEPT = muxx.StateKey[int]("careless.kept")


class Careless:
    seen: list[str] = []  # noqa: RUF012
    steps: tuple[Step, ...] = ()

    class Config(muxx.PluginConfig):
        api_key: str = ""

    migrations = (muxx.Migration("logs", "CREATE TABLE counts (request_id TEXT) STRICT"),)

    def __init__(self, config: Config) -> None:
        pass

    def on_chunks(self) -> None: ...

    @muxx.hookimpl
    def on_chunk(self) -> None: ...

    @muxx.hookimpl
    def pre_request(self, exchange: muxx.Exchange) -> None:
        time.sleep(0.06)
        SHARED.append(exchange.id)
        exchange.state[KEPT] = 1

    @muxx.hookimpl
    def post_response(self, exchange: muxx.Exchange) -> None:
        exchange.state[KEPT]

    @muxx.hookimpl
    async def record(self, db: muxx.Connection, records: list[muxx.Record]) -> None:
        await db.executemany("INSERT INTO counts VALUES (?)", [(r["request_id"],) for r in records])

"""A host with the plugin `logs`, rows to give it, and callers who ask for them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import aiosqlite
import click
from click.testing import CliRunner, Result
from multidict import CIMultiDict, CIMultiDictProxy

from muxx import Gateway, Host, HttpRequest, Identity, ProjectSettings, Record, load_config
from muxx_std.logs import Logs
from muxx_std.logs.schema import MIGRATIONS
from muxx_std.logs.settings import LogsConfig
from muxx_std.logs.upkeep import Upkeep

SHOP = Identity("shop")
RIVAL = Identity("rival")
ADMIN = Identity("", "admin", "admin")
START = 1_795_000_000.0


def record(number: int = 1, **changes: Any) -> Record:
    """A whole row of project `shop`; `number` orders it in time."""
    row: Record = {
        "request_id": f"req_{number:06d}",
        "started_at": START + number,
        "first_token_ms": 12.5,
        "duration_ms": 100.0 + number,
        "project": "shop",
        "key_id": "key_1",
        "key_prefix": "muxx_sk_live_",
        "key_last4": "abcd",
        "environment": "live",
        "user_id": "u1",
        "metadata": {"feature": "search", "n": 2, "on": True},
        "client_ip": "127.0.0.1",
        "endpoint": "/v1/chat/completions",
        "provider": "openai",
        "model_requested": "gpt-4o",
        "model": "gpt-4o-2024-08-06",
        "stream": True,
        "status": 200,
        "ended_by": None,
        "phase": None,
        "attempts": 1,
        "input_tokens": 11,
        "output_tokens": 7,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "usage_source": "provider",
        "input_cost_pico": 27_500_000,
        "output_cost_pico": 70_000_000,
        "cost_pico": 97_500_000,
        "saved_pico": None,
        "price_version": "2026-11-01",
        "cache": "miss",
        "finish_reasons": ["stop"],
        "error_code": None,
        "attributes": {},
        "input": b'{"messages":[{"role":"user","content":"where is my order?"}]}',
        "output": b'"It is on its way."',
    }
    row.update(cast(Record, changes))
    return row


class Bench:
    """A host, the plugin on it, the recorder's hand, and callers."""

    def __init__(self, host: Host, config: Path) -> None:
        self.host = host
        self.config = config
        self.own: dict[str, ProjectSettings] = {}
        projects = SimpleNamespace(own_settings=lambda: self.own)
        log = logging.getLogger("muxx")
        self.gateway = cast(Gateway, SimpleNamespace(db=host.db, host=host, config=host.config, projects=projects, log=log))
        self.logs = Logs(LogsConfig())

    async def record(self, *records: Record) -> None:
        async with aiosqlite.connect(self.host.paths.logs) as db:
            await self.logs.record(db, list(records))
            await db.commit()

    async def keep_up(self, **settings: Any) -> None:
        """Have the upkeep do all that there is to do."""
        upkeep = Upkeep(self.gateway, LogsConfig(**settings))
        while not upkeep.caught_up:
            await upkeep.round()

    async def call(self, path: str, identity: Identity = SHOP, query: str = "", **params: str) -> Any:
        request = HttpRequest("GET", path, query, CIMultiDictProxy(CIMultiDict()), "127.0.0.1")
        request.identity, request.params = identity, params
        route = next(r for r in self.logs.register_routes() if r.path == path)
        assert route.role == "project"
        reply = await route.handler(self.gateway, request)
        return json.loads(reply.body)

    async def list(self, identity: Identity = SHOP, **query: Any) -> Any:
        return await self.call("/v1/logs", identity, urlencode({name.rstrip("_"): value for name, value in query.items()}))

    async def ids(self, identity: Identity = SHOP, **query: Any) -> list[int]:
        return [int(row["request_id"][4:]) for row in (await self.list(identity, **query))["data"]]

    async def get(self, request_id: str, identity: Identity = SHOP) -> Any:
        return await self.call("/v1/logs/{request_id}", identity, request_id=request_id)

    async def run(self, *arguments: str) -> Result:
        return await asyncio.to_thread(muxx, self.config, *arguments)


def muxx(config: Path, *arguments: str) -> Result:
    cli = click.Group()
    Logs(LogsConfig()).register_commands(cli)
    return CliRunner().invoke(cli, ["logs", arguments[0], "--config", str(config), *arguments[1:]])


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Bench]:
    path = directory / "muxx.toml"
    path.write_text('[database]\npath = "muxx.db"\n')
    async with Host.open(load_config(path)) as host:
        await host.db.migrate("logs", MIGRATIONS)
        yield Bench(host, path)

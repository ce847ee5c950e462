"""The hooks: add rows to the sums, tell what runs, and show both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from muxx import HttpRequest, PluginConfig, Reply, Route, __version__, hookimpl

from .running import EVERY_SECONDS, read, tell
from .schema import MIGRATIONS, READ, catch_up

if TYPE_CHECKING:
    from pathlib import Path

    from muxx import Gateway

    from .exposition import Gauges

ADD_EVERY_SECONDS = 2.0
KEPT_SECONDS = 1.0
"""How long a text is given again: whoever may ask cannot make it more work than that."""


class MetricsConfig(PluginConfig):
    public: bool = True
    """Anybody who reaches muxx may read `GET /metrics`, as `/healthz`; false: it takes an admin key."""
    max_models: int = Field(200, ge=1, le=10_000)
    """How many models are told apart; those beyond are `other`."""


class Metrics:
    """`GET /metrics`. What it tells of requests, one process of the host sums up from the log: no request works for it."""

    Config = MetricsConfig
    migrations = MIGRATIONS

    def __init__(self, config: MetricsConfig) -> None:
        self._config = config
        self._making = asyncio.Lock()
        self._made: dict[bool, tuple[float, Reply]] = {}
        """What was answered last, and when, by whether that was in OpenMetrics' format."""

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        async def report() -> None:
            tell(gateway)

        if gateway.worker >= 0:
            tell(gateway)
        gateway.every(EVERY_SECONDS, report, name="metrics.running")
        if await gateway.db.has_table("logs", "generations"):
            add = partial(catch_up, gateway.db, self._config.max_models)
            gateway.every(ADD_EVERY_SECONDS, add, name="metrics.sums", once_per_host=True)
        yield

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        role: Literal["public", "admin"] = "public" if self._config.public else "admin"
        yield Route("GET", "/metrics", self.show, role, content_types=("text/plain", "application/openmetrics-text"))

    async def show(self, gateway: Gateway, request: HttpRequest) -> Reply:
        """Metrics of the host in Prometheus' text format, or in OpenMetrics' where `Accept` prefers that."""
        accept = request.headers.get("Accept", "")
        form = "application/openmetrics-text" in accept
        async with self._making:
            made = self._made.get(form)
            if made is None or time.monotonic() - made[0] > KEPT_SECONDS:
                made = self._made[form] = time.monotonic(), await _made(gateway, accept)
            return made[1]


async def _made(gateway: Gateway, accept: str) -> Reply:
    rows = [dict(row) for row in await gateway.db.read_logs(READ)]

    def make() -> Reply:
        from .exposition import exposition  # here, as it takes a while to load, and many a muxx is never asked

        text, content_type = exposition(rows, _gauges(gateway), accept)
        return Reply(text, content_type=content_type)

    return await asyncio.to_thread(make)


def _gauges(gateway: Gateway) -> Gauges:
    from .exposition import Gauges

    paths, shared = gateway.host.paths, gateway.shared
    journal = sum(map(_size, paths.journal.glob("*.seg")))
    sizes = {"main": _size(paths.database), "logs": _size(paths.logs), "journal": journal}
    reloads = {result: shared.version(f"reloads.{result}") for result in ("done", "refused")}
    return Gauges(__version__, read(shared), sizes, reloads)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the recorder removes what it has stored
        return 0

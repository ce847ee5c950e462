"""The hooks: one process of the host sends spans, of what is in the log. No request works for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from muxx import hookimpl

from .settings import OtelConfig
from .store import MIGRATIONS, begin

if TYPE_CHECKING:
    from muxx import Gateway

    from .collector import Collector

LOOKED_EVERY = 2.0
"""Seconds between two looks at the log."""
BEFORE = 60.0
"""Seconds of the log that are sent when the plugin is switched on for the first time: workers serve before the first look."""


class Traces:
    """Does nothing without an endpoint."""

    Config = OtelConfig
    migrations = MIGRATIONS

    def __init__(self, config: OtelConfig) -> None:
        self._config = config

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        if self._config.endpoint:
            if await gateway.db.has_table("logs", "generations"):
                gateway.every(LOOKED_EVERY, self._sender(gateway), name="otel.send", once_per_host=True)
            else:
                gateway.log.warning("[plugins.otel] sends nothing: spans are made of the log, and the plugin logs is off")
        yield

    def _sender(self, gateway: Gateway) -> Callable[[], Awaitable[None]]:
        collector: Collector | None = None

        async def send() -> None:
            nonlocal collector
            if collector is None:
                from .collector import Collector  # here, as only one process of the host needs what it loads

                await begin(gateway.db, time.time() - BEFORE)
                collector = Collector(gateway, self._config)
            await collector.look()

        return send

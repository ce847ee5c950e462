"""The hooks: keep the sums, and show them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING

from muxx import Route, hookimpl

from .fold import catch_up, watch
from .schema import MIGRATIONS

if TYPE_CHECKING:
    import click

    from muxx import Gateway

FOLD_EVERY = 1.0
"""Seconds between two looks for enough rows to add."""


class Analytics:
    """Keeps sums of the log's rows. One process of the host adds to them, beside the recorder, which loses no time with it."""

    migrations = MIGRATIONS

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        if await watch(gateway.db):
            gateway.every(FOLD_EVERY, partial(catch_up, gateway.db), name="analytics.fold", once_per_host=True)
        yield

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import costs

        cli.add_command(costs)

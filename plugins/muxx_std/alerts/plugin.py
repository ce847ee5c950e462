"""The hooks: look at what requests came to, at what was spent, and take what is found to its receivers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from muxx import Exchange, Route, hookimpl

from .courier import Courier
from .message import facts, kind_of
from .rules import Crossing, rules_of
from .settings import AlertsConfig
from .spend import SpendWatch
from .store import MIGRATIONS, AlertStore, Event, Found

if TYPE_CHECKING:
    import click

    from muxx import Gateway

MOST_HELD = 10_000
"""Crossings of limits held until they are written, and those that are remembered as written."""
SOON = 1.0
"""Seconds until they are."""


class Alerts:
    """Tells of crossings, once each. Nothing here makes a request wait: what it crosses is noted in memory when it is over, and
    written a moment later. A crossing that is lost with its process is found again by the next request beyond the share."""

    Config = AlertsConfig
    migrations = MIGRATIONS

    def __init__(self, config: AlertsConfig) -> None:
        self.config = config
        self._held: dict[tuple[str, str, int, str], Crossing] = {}
        self._written: set[tuple[str, str, int, str]] = set()

    @hookimpl(tryfirst=True)
    def pre_request(self, exchange: Exchange) -> None:
        """Before the limits, which may refuse: a refused request's standings count too."""
        if exchange.project is not None and exchange.project.settings.watches_limits:
            exchange.at_end(self._look)

    def _look(self, exchange: Exchange) -> None:
        project = exchange.project
        if project is None or not exchange.standings:
            return
        for rule in rules_of(project.settings):
            for standing in exchange.standings:
                if standing.name == rule.measure and rule.crossed_by(standing.used):
                    self._hold(Crossing(project.name, rule, standing.used, standing.window, _user(exchange, rule.measure)))

    def _hold(self, crossing: Crossing) -> None:
        if crossing.key not in self._written and len(self._held) < MOST_HELD:
            self._held.setdefault(crossing.key, crossing)

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        watch, courier = SpendWatch(gateway), Courier(gateway, self.config)
        soon = min(SOON, self.config.check_every_s)

        async def write() -> None:
            await self._write(gateway)

        async def look() -> None:
            await self._note(gateway, await watch.look())

        gateway.every(soon, write, name="alerts.write")
        gateway.every(self.config.check_every_s, look, name="alerts.spend", once_per_host=True)
        gateway.every(soon, courier.look, name="alerts.deliveries", once_per_host=True)
        yield
        await self._write(gateway)

    async def _write(self, gateway: Gateway) -> None:
        """Write what is held. It stays held until that is done, for a database may be locked."""
        if not self._held:
            return
        held = list(self._held.values())
        await self._note(gateway, held)
        if len(self._written) > MOST_HELD:
            self._written.clear()  # the table knows them as well
        for crossing in held:
            self._written.add(crossing.key)
            self._held.pop(crossing.key, None)

    async def _note(self, gateway: Gateway, crossings: Sequence[Crossing]) -> None:
        found = [self._found(crossing) for crossing in crossings]
        for event in await AlertStore(gateway.db).note(found):
            gateway.log.warning("alert %s: %s %s", event.id, event.facts["project"], event.facts["alert"])

    def _found(self, crossing: Crossing) -> Found:
        event = Event.now(kind_of(crossing.rule), facts(crossing))
        return Found(crossing, event, self.config.chosen(crossing.rule.to))

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import alerts

        cli.add_command(alerts)


def _user(exchange: Exchange, measure: str) -> str:
    """Whose limit it is: a user's by itself, or the project's. Any bytes may be a user, and only text can be written."""
    if not measure.startswith("user_"):
        return ""
    return (exchange.request.user_id or "").encode("utf-8", "replace").decode()

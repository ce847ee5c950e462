"""The hooks: hold money before a request goes up, settle it at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from muxx import PluginConfig, Route, SpendCapExceeded, Unavailable, hookimpl, pico_of

from .account import DAY_SECONDS
from .holds import NoRoom
from .ledger import Reached, SpendLedger
from .present import dollars
from .refill import CEILING, DAY, Adjustments, recover, refill
from .worst import worst_case

if TYPE_CHECKING:
    import click

    from muxx import Attempt, Exchange, Gateway, SpendCap

    from .tally import Held

RECOVER_SECONDS = 2.0
ADJUST_SECONDS = 1.0
FLUSH_SECONDS = 0.25
"""What no cap waits for is added up so often. Its holds are in the shared file meanwhile, so nothing is lost with a process."""
EPOCH = date(1970, 1, 1)
NAMES = {"day": "Daily", "month": "Monthly"}


class SpendCapsConfig(PluginConfig):
    unpriced_request_usd: Decimal | None = Field(None, gt=0, le=4_000_000, max_digits=19, decimal_places=12)
    """What one request to a model of unknown price counts as; left out: a project with a spend cap cannot use such models."""


class SpendCaps:
    """Every request that goes up is counted, also where no cap is set, so that one that is set today knows what was spent before.

    A hit, a joined call and a plugin's own answer go up to nobody: they hold nothing and cost nothing.
    """

    Config = SpendCapsConfig

    def __init__(self, config: SpendCapsConfig) -> None:
        self._ceiling = None if config.unpriced_request_usd is None else pico_of(config.unpriced_request_usd)
        self._ledger: SpendLedger | None = None
        self._held: dict[str, Held] = {}
        """What requests that are under way hold, by their ids."""

    @hookimpl
    def pre_attempt(self, gateway: Gateway, exchange: Exchange, attempt: Attempt) -> None:
        project = exchange.project
        if project is None:
            return
        ledger = self._ledger
        if ledger is None:
            ledger = self._ledger = SpendLedger(gateway.shared)
        caps = project.settings.spend_caps and [cap for cap in project.settings.spend_caps if cap.action == "block"]
        if exchange.id in self._held:
            return
        if caps:
            # Behind all plugins: what is held is what the attempt may cost that is going to be sent, whatever they make of it.
            exchange.before_attempt(partial(self._hold, gateway, ledger, caps))
            return
        try:
            tally = ledger.tallies.get(project.name)
            if tally is None or exchange.timing.started_at // DAY_SECONDS != tally.day:
                tally = ledger.tally(project.name, self._day(ledger, exchange, project.name))
            self._held[exchange.id] = ledger.holds.take(tally, exchange.id)
        except NoRoom:
            raise crowded(gateway) from None
        exchange.at_end(self._settle)

    def _hold(
        self, gateway: Gateway, ledger: SpendLedger, caps: list[SpendCap], exchange: Exchange, attempt: Attempt
    ) -> None:
        """Hold the most the attempt may cost, or refuse it."""
        assert exchange.project is not None
        worst, held = self._worst(gateway, exchange, attempt), self._held.get(exchange.id)
        try:
            if held is None:
                day = self._day(ledger, exchange, exchange.project.name)
                answer = ledger.hold(exchange.project.name, caps, day, exchange.id, worst)
            else:
                answer = ledger.raise_to(held, caps, worst)
        except NoRoom:
            raise crowded(gateway) from None
        if isinstance(answer, Reached):
            raise refusal(answer, worst)
        if held is None:
            self._held[exchange.id] = answer
            exchange.at_end(self._settle)
        exchange.held_pico = answer.pico

    def _worst(self, gateway: Gateway, exchange: Exchange, attempt: Attempt) -> int:
        """The most the attempt may cost, in pico-dollars; the ceiling for a model whose price is unknown."""
        if attempt.body.get("background"):
            raise SpendCapExceeded(
                "What an answer comes to that is made in the background is never known here, so it cannot be held within the"
                " project's spend cap. Ask without `background`.",
                param="background",
            )
        price = partial(gateway.price, at=exchange.timing.started_at)
        worst = worst_case(price, attempt, exchange.operation)
        if worst is not None:
            return worst
        if self._ceiling is None:
            raise SpendCapExceeded(
                "This model has no known price, so its cost cannot be held within the project's spend cap. Use another model, or"
                " ask the operator for its price ([plugins.pricing]) or a ceiling ([plugins.spend_caps] unpriced_request_usd).",
                param="model",
            )
        exchange.attributes[CEILING] = self._ceiling
        return self._ceiling

    def _day(self, ledger: SpendLedger, exchange: Exchange, project: str) -> int:
        """The day the request counts in. Where a clock that was set back says an earlier one, the row has it as an attribute."""
        began = int(exchange.timing.started_at // DAY_SECONDS)
        day = ledger.day_for(project, began)
        if day != began:
            exchange.attributes[DAY] = (EPOCH + timedelta(day)).isoformat()
        return day

    def _settle(self, exchange: Exchange) -> None:
        held, cost = self._held.pop(exchange.id), exchange.cost
        pico = exchange.attributes.get(CEILING, 0) if cost is None else cost.total_pico
        is_left = not exchange.recorded and any(attempt.sent for attempt in exchange.attempts)
        if not is_left and not held.pico:
            if held.tally.settle_soon(held, pico) and self._ledger is not None:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._ledger.flush)
        elif self._ledger is not None:
            (self._ledger.keep if is_left else self._ledger.settle)(held, pico)

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """See that what was spent before is known, and settle what processes that died have left."""
        ledger = self._ledger = SpendLedger(gateway.shared)
        ledger.open()
        await refill(ledger, gateway)
        adjustments = Adjustments(ledger, gateway)
        gateway.every(ADJUST_SECONDS, adjustments.follow, name="spend_caps.adjust", once_per_host=True)
        gateway.every(RECOVER_SECONDS, partial(recover, ledger, gateway), name="spend_caps.recover", once_per_host=True)
        yield
        ledger.flush()
        ledger.holds.close()

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import caps

        cli.add_command(caps)


def crowded(gateway: Gateway) -> Unavailable:
    gateway.log.error("spend caps: no room for one more project or request; the shared file counts as many as it can")
    return Unavailable("Too many requests are under way. Try again in a moment.")


def refusal(reached: Reached, worst: int) -> SpendCapExceeded:
    """The words of the contract; a request that would only have to be smaller is told so."""
    cap, current = reached
    text = f"Spend cap exceeded. {NAMES[cap.window]} limit: {dollars(cap.usd_pico)}, Current: {dollars(current)}"
    if current < cap.usd_pico:
        text += f". This request may cost up to {dollars(worst)}: send less, or set a lower max_tokens"
    return SpendCapExceeded(text)

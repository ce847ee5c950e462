"""Takes what waits in the outbox to its receivers, in one process of the host.

Each receiver has a task of its own while something is due to it, so that one that hangs holds up no other. What fails is tried
again after growing pauses, for a day.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from . import mail, webhook
from .settings import AlertsConfig
from .store import AlertStore, Due, Event, Outcome

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from muxx import Gateway

LONGEST_PAUSE = 3600.0
GIVEN_UP_AFTER = 86_400.0
CLAIMED_SECONDS = 5.0
"""How much longer than it may take a try is left alone; a delivery whose process died is tried again then."""
PRUNED_EVERY = 3600.0


async def send(http: ClientSession, config: AlertsConfig, receiver: str, event: Event) -> Outcome:
    """Try one delivery. It never raises: what cannot be sent at all must be given up some day, too."""
    known = config.receivers.get(receiver)
    if known is None:  # to us, who may be on our way out after a reload that brought it
        return Outcome(problem=config.no_such_receiver(receiver))
    try:
        if known.kind != "email":
            return await webhook.post(http, known, event)
        assert config.smtp is not None, "mail is checked to have a server"
        return await mail.send(config.smtp, known, event)
    except Exception as error:
        return Outcome(problem=f"it cannot be sent ({type(error).__name__})")


class Courier:
    def __init__(self, gateway: Gateway, config: AlertsConfig) -> None:
        self._gateway = gateway
        self._config = config
        self._store = AlertStore(gateway.db)
        self._busy: set[str] = set()
        self._prune_due = 0.0

    async def look(self) -> None:
        """Begin what is due."""
        for receiver in await self._store.due_receivers(time.time()):
            if receiver not in self._busy:
                self._busy.add(receiver)
                self._gateway.spawn(self._serve(receiver), name="alerts.delivery")
        if time.monotonic() >= self._prune_due:
            self._prune_due = time.monotonic() + PRUNED_EVERY
            await self._store.prune(time.time())

    async def _serve(self, receiver: str) -> None:
        try:
            while (due := await self._store.due(receiver, time.time())) is not None:
                await self._deliver(due)
        finally:
            self._busy.discard(receiver)

    async def _deliver(self, due: Due) -> None:
        now = time.time()
        if not await self._store.claim(due, now, now + self._longest(due.receiver) + CLAIMED_SECONDS):
            return
        outcome = await send(self._gateway.http, self._config, due.receiver, due.event)
        again_at = time.time() + self._pause(due.attempts)
        given_up = again_at > due.event.at + GIVEN_UP_AFTER
        await self._store.settle(due, outcome, None if given_up else again_at)
        if outcome.problem is not None:
            what_next = "it is given up" if given_up else f"it is tried again in {again_at - time.time():.0f} s"
            if outcome.in_part:
                what_next = "the others have it"
            self._gateway.log.warning(
                "alert %s was not delivered to %s: %s; %s", due.event.id, due.receiver, outcome.problem, what_next
            )

    def _longest(self, receiver: str) -> float:
        """Seconds that a try may take."""
        known = self._config.receivers.get(receiver)
        return mail.SECONDS if known is not None and known.kind == "email" else webhook.SECONDS

    def _pause(self, attempts: int) -> float:
        """Seconds after so many earlier tries; never quite the same, so that what failed together does not come together."""
        pause = min(self._config.first_retry_s * float(2 ** min(attempts, 20)), LONGEST_PAUSE)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries, no secret depends on it

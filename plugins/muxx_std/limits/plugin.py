"""The hooks: admit or refuse, say how the limits stand, and settle at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from muxx import Attempt, Exchange, Identity, Limits, PluginConfig, RateLimited, Route, StateKey, hookimpl

from .ledger import Ledger
from .refill import DayWatch, refill
from .reserve import reserve
from .subject import Standing, Subject, Ticket, Verdict

if TYPE_CHECKING:
    import click

    from muxx import Gateway

TICKET = StateKey[Ticket | None]("limits.ticket")
"""Where the request is counted; None once it has been refused after all."""

SOON = 1.0
"""Seconds until a limit of a day that is set has counted what the day has had."""

TOO_MANY = "This request may come to more tokens than the limit of {} per minute allows. Send less, or set a lower max_tokens."


class LimitsConfig(PluginConfig):
    guessed_output_tokens: int = Field(1024, ge=1, le=10_000_000)
    """Output tokens reserved for a request that names no most, until its usage is known."""


class Known(NamedTuple):
    """What limits the requests of a head, kept with it: the requests of a connection mostly share theirs."""

    identity: Identity | None
    limits: Limits
    user: str | None
    subject: Subject | None


class RateLimits:
    """First in `pre_request`, so that what is refused costs nothing else. Where a project has no limit, nothing happens.

    Requests are counted there, and tokens before the first upstream call: an answer that takes none needs no room for any. What
    is refused after it was admitted, before anything was sent for it, gives back what it was counted as. A hit, or an answer
    shared with another request, is a request of no tokens. What plugins ask for themselves (`gateway.call`) is part of the
    client's request and not counted.
    """

    Config = LimitsConfig

    def __init__(self, config: LimitsConfig) -> None:
        self._guess = config.guessed_output_tokens
        self._ledger: Ledger | None = None

    @hookimpl(tryfirst=True)
    def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        project = exchange.project
        if project is None or project.settings.limits is None or exchange.parent is not None:
            return
        ledger = self._ledger = self._ledger or _begun(gateway)
        subject = self._subject(ledger, exchange, project.name, project.settings.limits)
        if subject is None:
            return
        tokens = self._tokens(exchange, subject) if subject.most_tokens else 0
        verdict = ledger.admit(subject, tokens or 0, tell=project.settings.watches_limits)
        tell(exchange, verdict)
        if verdict.ticket is None:
            raise refusal(verdict)
        exchange.state[TICKET] = verdict.ticket
        exchange.at_end(self._settle)
        if subject.most_tokens:
            exchange.before_attempt(self._reserve)

    def _reserve(self, exchange: Exchange, _: Attempt) -> None:
        ticket, project, ledger = exchange.state.get(TICKET), exchange.project, self._ledger
        if ticket is None or ticket.reserved or project is None or ledger is None:
            return
        tokens = self._tokens(exchange, ticket.subject)
        verdict = ledger.reserve(ticket, tokens, tell=project.settings.watches_limits)
        exchange.state[TICKET] = verdict.ticket
        tell(exchange, verdict)
        if verdict.ticket is None:
            exchange.phase = "limit"
            most = ticket.subject.most_tokens
            raise RateLimited(TOO_MANY.format(most), retry=False) if tokens is None else refusal(verdict)

    def _tokens(self, exchange: Exchange, subject: Subject) -> int | None:
        return reserve(exchange, self._guess, subject.most_tokens)

    def _subject(self, ledger: Ledger, exchange: Exchange, project: str, limits: Limits) -> Subject | None:
        memory, identity, user = exchange.request.memory, exchange.identity, exchange.request.user_id
        known: Known | None = memory.get(self)
        if known is None or known.identity is not identity or known.limits is not limits or known.user != user:
            key_id = identity.key_id if identity is not None else None
            known = memory[self] = Known(identity, limits, user, ledger.subject(limits, project, user, key_id))
        return known.subject

    def _settle(self, exchange: Exchange) -> None:
        ticket = exchange.state.get(TICKET)
        if ticket is not None and self._ledger is not None:
            self._ledger.settle(ticket, tokens_of(exchange), counts=not was_refused(exchange))

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """Where limits are set, see that what was counted before a reboot still is."""
        own, defaults = gateway.projects.own_settings(), gateway.projects.defaults
        if any(settings.limits for settings in (defaults, *own.values())):
            self._ledger = Ledger(gateway.shared)
            await refill(self._ledger, gateway, lambda project: own.get(project, defaults).limits)
        gateway.every(SOON, DayWatch(gateway).look, name="limits.days", once_per_host=True)
        yield

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import limits

        cli.add_command(limits)


def _begun(gateway: Gateway) -> Ledger:
    """The first limit of all was set while the gateway ran: a minute counts from now on, and of the day `DayWatch` sees to the
    rest."""
    ledger = Ledger(gateway.shared)
    ledger.begin()
    return ledger


def tokens_of(exchange: Exchange) -> int:
    """Tokens a provider used for this exchange; 0 where its answer came from nearer by."""
    if exchange.served_by != "upstream" or exchange.cache in ("hit", "joined"):
        return 0
    return exchange.usage.input_tokens + exchange.usage.output_tokens


def was_refused(exchange: Exchange) -> bool:
    """Whether it ended before anything was asked for it. (`refill` has the same of rows.)"""
    return exchange.error is not None and not exchange.attempts and exchange.cache not in ("hit", "joined")


def tell(exchange: Exchange, verdict: Verdict) -> None:
    """How the limits stand: to the caller, and to whoever watches them."""
    exchange.standings = verdict.told
    if verdict.tightest is not None:
        exchange.reply_headers.update(headers(verdict.tightest))


def refusal(verdict: Verdict) -> RateLimited:
    seconds = -(-verdict.wait // 1000)
    return RateLimited(f"Rate limit exceeded. Please retry after {seconds} seconds.", retry_after=verdict.wait / 1000)


def headers(standing: Standing) -> Iterable[tuple[str, str]]:
    """How the tightest limit of requests stands."""
    return (
        ("X-RateLimit-Limit", str(standing.limit)),
        ("X-RateLimit-Remaining", str(standing.remaining)),
        ("X-RateLimit-Reset", str(-(-standing.reset // 1000))),
    )

"""What an exchange used and what that costs.

Invariants: usage the provider reported is booked as reported; usage nobody reported is estimated and says so, and is never 0 when
text was delivered; nothing that was not sent upstream costs anything, nor does counting tokens, however it ends; an unknown
price is None, never 0; money is integers.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from .errors import ClientGone, UpstreamError
from .exchange import Exchange
from .money import Cost, Usage, estimate_tokens, is_count, is_sum, usd
from .noting import amend_booked, final_status, note

if TYPE_CHECKING:
    from .call import Call
    from .flight import Flight
    from .targets import Target
    from .wire.wire import Facts, Wire


log = logging.getLogger("muxx.plugins")


def usage_of(exchange: Exchange, wire: Wire, facts: Facts | None, complete: bool) -> Usage:
    """The usage to book, by how it is known.

    Reported by the provider: as reported; `partial` when the answer broke, and then at least what the text is estimated at, where
    some came later. So is an answer that is told to have no output though it has text, or whose last word on it cannot be true,
    and it is flagged. Not reported: estimated from what was sent and received, unless the provider failed before the first byte
    of a stream or anywhere in a plain answer, which bills nothing.
    """
    if wire.counts or not _was_sent(exchange):
        return Usage(source="none")
    untold = facts is None or facts.usage is None
    if untold and not complete and exchange.timing.first_token is None and isinstance(exchange.error, UpstreamError):
        return Usage(source="none")
    return _told_or_estimated(exchange, wire, facts, complete)


def usage_to_tell(exchange: Exchange, wire: Wire, facts: Facts) -> Usage:
    """What the client of a translated answer that is whole reads as its usage: what will be booked."""
    return _told_or_estimated(exchange, wire, facts, complete=True)


def _told_or_estimated(exchange: Exchange, wire: Wire, facts: Facts | None, complete: bool) -> Usage:
    usage = facts.usage if facts is not None else None
    if usage is not None and facts is not None:
        mute = not usage.output_tokens and facts.output_bytes > 0
        if complete and not mute and not (facts.usage_invalid and facts.text_since_usage):
            return usage
        if complete:
            exchange.attributes[USAGE_INVALID] = True
        if usage.input_tokens or not complete:
            least = estimate_tokens(facts.output_bytes) if mute or facts.text_since_usage else 0
            return usage._replace(source="partial", output_tokens=max(usage.output_tokens, least))
    read = estimate_tokens(wire.input_bytes(exchange.request.body))
    made = estimate_tokens(facts.output_bytes if facts is not None else 0)
    return Usage(input_tokens=read, output_tokens=made, source="estimated")


def _was_sent(exchange: Exchange) -> bool:
    """A provider has the request, and is at work on it or has been: one that refused it bills nothing."""
    for attempt in reversed(exchange.attempts):  # noqa: SIM110  (a generator would take several times as long)
        if attempt.sent and (attempt.status is None or attempt.status < 300):
            return True
    return False


BEYOND_HELD = "beyond_held_usd"
"""Attribute of a row: how much more an answer cost than anybody could foresee."""

USAGE_INVALID = "usage_invalid"
"""Attribute of a row: the provider told of tokens what cannot be true."""

USAGE_DETAILS = "usage_details"
USUAL_TIERS = ("default", "standard", "on_demand", "auto")
"""What providers call the tier in which nothing is priced apart."""

COUNTS = Usage._fields.index("service_tier")
"""So many fields of a usage are numbers of tokens: the first ones."""

_DETAILS = slice(Usage._fields.index("input_audio_tokens"), COUNTS)
_DETAIL_NAMES = (*Usage._fields[_DETAILS], "service_tier")
_NO_DETAILS = Usage()[_DETAILS]
"""What the row has no fields of its own for, though the price depends on it."""

NO_COST = Cost(0, 0, "none")
"""An exchange for which nothing was sent upstream costs exactly nothing, and that is known."""


def settle(call: Call, complete: bool) -> None:
    """Usage and cost, before the row. What a plugin or a stored answer serves has what the serving side said."""
    exchange, flight = call.exchange, call.flight
    exchange.timing.ended = time.monotonic()
    if exchange.served_by != "upstream":
        _take_said(exchange)
    elif flight is None:
        _book(call, call.facts, complete)
    elif exchange.cache == "joined":
        _settle_joined(call, flight, complete)
    else:
        # What those who left had seen counts only where nobody knows better.
        seen = call.facts if complete and not flight.complete else flight.facts or call.facts
        _book(call, seen, complete or flight.complete)
        _land(call, flight, complete, exchange.usage, exchange.cost)
    if exchange.saved_pico is not None and not is_count(exchange.saved_pico):
        _tell_unusable(exchange, "saved_pico")
        exchange.saved_pico = None
    if complete:
        exchange.phase = exchange.ended_by = None


def _take_said(exchange: Exchange) -> None:
    """What the serving side says its answer used and cost. A plugin may have said what no row can hold: that is not
    known."""
    usage: Any = exchange.usage
    if exchange.cost is None:
        exchange.cost = NO_COST
    elif not is_sum(exchange.cost):
        _tell_unusable(exchange, "cost")
        exchange.cost = None
    if not (isinstance(usage, Usage) and all(map(is_count, usage[:COUNTS]))):
        _tell_unusable(exchange, "usage")
        exchange.usage = Usage()


def _tell_unusable(exchange: Exchange, name: str) -> None:
    log.error("request %s: a plugin left an `exchange.%s` that no row can hold", exchange.id, name)


def _book(call: Call, facts: Facts | None, complete: bool) -> None:
    """What the upstream calls of this exchange used, and what that costs."""
    exchange = call.exchange
    usage = exchange.usage = usage_of(exchange, call.wire, facts, complete)
    exchange.cost = cost = NO_COST if usage.source == "none" else _price(call, exchange.attempts[-1].target, usage)
    if cost is None:
        call.gateway.unpriced.note(exchange.attempts[-1].target)
    unusual_tier = usage.service_tier and usage.service_tier not in USUAL_TIERS
    if unusual_tier or usage[_DETAILS] != _NO_DETAILS:
        _tell_details(exchange, usage)
    if exchange.held_pico is not None and cost is not None and cost.total_pico > exchange.held_pico:
        exchange.attributes[BEYOND_HELD] = usd(cost.total_pico - exchange.held_pico)


def _price(call: Call, target: Target, usage: Usage) -> Cost | None:
    """By the prices at which the request was admitted: what its attempts were held for."""
    return call.gateway.price(target, usage, call.exchange.timing.started_at)


def _tell_details(exchange: Exchange, usage: Usage) -> None:
    """What the price of some answers depends on beside the row's own fields."""
    details = {name: value for name in _DETAIL_NAMES if (value := getattr(usage, name)) and value not in USUAL_TIERS}
    if details:
        exchange.attributes[USAGE_DETAILS] = details


def _settle_joined(call: Call, flight: Flight, complete: bool) -> None:
    """An exchange that joined another's call pays nothing: it has saved what the answer costs that one."""
    exchange, facts = call.exchange, call.facts
    exchange.cost = NO_COST
    if facts is None:
        return
    usage = _told_or_estimated(exchange, call.wire, facts, complete)
    exchange.usage, exchange.origin = usage._replace(source="cache"), flight.attempt.target
    if complete:
        cost = _price(flight.starter, exchange.origin, usage)
        exchange.saved_pico = None if cost is None else cost.total_pico
        _land(call, flight, complete, usage, cost)


def _land(call: Call, flight: Flight, complete: bool, usage: Usage, cost: Cost | None) -> None:
    """Tell the shared call when its provider has said all of the answer: more than a plugin wanted, or than a connection that
    ended early let through."""
    if complete and call.facts is not None and (call.stream is None or call.stream.done):
        flight.has_landed(call, call.facts, usage, cost)


def record_gone(call: Call) -> None:
    """The client has gone, and the upstream call goes on for others: the row says so now, and what the call comes to later."""
    exchange = call.exchange
    exchange.error, exchange.ended_by = ClientGone(), "client"
    _book(call, None, complete=False)
    note(call, final_status(exchange, exchange.error))
    call.recorded = True  # nobody waits for it to be on the disk


def rebook(call: Call, facts: Facts | None, complete: bool, *, failed: bool) -> None:
    """Book anew what an exchange came to whose row is written already, for its upstream call went on without it.

    One that `failed` before its first byte came to nothing.
    """
    if failed:
        call.exchange.usage, call.exchange.cost = Usage(source="none"), NO_COST
    else:
        _book(call, facts, complete)
    amend_booked(call)

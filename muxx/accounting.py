"""What an exchange used, what that costs, and the row that says so.

Invariants: usage the provider reported is booked as reported; usage nobody reported is estimated and says so, and is never 0 when
text was delivered; nothing that was not sent upstream costs anything, nor does counting tokens, however it ends; an unknown
price is None, never 0; money is integers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from .call import TranslatedHead
from .chains import refuse_coroutine
from .crashes import describe_crash
from .errors import ClientGone, MuxxError, UpstreamError
from .exchange import Exchange
from .money import Cost, Usage, estimate_tokens, is_count, is_sum, usd
from .reply import WholeAnswer
from .request import Identity
from .tries import attempts_told

if TYPE_CHECKING:
    from .call import Call
    from .flight import Flight
    from .targets import Target
    from .transport import UpstreamResponse
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


def final_status(exchange: Exchange, error: MuxxError | None) -> int:
    """The row's status: what the client got, or 499 when it left. A stream that broke after its head keeps the 200 that was
    sent."""
    if isinstance(error, ClientGone):
        return error.status
    if exchange.response.status is not None:
        return exchange.response.status
    return error.status if error is not None else 200


def record_of(exchange: Exchange, status: int) -> dict[str, Any]:
    """The exchange as a row, without its content."""
    timing, response = exchange.timing, exchange.response
    tokens_in, tokens_out, cache_read, cache_write, reasoning, _, _, _, _, _, source = exchange.usage
    cost_in, cost_out, price_version = exchange.cost or (None, None, None)
    identity, request, attempts = exchange.identity or NOBODY, exchange.request, exchange.attempts
    target = attempts[-1].target if attempts else exchange.origin
    started, first = timing.started, timing.first_token
    ended = timing.ended or time.monotonic()
    attributes, answered_as = exchange.attributes, response.model
    if attempts and target and answered_as and answered_as != target.model:
        attributes = {**attributes, PRICED_AS: target.model}
    return {
        "request_id": exchange.id,
        "started_at": timing.started_at,
        "first_token_ms": None if first is None else int((first - started) * 1e6) / 1e3,
        "duration_ms": int((ended - started) * 1e6) / 1e3,
        "project": identity.project or None,
        "key_id": identity.key_id,
        "key_prefix": identity.key_prefix,
        "key_last4": identity.key_last4,
        "environment": None if identity is NOBODY else identity.environment,
        "user_id": request.user_id,
        "metadata": request.metadata,
        "client_ip": request.client_ip,
        "endpoint": exchange.operation,
        "provider": target.provider.name if target else None,
        "model_requested": request.model or None,
        "model": answered_as or (target.model if target else None),
        "stream": request.stream,
        "status": status,
        "ended_by": exchange.ended_by,
        "phase": exchange.phase,
        "attempts": len(attempts),
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
        "reasoning_tokens": reasoning,
        "usage_source": source,
        "input_cost_pico": cost_in,
        "output_cost_pico": cost_out,
        "cost_pico": None if cost_in is None or cost_out is None else cost_in + cost_out,
        "saved_pico": exchange.saved_pico,
        "price_version": price_version,
        "cache": exchange.cache,
        "finish_reasons": response.finish_reasons,
        "error_code": exchange.error.code if exchange.error else None,
        "attributes": attributes,
    }


NOBODY = Identity(project="")
"""Stands in for the caller of a request without a valid key; all of it is null in the row."""


def trace_of(exchange: Exchange) -> dict[str, Any]:
    """What is left of a request whose process dies: who asked whom for what, and how much the provider may have read.

    Input tokens are estimated by the size of the whole body, which is never less than what the model reads of it; one that only
    counts them has none. Who finds the trace prices them.
    """
    identity, request, attempt = exchange.identity or NOBODY, exchange.request, exchange.attempts[-1]
    target, reads = attempt.target, not attempt.wire.counts
    return {
        "request_id": exchange.id,
        "started_at": exchange.timing.started_at,
        "project": identity.project or None,
        "key_id": identity.key_id,
        "key_prefix": identity.key_prefix,
        "key_last4": identity.key_last4,
        "environment": identity.environment,
        "user_id": request.user_id,
        "metadata": request.metadata,
        "client_ip": request.client_ip,
        "endpoint": exchange.operation,
        "provider": target.provider.name,
        "model_requested": request.model,
        "model": target.model,
        "stream": request.stream,
        "phase": "head",
        "attempts": len(exchange.attempts),
        "input_tokens": estimate_tokens(request.size) if reads else 0,
        "usage_source": "estimated" if reads else "none",
    }


BOOKED = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "usage_source",
    "input_cost_pico", "output_cost_pico", "cost_pico", "price_version",
)  # fmt: skip
"""The fields of a row that say what the exchange came to."""

SERVED = ("provider", "model", "attempts", "attributes")
"""The fields of a row that say who was asked."""

BEYOND_HELD = "beyond_held_usd"
"""Attribute of a row: how much more an answer cost than anybody could foresee."""

PRICED_AS = "priced_as"
"""Attribute of a row whose answer names another model than was asked of the provider: the latter, by which it is priced."""

USAGE_INVALID = "usage_invalid"
"""Attribute of a row: the provider told of tokens what cannot be true."""

USAGE_DETAILS = "usage_details"
DETAILS = ("input_audio_tokens", "output_audio_tokens", "cache_read_audio_tokens", "cache_write_1h_tokens", "service_tier")
USUAL_TIERS = ("default", "standard", "on_demand", "auto")
"""What providers call the tier in which nothing is priced apart."""

FAILURES = frozenset({"error", "cancelled"})
"""Finish reasons of an answer that came to nothing."""

COUNTS = Usage._fields.index("service_tier")
"""So many fields of a usage are numbers of tokens: the first ones."""

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
    if unusual_tier or usage.input_audio_tokens or usage.output_audio_tokens or usage.cache_write_1h_tokens:
        _tell_details(exchange, usage)
    if exchange.held_pico is not None and cost is not None and cost.total_pico > exchange.held_pico:
        exchange.attributes[BEYOND_HELD] = usd(cost.total_pico - exchange.held_pico)


def _price(call: Call, target: Target, usage: Usage) -> Cost | None:
    """By the prices at which the request was admitted: what its attempts were held for."""
    return call.gateway.price(target, usage, call.exchange.timing.started_at)


def _tell_details(exchange: Exchange, usage: Usage) -> None:
    """What the price of some answers depends on beside the row's own fields."""
    details = {name: value for name in DETAILS if (value := getattr(usage, name)) and value not in USUAL_TIERS}
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


def hand_out(call: Call, body: bytes, response: UpstreamResponse, usage: Usage, cost: Cost | None) -> None:
    """Give a provider's whole answer to those who collect it, before anybody who has had it can ask again.

    Nobody else is given an answer that does not say it is finished, or says that it failed. (Embeddings say neither.)
    """
    exchange, facts = call.exchange, call.facts
    reasons = exchange.response.finish_reasons
    if response.status != 200 or not (reasons or not call.wire.streams) or not FAILURES.isdisjoint(reasons):
        return
    headers, starter = response.headers, call.flight.starter if call.flight is not None else call
    content_type, cache_control = headers.get("content-type", "application/json"), headers.get("cache-control", "")
    attempt, headed = starter.exchange.attempts[-1], None
    if facts is not None and attempt.wire is not call.wire:
        head = TranslatedHead(starter, facts)
        headed = head.id, head.model, head.created
    answer = WholeAnswer(body, attempt.target, usage, cost, time.monotonic(), content_type, cache_control, headed)
    for take, most_bytes in starter.exchange.collectors:
        if len(body) <= most_bytes:
            try:
                if (result := take(answer)) is not None:
                    refuse_coroutine(result)
            except BaseException as error:  # plain `def`, so not even a cancellation is anybody else's
                log.error("a plugin failed to take an answer: %s", describe_crash(error))


def hand_out_whole(call: Call) -> None:
    """The same of an answer that came with its head and that nobody shares, once it has left: its client need not wait for that,
    and as nothing is waited for in between, no other request is looked at before."""
    exchange = call.exchange
    if call.whole is not None and call.flight is None and exchange.collectors:
        hand_out(call, call.whole.body_now(), call.whole, exchange.usage, exchange.cost)


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
    if call.row is not None:
        _tell_attempts(call)
        row = record_of(call.exchange, call.row["status"])
        amend(call, {name: row[name] for name in (*BOOKED, *SERVED)})


def stores_content(exchange: Exchange) -> bool:
    return exchange.project is not None and exchange.project.settings.store_content


async def synced(call: Call) -> None:
    """With `durability = "power"`: the row that was noted is on the disk."""
    await call.gateway.journal.sync()
    call.recorded = True


def note(call: Call, status: int) -> None:
    """Put the final row into the journal. It is recorded thereby, or has to be `synced` first.

    Requests without a valid key are sampled: nobody unknown may own our disk.
    """
    call.recorded = not call.gateway.syncs
    exchange, gateway = call.exchange, call.gateway
    _tell_attempts(call)
    if exchange.identity is not None or gateway.strangers.keeps_row():
        call.row = row = record_of(exchange, status)
        if stores_content(exchange):
            gateway.journal.final(row, _asked(exchange), call.delivered)
        else:
            call.delivered = None
            gateway.journal.final(row)
        if exchange.enders:
            gateway.journal.outbox.put(exchange.note_recorded, b"", _is_not)


def _is_not(_: MuxxError) -> None:
    """It is not recorded; whoever waits for the row hears it elsewhere."""


def _tell_attempts(call: Call) -> None:
    """Where there was more than one, or a target was passed over, the row has them all."""
    exchange = call.exchange
    if call.passed_over or len(exchange.attempts) > 1:
        exchange.attributes["attempts"] = attempts_told(exchange.attempts, call.passed_over)


def _asked(exchange: Exchange) -> bytes | None:
    """The last request as sent up, as JSON; where the answer came from nearer by, the request as it would have been."""
    if exchange.attempts:
        return exchange.attempts[-1].payload
    if exchange.served_by == "upstream" and exchange.cache != "joined":
        return None
    return orjson.dumps(exchange.request.body)


def amend(call: Call, changes: Mapping[str, Any]) -> None:
    """The row again, changed: what it said of the end turned out to be wrong."""
    if call.row is not None:
        asked = _asked(call.exchange) if stores_content(call.exchange) else None
        call.row = {**call.row, **changes}
        call.gateway.journal.amend(call.row, asked, call.delivered)

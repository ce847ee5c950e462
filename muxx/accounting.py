"""What an exchange used, what that costs, and the row that says so.

Invariants: usage the provider reported is booked as reported; usage nobody reported is estimated and says so, and is never 0 when
text was delivered; nothing that was not sent upstream costs anything; an unknown price is None, never 0; money is integers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import orjson

from .errors import ClientGone, MuxxError, UpstreamError
from .exchange import Cost, Exchange, Identity, Record, Usage
from .wire.openai import ChatFacts, estimate_tokens, input_bytes

if TYPE_CHECKING:
    from .call import Call


def estimated_input(exchange: Exchange) -> Usage:
    """The input side only, by size: what a provider may have billed once the request was sent."""
    return Usage(input_tokens=estimate_tokens(input_bytes(exchange.request.body)), source="estimated")


def usage_of(exchange: Exchange, facts: ChatFacts | None, complete: bool) -> Usage:
    """The usage to book, by how it is known.

    Reported by the provider: as reported; `partial` when the answer broke, and then at least what the text is estimated at, where
    some came later. Not reported: estimated from what was sent and received, unless the provider failed before the first byte of
    a stream or anywhere in a plain answer, which bills nothing.
    """
    if not any(attempt.sent for attempt in exchange.attempts):
        return Usage(source="none")
    if facts is not None and facts.usage is not None:
        usage = facts.usage
        usage.source = "provider" if complete else "partial"
        if not complete and facts.text_since_usage:
            usage.output_tokens = max(usage.output_tokens, estimate_tokens(facts.output_bytes))
        return usage
    if not complete and exchange.timing.first_token is None and isinstance(exchange.error, UpstreamError):
        return Usage(source="none")
    usage = estimated_input(exchange)
    usage.output_tokens = estimate_tokens(facts.output_bytes if facts is not None else 0)
    return usage


def final_status(exchange: Exchange, error: MuxxError | None) -> int:
    """The row's status: what the client got, or 499 when it left. A stream that broke after its head keeps the 200 that was
    sent."""
    if isinstance(error, ClientGone):
        return error.status
    if exchange.response.status is not None:
        return exchange.response.status
    return error.status if error is not None else 200


def record_of(exchange: Exchange, status: int, sent: Any, delivered: Any) -> Record:
    """The exchange as a row. `sent` and `delivered` are JSON values or fragments, already None where content is not stored."""
    timing, usage, response = exchange.timing, exchange.usage, exchange.response
    first = timing.first_token
    ended = timing.ended or time.monotonic()
    row = {
        **trace_of(exchange),
        "first_token_ms": None if first is None else round((first - timing.started) * 1e3, 3),
        "duration_ms": round((ended - timing.started) * 1e3, 3),
        "status": status,
        "ended_by": exchange.ended_by,
        "phase": exchange.phase,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "saved_pico": exchange.saved_pico,
        "cache": exchange.cache,
        "finish_reasons": response.finish_reasons,
        "error_code": exchange.error.code if exchange.error else None,
        "attributes": exchange.attributes,
        "input": sent,
        "output": delivered,
    }
    if response.model:
        row["model"] = response.model
    return cast(Record, row)


NOBODY = Identity(project="")
"""Stands in for the caller of a request without a valid key; all of it is null in the row."""


def trace_of(exchange: Exchange) -> dict[str, Any]:
    """The fields of a row that are known before the provider is called: what is left of a request whose process dies."""
    identity, request, usage, cost = exchange.identity or NOBODY, exchange.request, exchange.usage, exchange.cost
    target = exchange.attempts[-1].target if exchange.attempts else None
    return {
        "request_id": exchange.id,
        "started_at": exchange.timing.started_at,
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
        "model": target.model if target else None,
        "stream": request.stream,
        "phase": exchange.phase,
        "attempts": len(exchange.attempts),
        "input_tokens": usage.input_tokens,
        "usage_source": usage.source,
        "input_cost_pico": cost.input_pico if cost else None,
        "output_cost_pico": cost.output_pico if cost else None,
        "cost_pico": cost.total_pico if cost else None,
        "price_version": cost.price_version if cost else None,
    }


NO_COST = Cost(0, 0, "none")
"""An exchange for which nothing was sent upstream costs exactly nothing, and that is known."""


def settle(call: Call, complete: bool) -> None:
    """Usage and cost, then the row, in the journal before anybody takes the answer for whole. Raises `LogUnavailable`."""
    exchange, gateway = call.exchange, call.gateway
    exchange.timing.ended = time.monotonic()
    if exchange.served_by != "upstream":
        exchange.cost = exchange.cost or NO_COST  # usage and cost are the serving plugin's to say
        return
    exchange.usage = usage_of(exchange, call.facts, complete)
    sent = any(attempt.sent for attempt in exchange.attempts)
    if not sent or exchange.usage.source == "none":
        exchange.cost = NO_COST
    else:
        exchange.cost = gateway.price(exchange.attempts[-1].target, exchange.usage)
    if complete:
        exchange.phase = exchange.ended_by = None


async def record(call: Call, status: int) -> None:
    """The final row. Requests without a valid key are sampled: nobody unknown may own our disk."""
    exchange, gateway = call.exchange, call.gateway
    if exchange.identity is not None or gateway.sampler.allow():
        stored = exchange.project is not None and exchange.project.settings.store_content
        sent = orjson.Fragment(call.body_sent) if stored and call.body_sent is not None else None
        call.row = record_of(exchange, status, sent, call.delivered if stored else None)
        gateway.journal.final(call.row)
        await gateway.journal.sync()
    call.recorded = True

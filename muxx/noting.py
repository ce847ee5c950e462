"""The row of an exchange, and its trace: made, put into the journal, and put there again where the row turned out to be wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from .errors import ClientGone, MuxxError
from .exchange import Exchange
from .money import estimate_tokens
from .request import Identity
from .tries import attempts_told

if TYPE_CHECKING:
    from .call import Call


NOBODY = Identity(project="")
"""Stands in for the caller of a request without a valid key; all of it is null in the row."""

PRICED_AS = "priced_as"
"""Attribute of a row whose answer names another model than was asked of the provider: the latter, by which it is priced."""

BOOKED = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "usage_source",
    "input_cost_pico", "output_cost_pico", "cost_pico", "price_version",
)  # fmt: skip
"""The fields of a row that say what the exchange came to."""

SERVED = ("provider", "model", "attempts", "attributes")
"""The fields of a row that say who was asked."""


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
    tokens_in, tokens_out, cache_read, cache_write, reasoning, *_, source = exchange.usage
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
    call.recorded = not gateway.syncs


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


def amend_booked(call: Call) -> None:
    """The row again, with what the exchange came to since it was written."""
    if call.row is not None:
        _tell_attempts(call)
        row = record_of(call.exchange, call.row["status"])
        amend(call, {name: row[name] for name in (*BOOKED, *SERVED)})

"""Upstream calls: the targets of an exchange in order, one attempt after the other, until one answers.

Invariants: no second provider is asked once a byte of a 2xx answer has come; the upstream connection is let go in the function
that opened it; what was checked is what is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any

from . import routing
from .ahead import Ahead
from .answering import answer_upstream
from .call import HEAVY_BYTES, NEVER, Call
from .chains import refuse_coroutine, run_all
from .crashes import crash_of, describe_crash
from .errors import InvalidRequest, MuxxError, PermissionDenied, PluginError, UpstreamError
from .headers import upstream_headers
from .lean import LeanTransport
from .noting import trace_of
from .refusing import masked, refusal
from .reply import is_event_stream
from .targets import Attempt, Target
from .translating import DROPPED, DROPPED_HEADER, no_counterpart, translated, upstream_wire
from .tries import Tries, nobody_tried
from .unusable import note_unusable_attempt
from .wire.prompt import MOST_NAMED
from .wire.seals import may_hold_seals, without_seals

if TYPE_CHECKING:
    from .exchange import Exchange
    from .wire.wire import Wire

NOT_ALLOWED = "This key may not use that model. GET /v1/models lists what it may use."


async def attempt_targets(call: Call) -> None:
    """Try the targets in order until one answers; raise the last failure when none does."""
    failure: MuxxError | None = None
    for target in call.exchange.targets:
        tries = Tries(call, target)
        while tries.begin():
            try:
                if await _try(call, tries):
                    return
            finally:
                tries.end()
            wait = tries.pause()
            if wait is None:
                break
            call.exchange.phase = "connect"
            await asyncio.sleep(wait)
        failure = tries.failure or failure
        if tries.attempt is not None and not routing.may_fall_back(tries.attempt):
            break
    raise failure or nobody_tried(call)


async def _try(call: Call, tries: Tries) -> bool:
    """One try of a target: whether it answered. What came instead, `tries` knows."""
    call.exchange.note_head(sent=False)  # no head has left, or there were no further attempt
    try:
        attempt = tries.attempt = _new_attempt(call, tries.target, tries.replays, tries.credential)
    except InvalidRequest as refusal:
        tries.pass_over("unsupported", refusal)
        return False
    attempt.on_first_token = tries.on_first_token
    try:
        await _attempt(call, attempt)
    except UpstreamError as error:
        tries.failed(error)
        if call.committed:
            raise
        return False
    tries.answered()
    return True


def _new_attempt(call: Call, target: Target, replays: int, credential: str | None) -> Attempt:
    provider, exchange = target.provider, call.exchange
    request = exchange.request
    if DROPPED in exchange.attributes:  # of a target that was tried before
        del exchange.attributes[DROPPED], exchange.reply_headers[DROPPED_HEADER]
    up = upstream_wire(call.wire, provider)
    if up is call.wire:
        body = {**request.body, "model": target.model, **_parameters(target)}
    elif up is not None:
        body = {**_translated(call, up, target), **_parameters(target)}
    else:
        raise no_counterpart(call.wire, provider)
    number = len(exchange.attempts) + 1
    headers = upstream_headers(provider, call.head, credential, up.format)
    attempt = Attempt(target, number, _url(up, target, request.stream), headers, body, replays=replays)
    attempt.wire = up
    return attempt


def _parameters(target: Target) -> dict[str, Any]:
    """The attempt's own, for plugins may edit them: those of the file are every request's."""
    return deepcopy(dict(target.parameters)) if target.parameters else {}


def _translated(call: Call, up: Wire, target: Target) -> dict[str, Any]:
    """The request in the words of another format; the row and a header tell what had no counterpart."""
    body, dropped = translated(call.wire, up, call.exchange.request.body, target)
    _tell_dropped(call.exchange, dropped)
    return body


def _tell_dropped(exchange: Exchange, places: list[str]) -> None:
    if places:
        exchange.attributes[DROPPED] = places
        named, more = places[:MOST_NAMED], len(places) - MOST_NAMED
        exchange.reply_headers[DROPPED_HEADER] = ", ".join([*named, f"and {more} more"] if more > 0 else named)


def _url(up: Wire, target: Target, stream: bool) -> str:
    provider = target.provider
    base = provider.base_url if up.format == provider.format else provider.openai_url or provider.base_url
    return up.upstream_url(base.rstrip("/"), target.model, stream)


async def _attempt(call: Call, attempt: Attempt) -> None:
    """One upstream call, from `pre_attempt` to the end of its answer. Whatever happens, its connection is let go here."""
    exchange, gateway = call.exchange, call.gateway
    exchange.phase = "connect"
    stream = exchange.request.stream
    up: Wire = attempt.wire
    asked = not stream or not attempt.target.provider.ask_usage or up.ask_for_usage(attempt.body)
    if gateway.chains.pre_attempt:
        await _prepare(call, attempt)
    for ask in exchange.askers:
        _ask(call, ask, attempt)
    if exchange.request.size > HEAVY_BYTES:
        await asyncio.sleep(0)
    attempt.payload = _payload(call, attempt)
    if up is call.wire and may_hold_seals(attempt.payload):
        attempt.body, unsealed = without_seals(attempt.body)
        _tell_dropped(exchange, unsealed)
        attempt.payload = _payload(call, attempt)
    if attempt.sign is not None:
        _sign(call, attempt)
    exchange.attempts.append(attempt)
    gateway.journal.trace(trace_of(exchange))
    timeouts = attempt.target.timeouts
    if call.whole_due == NEVER:
        call.whole_due = time.monotonic() + timeouts.whole
    transport = gateway.transport(attempt.target.provider)
    if type(transport) is not LeanTransport:
        gateway.journal.outbox.write_now()  # the lean one waits for the trace by itself
    try:
        with call.within(timeouts.first_byte):
            response = await transport.send(attempt)
    finally:
        exchange.phase = "head" if attempt.sent else "connect"
    try:
        attempt.status, attempt.head_at = response.status, time.monotonic()
        if not 200 <= response.status < 300:
            raise await refusal(call, attempt, response)
        if attempt.target.buffer_until == "first_token" and stream and is_event_stream(response.headers.get("content-type", "")):
            response = ahead = Ahead(
                response, up.stream(attempt.body, True), gateway.config.server.max_event_bytes, partial(masked, call, attempt)
            )
            exchange.phase = "stream"
            with call.within(timeouts.first_token):
                await ahead.wait()
        if call.shares:
            response = gateway.flights.take(call, attempt, response)
        await answer_upstream(call, attempt, response, not asked)
    finally:
        response.close()


async def _prepare(call: Call, attempt: Attempt) -> None:
    """Let plugins see to the attempt. What they changed is validated again, and another model is another target: it is priced as
    such, and the caller has to be allowed it."""
    gateway, exchange = call.gateway, call.exchange
    before = attempt.wire.checked(attempt.body)
    await run_all(gateway.chains.pre_attempt, (gateway, exchange, attempt), gateway.chain_seconds)
    sound = type(attempt.body) is type(attempt.headers) is dict and type(attempt.url) is str and type(attempt.target) is Target
    if not sound and note_unusable_attempt(call, attempt):
        raise PluginError()
    if not all(map(is_, before, attempt.wire.checked(attempt.body))):
        attempt.wire.validate(attempt.body)
    model = attempt.body["model"]
    if model != attempt.target.model:
        stream, before = exchange.request.stream, attempt.target
        attempt.target = replace(before, model=model)
        if attempt.url == _url(attempt.wire, before, stream):
            attempt.url = _url(attempt.wire, attempt.target, stream)
        allowed = exchange.identity.models if exchange.identity is not None else ()
        if not routing.targets_of((attempt.target,), allowed, exchange.request.model):
            raise PermissionDenied(NOT_ALLOWED, param="model")


def _ask(call: Call, ask: Callable[[Exchange, Attempt], object], attempt: Attempt) -> None:
    """Let a plugin refuse the attempt."""
    try:
        if (result := ask(call.exchange, attempt)) is not None:
            refuse_coroutine(result)
    except MuxxError:
        raise
    except BaseException as error:  # plain `def`, so not even a cancellation is anybody else's
        call.gateway.log.error("request %s: a plugin failed before an attempt: %s", call.exchange.id, crash_of(ask, error))
        raise PluginError() from error


def _payload(call: Call, attempt: Attempt) -> bytes:
    """What is sent, for as long as the provider takes to answer: as a copy, for orjson leaves kilobytes of room behind what it
    writes."""
    wire: Wire = attempt.wire
    try:
        return bytes(memoryview(wire.payload(attempt.body)))
    except TypeError as error:
        call.gateway.log.error("request %s: a plugin put into the body what JSON cannot say", call.exchange.id)
        raise PluginError() from error


def _sign(call: Call, attempt: Attempt) -> None:
    """Let a plugin sign what is going to be sent, byte for byte."""
    assert attempt.sign is not None
    try:
        if (result := attempt.sign(attempt)) is not None:
            refuse_coroutine(result)
    except BaseException as error:  # as above
        call.gateway.log.error("request %s: a plugin could not sign it: %s", call.exchange.id, describe_crash(error))
        raise PluginError() from error

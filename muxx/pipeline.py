"""The spine: one request, top to bottom in the order things happen.

    accept ▶ plan ▶ ask (pre_request) ▶ attempt (pre_attempt, send) ▶ answer (relay, on_chunk) ▶ settle (price, record) ▶ last
    byte

Invariants: every exchange is settled once, on every path, before its last byte leaves; `post_response` runs once per exchange,
after it; what was checked is what is sent; no second provider is asked once a byte of a 2xx answer has come; the upstream
connection is let go in the function that opened it.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import orjson

from . import routing
from .accounting import final_status, record, settle, trace_of
from .answering import answer_from_plugin, answer_plain, answer_stream
from .call import Call
from .chains import describe_crash, first_result, run_all
from .errors import (
    ClientGone,
    ClientStalled,
    LogUnavailable,
    MissingApiKey,
    MuxxError,
    PermissionDenied,
    PluginError,
    ProviderRefusal,
    RequestTimeout,
    UpstreamAuth,
    UpstreamError,
    UpstreamTimeout,
)
from .exchange import Attempt, EndedBy, Exchange, HttpRequest, Identity, Reply, Target, Usage
from .headers import answer_headers, client_credential, error_headers, read_muxx_headers, upstream_headers
from .wire import openai
from .wire.body import parse_json_object

if TYPE_CHECKING:
    from .gateway import Gateway
    from .upstream import UpstreamResponse


async def carry(call: Call) -> None:
    """Carry one exchange from its head to its last byte."""
    gateway, exchange = call.gateway, call.exchange
    gateway.calls.add(call)
    try:
        await _steps(call)
    except asyncio.CancelledError:
        await _fail(call, call.aborted())
        if call.reason is None:
            raise
    except MuxxError as error:
        await _fail(call, error)
    except Exception as error:
        gateway.log.error("request %s failed inside the gateway: %s", exchange.id, describe_crash(error))
        await _fail(call, MuxxError())
    finally:
        gateway.calls.discard(call)
        exchange.timing.ended = exchange.timing.ended or time.monotonic()
        gateway.after(exchange)


async def _steps(call: Call) -> None:
    await accept(call)
    plan(call)
    reply = await ask(call)
    if reply is not None:
        await answer_from_plugin(call, reply)
    else:
        await attempt_targets(call)
    await finish(call)


async def accept(call: Call) -> None:
    """Who is calling, for which project, with what body."""
    gateway, exchange, headers = call.gateway, call.exchange, call.head.headers
    if exchange.identity is None:
        exchange.identity = await authenticate(gateway, call.head)
    identity = exchange.identity
    if identity.role == "admin":
        raise PermissionDenied("An admin key administers; make a project key with `muxx keys create` to call models.")
    exchange.project = gateway.projects.resolve(identity.project)
    exchange.phase = "head"
    read_muxx_headers(headers, exchange.request)
    body = await call.read_body()
    server = gateway.config.server
    request = exchange.request
    request.size = len(body)
    request.body = parse_json_object(body, max_depth=server.json_max_depth, max_tokens=server.json_max_tokens)
    _validate(exchange)
    request.model = request.body["model"]


async def authenticate(gateway: Gateway, head: HttpRequest) -> Identity:
    """The caller's identity by the first authenticator that knows it; 401 when none does."""
    identity = await first_result(gateway.plugins.chain("authenticate"), (gateway, head), gateway.chain_seconds, Identity)
    if identity is None:
        raise MissingApiKey()
    return identity


def _validate(exchange: Exchange) -> None:
    openai.validate_chat(exchange.request.body)
    exchange.request.stream = exchange.request.body.get("stream") is True


def plan(call: Call) -> None:
    """The targets, in order, that this caller may use for this name."""
    exchange = call.exchange
    exchange.phase = "limit"
    exchange.targets = allowed_targets(call, exchange.request.model)


def allowed_targets(call: Call, model: str) -> tuple[Target, ...]:
    """The plan for `model` less what the key may not use; 404 for a name nobody serves, 403 when nothing is left."""
    planned = call.gateway.plan(model)
    identity = call.exchange.identity
    assert identity is not None
    left = routing.targets_of(planned, identity.models, model)
    if not left:
        raise PermissionDenied("This key may not use that model. GET /v1/models lists what it may use.", param="model")
    return left


async def ask(call: Call) -> Reply | None:
    """Let plugins look at, change, answer or refuse the request; what they changed is validated again."""
    chain = call.gateway.plugins.chain("pre_request")
    if not chain:
        return None
    call.exchange.replan = partial(allowed_targets, call)
    try:
        reply = await first_result(chain, (call.gateway, call.exchange), call.gateway.chain_seconds, Reply)
    finally:
        call.exchange.replan = None
    _validate(call.exchange)
    return reply


async def attempt_targets(call: Call) -> None:
    """Try the targets in order until one answers; raise the last failure when none does."""
    failure: MuxxError | None = None
    for target in call.exchange.targets:
        tries = replays = 0
        while True:
            tries += 1
            call.exchange.reply_headers.sent = False  # no head has left, or there were no further attempt
            attempt = _new_attempt(call, target, replays)
            try:
                await _attempt(call, attempt)
            except UpstreamError as error:
                attempt.error = failure = error
                if call.committed:
                    raise
                if routing.may_replay(attempt, error):
                    replays += 1
                    continue
                if not routing.may_retry(attempt, tries):
                    break
                await asyncio.sleep(routing.backoff(tries, error.retry_after))
            else:
                return
            finally:
                attempt.ended = attempt.ended or time.monotonic()
        if not routing.may_fall_back(attempt):
            break
    raise failure or UpstreamError()


def _new_attempt(call: Call, target: Target, replays: int) -> Attempt:
    provider = target.provider
    credential = provider.api_key
    if provider.forward_client_credentials:
        credential = client_credential(call.head.headers) or credential
    if credential is None and provider.api_key_env is not None:
        raise UpstreamAuth(
            f"The gateway has no key for provider {provider.name}: its operator sets {provider.api_key_env} or "
            f"[providers.{provider.name}] api_key."
        )
    request = call.exchange.request
    body = {**request.body, "model": target.model, **target.parameters}
    return Attempt(
        target,
        len(call.exchange.attempts) + 1,
        provider.base_url.rstrip("/") + "/chat/completions",
        upstream_headers(provider, call.head.headers, credential),
        body,
        replays=replays,
    )


async def _attempt(call: Call, attempt: Attempt) -> None:
    """One upstream call, from `pre_attempt` to the end of its answer. Whatever happens, its connection is let go here."""
    exchange, gateway = call.exchange, call.gateway
    exchange.phase = "connect"
    asked = True
    if exchange.request.stream and attempt.target.provider.ask_usage:
        asked = openai.ask_for_usage(attempt.body)
    chain = gateway.plugins.chain("pre_attempt")
    if chain:
        await run_all(chain, (gateway, exchange, attempt), gateway.chain_seconds)
    try:
        attempt.payload = orjson.dumps(attempt.body)
    except TypeError as error:
        gateway.log.error("request %s: a plugin put into the body what JSON cannot say", exchange.id)
        raise PluginError() from error
    exchange.attempts.append(attempt)
    _trace(call)
    response = await _send(call, attempt)
    try:
        attempt.status = response.status
        if exchange.request.stream and response.status == 200 and _is_event_stream(response):
            await answer_stream(call, attempt, response, withhold_usage=not asked)
        else:
            await answer_plain(call, attempt, response)
    finally:
        response.close()


def _is_event_stream(response: UpstreamResponse) -> bool:
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


def _trace(call: Call) -> None:
    """Leave a trace of the open request where `kill -9` cannot lose it; a replay or second attempt renews it.

    Usage is an estimate by the size of the whole body, which is never less than what the model reads of it.
    """
    exchange, gateway = call.exchange, call.gateway
    exchange.usage = Usage(input_tokens=openai.estimate_tokens(exchange.request.size), source="estimated")
    exchange.cost = gateway.price(exchange.attempts[-1].target, exchange.usage)
    exchange.phase = "head"
    gateway.journal.trace(trace_of(exchange))


async def _send(call: Call, attempt: Attempt) -> UpstreamResponse:
    """Send and wait for the head, within the target's limits."""
    exchange, timeouts = call.exchange, attempt.target.timeouts
    exchange.phase = "head"
    now = time.monotonic()
    call.due, call.on_due = now + timeouts.first_byte, None
    if call.whole_due == float("inf"):
        call.whole_due = now + timeouts.whole
    call.body_sent = attempt.payload
    try:
        return await call.gateway.transport(attempt.target.provider).send(attempt)
    except asyncio.CancelledError:
        if isinstance(call.reason, UpstreamTimeout) and time.monotonic() < call.whole_due:
            error, call.reason = call.aborted(), None
            raise error from None
        raise
    finally:
        call.due = float("inf")
        if not attempt.sent:
            exchange.phase = "connect"


async def finish(call: Call) -> None:
    """The answer is on its way; see that the client takes it, or amend the row."""
    down = call.down
    if not down.paused or call.row is None:
        return
    try:
        if not await down.drained(call.gateway.config.server.write_stall_timeout_s):
            _amend(call, ClientStalled())
    except asyncio.CancelledError:
        if call.reason is None or isinstance(call.reason, ClientGone):
            _amend(call, call.reason or ClientGone())
        raise


def _amend(call: Call, error: MuxxError) -> None:
    """The client did not take the end of an answer whose row says that it was whole."""
    exchange = call.exchange
    exchange.ended_by, exchange.phase, exchange.error = "client", "finish", error
    if call.row is not None:
        changes = {"status": error.status, "ended_by": "client", "phase": "finish", "error_code": error.code}
        call.gateway.journal.amend(call.row, changes)


async def _fail(call: Call, error: MuxxError) -> None:
    """Settle and record an exchange that did not end well, and tell the client as much as can still be told."""
    exchange, down = call.exchange, call.down
    call.due = call.whole_due = float("inf")
    if call.recorded:
        return
    exchange.error = error
    exchange.ended_by = _whose(error)
    if down.head_sent:
        exchange.response.status = exchange.response.status or 200
    try:
        settle(call, complete=False)
        await record(call, final_status(exchange, error))
    except LogUnavailable as unavailable:
        error = unavailable
    if not down.gone:
        tell(call, error)


def _whose(error: MuxxError) -> EndedBy:
    if isinstance(error, ClientGone | RequestTimeout):
        return "client"
    return "upstream" if isinstance(error, UpstreamError) else "muxx"


def tell(call: Call, error: MuxxError) -> None:
    """The error in the caller's format: a plain HTTP error, or an error event once a stream's head has left."""
    down = call.down
    if down.head_sent:
        down.break_off(b"" if call.error_relayed else openai.error_event(error))
        return
    headers = {**answer_headers(call.exchange), "Content-Type": "application/json", **error_headers(error)}
    body = error.body if isinstance(error, ProviderRefusal) else openai.error_body(error)
    if error.status in (408, 413, 415, 417):
        down.close_after()  # the rest of the request was not read
    down.whole(error.status, headers, body)

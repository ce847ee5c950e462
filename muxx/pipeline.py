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
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from . import routing
from .accounting import settle
from .again import give_again
from .answering import answer_upstream
from .attempts import NOT_ALLOWED, attempt_targets
from .call import HEAVY_BYTES, NEVER, Call
from .chains import first_result
from .crashes import describe_crash
from .errors import (
    AuthenticationError,
    ClientGone,
    ClientStalled,
    LogUnavailable,
    MissingApiKey,
    MuxxError,
    PermissionDenied,
    PluginError,
    ProviderRefusal,
    RequestTimeout,
    Unavailable,
    UpstreamError,
)
from .headers import answer_lines, error_headers, lines, read_said
from .money import Usage, estimate_tokens
from .noting import amend, final_status, note, synced
from .reply import Chunk, Reply, WholeAnswer
from .replying import answer_from_plugin
from .request import HttpRequest, Identity
from .row import EndedBy
from .targets import Target
from .translating import upstream_wire
from .unusable import note_unusable_request
from .wire.body import counting, parse_json_object

if TYPE_CHECKING:
    from .flight import Flight
    from .gateway import Gateway


async def carry(call: Call) -> None:
    """Carry one exchange from its head to its last byte."""
    gateway, exchange = call.gateway, call.exchange
    gateway.calls.add(call)
    try:
        await accept(call)
        plan(call)
        reply = await ask(call) if gateway.chains.pre_request else None
        if reply is not None and isinstance(reply.body, WholeAnswer):
            await give_again(call, reply.body)
        elif reply is not None:
            await answer_from_plugin(call, reply)
        elif call.wire.counts and upstream_wire(call.wire, exchange.targets[0].provider) is None:
            await answer_from_plugin(call, estimate(call))
        elif exchange.shared_key or exchange.collectors:
            await share(call)
        else:
            await attempt_targets(call)
        if call.down.paused:
            await finish(call)
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
        if call.body_bytes:
            gateway.calls.body_bytes -= call.body_bytes
        exchange.timing.ended = exchange.timing.ended or time.monotonic()
        flight, call.flight, call.down.on_gone = call.flight, None, None
        call.let_go()
        if (exchange.enders or gateway.chains.post_response) and (flight is None or not flight.owes(call)):
            gateway.after(exchange)


async def accept(call: Call) -> None:
    """Who is calling, for which project, with what body."""
    gateway, exchange, head = call.gateway, call.exchange, call.head
    projects, identity = gateway.projects, exchange.identity or await authenticate(gateway, head)
    if identity is None:
        raise MissingApiKey()
    if identity.role == "admin":
        exchange.identity = identity
        raise PermissionDenied("An admin key administers; make a project key with `muxx keys create` to call models.")
    if projects.stale:
        await projects.catch_up()
    exchange.project = projects.resolve(identity.project)
    exchange.identity, call.provider_keys = identity, projects.provider_keys(identity.project)
    exchange.phase = "head"
    request, server = exchange.request, gateway.config.server
    read_said(head, exchange)
    data, most = head.body_now(), server.json_max_tokens
    counted = data is None
    if data is None:
        data = await large_body(call)
    request.size = len(data)
    request.body = body = parse_json_object(data, max_depth=server.json_max_depth, max_tokens=most, counted=counted)
    if request.size > HEAVY_BYTES:
        await asyncio.sleep(0)
    if call.given is not None:
        body.update(call.given)
    call.wire.validate(body)
    request.model = body["model"]
    request.stream = body.get("stream") is True and call.wire.streams


async def large_body(call: Call) -> bytes:
    """A body that has not come with its head: read it if there is room for it beside those of the calls that run, and count its
    tokens.

    One of unknown length needs room for the largest. Any may come while it is the only one.
    """
    running, server = call.gateway.calls, call.gateway.config.server
    told = call.head.headers.get("Content-Length")
    room = server.max_body_bytes if told is None else min(int(told), server.max_body_bytes)
    if running.body_bytes and running.body_bytes + room > server.max_bodies_bytes:
        call.down.close_after()  # it is not read
        raise Unavailable("The gateway holds as many large requests as it has room for. Try again shortly.")
    running.body_bytes += room
    call.body_bytes = room
    data = await call.head.body()
    running.body_bytes += len(data) - room
    call.body_bytes = len(data)
    if len(data) > server.json_max_tokens:  # a token has at least one byte
        for _ in counting(data, server.json_max_tokens):
            await asyncio.sleep(0)
    return data


def authenticate(gateway: Gateway, head: HttpRequest) -> Awaitable[Identity | None]:
    """The caller's identity by the first authenticator that knows it; None, which is to be a 401, when none does."""
    return first_result(gateway.chains.authenticate, (gateway, head), gateway.chain_seconds, Identity)


def plan(call: Call) -> None:
    """The targets, in order, that this caller may use for this name."""
    exchange = call.exchange
    exchange.phase = "limit"
    exchange.targets = allowed_targets(call, exchange.request.model)


def allowed_targets(call: Call, model: str) -> tuple[Target, ...]:
    """The plan for `model` less what the key may not use; 404 for a name nobody serves, 403 when nothing is left."""
    planned = call.gateway.plan(model)
    identity = call.exchange.identity
    if identity is None or not identity.models:
        return planned
    left = routing.targets_of(planned, identity.models, model)
    if not left:
        raise PermissionDenied(NOT_ALLOWED, param="model")
    if not routing.allows_others(left, identity.models, call.exchange.request.body):
        raise PermissionDenied(NOT_ALLOWED, param=routing.OTHER_MODELS)
    return left


async def ask(call: Call) -> Reply | None:
    """Let plugins look at, change, answer or refuse the request; what they leave is validated again, changed or not: to find out
    takes as long."""
    gateway, exchange, planned = call.gateway, call.exchange, call.exchange.targets
    exchange.replan = partial(allowed_targets, call)
    try:
        reply = await first_result(gateway.chains.pre_request, (gateway, exchange), gateway.chain_seconds, Reply)
    except PluginError:
        note_unusable_request(call)  # who trips over what another has left is not the one to mend
        raise
    finally:
        exchange.replan = None
    changed = exchange.targets is not planned or type(exchange.request.body) is not dict
    if reply is None and changed and note_unusable_request(call):
        raise PluginError()
    if reply is None:
        call.wire.validate(exchange.request.body)
    exchange.request.stream = exchange.request.body.get("stream") is True and call.wire.streams
    return reply


def estimate(call: Call) -> Reply:
    """The count of a prompt whose provider has no way to count it."""
    tokens = estimate_tokens(call.wire.input_bytes(call.exchange.request.body))
    call.exchange.attributes["estimated"] = True
    return Reply([Chunk("end", usage=Usage(input_tokens=tokens))], served_by="gateway")


async def share(call: Call) -> None:
    """Answer from an upstream call that others may join, or that somebody collects: one that runs already, or a new one."""
    flights = call.gateway.flights
    flight = flights.find(call.exchange)
    if flight is not None:
        await join(call, flight)
        return
    flights.begin(call)
    try:
        await attempt_targets(call)
    except BaseException as error:
        if call.flight is not None:
            call.flight.fail(error)
        raise
    finally:
        flights.end(call)


async def join(call: Call, flight: Flight) -> None:
    """Answer from an upstream call that somebody else has begun, and pays for."""
    exchange = call.exchange
    exchange.cache = "joined"
    exchange.attributes["answer_of"] = flight.starter.exchange.id
    call.flight = flight
    if exchange.targets:
        call.whole_due = time.monotonic() + exchange.targets[0].timeouts.whole
    reader = flight.board(call)
    try:
        try:
            await reader.wait()
        except BaseException:
            exchange.phase = flight.phase
            raise
        withhold = not call.wire.ask_for_usage(dict(exchange.request.body))
        await answer_upstream(call, flight.attempt, reader, withhold)
    finally:
        reader.close()


async def finish(call: Call) -> None:
    """The answer is on its way; see that the client takes it, or amend the row."""
    if call.row is None:
        return
    try:
        if not await call.down.drained(call.gateway.config.server.write_stall_timeout_s):
            _amend(call, ClientStalled())
    except asyncio.CancelledError:
        if call.reason is None or isinstance(call.reason, ClientGone):
            _amend(call, call.reason or ClientGone())
        raise


def _amend(call: Call, error: MuxxError) -> None:
    """The client did not take the end of an answer whose row says that it was whole."""
    exchange = call.exchange
    exchange.ended_by, exchange.phase, exchange.error = "client", "finish", error
    amend(call, {"status": error.status, "ended_by": "client", "phase": "finish", "error_code": error.code})


async def _fail(call: Call, error: MuxxError) -> None:
    """Settle and record an exchange that did not end well, and tell the client as much as can still be told."""
    exchange, down = call.exchange, call.down
    call.due = call.whole_due = NEVER
    if call.recorded:
        return
    if isinstance(error, AuthenticationError):
        error = call.gateway.strangers.told(error, call.head.remote)
    exchange.error = error
    exchange.ended_by = _whose(error)
    if down.head_sent:
        exchange.response.status = exchange.response.status or 200
    elif isinstance(error, ProviderRefusal):
        call.delivered = error.body
    try:
        settle(call, complete=False)
        note(call, final_status(exchange, error))
        if not call.recorded:
            await synced(call)
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
        down.break_off(b"" if call.error_relayed else call.error_event(error))
        return
    provider_lines = ""
    if isinstance(error, ProviderRefusal):
        body, provider_lines = error.body, error.lines
    else:
        body = call.wire.error_body(error, call.exchange.id)
    if error.status in (408, 413, 415, 417):
        down.close_after()  # the rest of the request was not read
    own_lines = lines({"Content-Type": "application/json", **error_headers(error)})
    down.whole(error.status, answer_lines(call.exchange) + own_lines + provider_lines, body)

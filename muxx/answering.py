"""Bring a provider's answer to the client: a stream, or a plain one.

Each ends the same way: the answer is complete, its usage and cost are settled, its row is recorded, and only then
its last byte leaves. What goes wrong is raised; the pipeline settles it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from .accounting import note, settle, stores_content, synced
from .call import NEVER
from .chains import describe_crash, isolated, run_chunk
from .errors import ClientGone, MuxxError, PluginError, ProviderRefusal, UpstreamAuth, UpstreamError, UpstreamProtocolError
from .headers import answer_lines, content_type_line, downstream_lines, retry_after
from .money import usd
from .relay import Delivered, HookedRelay, Relay
from .reply import Chunk, is_event_stream
from .routing import RETRY_STATUSES
from .targets import Attempt

if TYPE_CHECKING:
    from .call import Call
    from .plugins import Chain
    from .transport import UpstreamResponse
    from .wire.wires import Facts, StreamFacts

log = logging.getLogger("muxx.plugins")

Tap = Callable[[bytes], None]

STREAM_LINES = "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"

JOINED_LINES = "Age: 0\r\nX-Muxx-Cost: 0\r\n"
"""What is known of a joined call before its answer: it is as fresh as can be, and somebody else's to pay for."""

TRAILER_SECONDS = 0.25
"""After `[DONE]`: how long the provider may take to end its response before its connection is given up."""


def chunk_chain(call: Call) -> Chain:
    """The `on_chunk` steps of this exchange: those plugins took off it are left out."""
    chain = call.gateway.chains.on_chunk
    skipped = call.exchange.skipped
    return tuple(step for step in chain if step.plugin not in skipped) if skipped else chain


async def answer_upstream(call: Call, attempt: Attempt, response: UpstreamResponse, withhold_usage: bool) -> None:
    """Bring the provider's answer to the client, in the form in which it came."""
    if call.exchange.request.stream and response.status == 200 and is_event_stream(response.headers.get("content-type", "")):
        await answer_stream(call, attempt, response, withhold_usage=withhold_usage)
    else:
        await answer_plain(call, attempt, response)


async def answer_stream(call: Call, attempt: Attempt, response: UpstreamResponse, *, withhold_usage: bool) -> None:
    """Relay a stream, event by event."""
    exchange, down, timeouts = call.exchange, call.down, attempt.target.timeouts
    exchange.phase = "stream"
    call.facts = call.stream = stream = call.wire.stream(attempt.body, not withhold_usage)
    exchange.response.facts = stream
    _refuse_encoded(response)
    joined = JOINED_LINES if exchange.cache == "joined" else ""
    provider_lines = downstream_lines(attempt.target.provider, response.headers)
    down.begin(200, answer_lines(exchange) + joined + STREAM_LINES + provider_lines)
    exchange.note_head(sent=True)
    taps = [isolated(tap) for tap in exchange.taps]
    relay, readback = _relay(call, attempt, response, stream, taps, include_usage=not withhold_usage)
    call.due, call.on_due = time.monotonic() + timeouts.first_token, relay.timed_out
    pump = asyncio.ensure_future(response.pump(relay))
    pump.add_done_callback(relay.pumped)
    try:
        error = await (relay.run() if isinstance(relay, HookedRelay) else relay.over)
        call.error_relayed = relay.relayed_error
        exchange.timing.first_token = relay.first_event
        if error is not None:
            raise _told_by_provider(stream.error, error)
        if relay.surplus:
            exchange.attributes["surplus_after_done"] = True
        if readback is not None:
            readback.take_last(relay.last)
        delivered = stream if readback is None else readback.facts
        await complete_stream(call, stream, delivered, relay.last, taps, comment=relay.comments_allowed)
        if not pump.done():
            await asyncio.wait((pump,), timeout=TRAILER_SECONDS)
    except asyncio.CancelledError:
        if exchange.phase == "stream" and stream.finished:
            exchange.phase = "finish"  # only the end was still to come
        raise
    finally:
        call.due, call.on_due, down.on_resume = NEVER, None, None
        call.committed = relay.first_event is not None
        exchange.timing.first_token = relay.first_event
        if not pump.done():
            pump.cancel()


def _relay(
    call: Call, attempt: Attempt, response: UpstreamResponse, stream: StreamFacts, taps: list[Tap], *, include_usage: bool
) -> tuple[Relay, Delivered | None]:
    """The relay for this exchange, and where hooks may change the answer, what reads back what the client gets from it."""
    server = call.gateway.config.server
    kind: Any = Relay
    readback: Delivered | None = None
    chain = chunk_chain(call)
    if chain:
        readback = Delivered(call.wire.stream(attempt.body, True), 2 * server.max_event_bytes)
        call.exchange.response.facts = readback.facts
        taps = [*taps, readback.take]
        kind = partial(HookedRelay, hooks=chunk_hooks(call, chain), codec=call.wire.codec(stream, include_usage))
    relay: Relay = kind(
        stream,
        response,
        call.down,
        call,
        between_events=attempt.target.timeouts.between_events,
        finish_grace=server.finish_grace_s,
        max_event_bytes=server.max_event_bytes,
        masked=partial(_masked, call, attempt),
        taps=taps,
    )
    return relay, readback


def chunk_hooks(call: Call, chain: Chain) -> Any:
    async def hooks(chunk: Chunk) -> list[Chunk]:
        return await run_chunk(chain, (call.gateway, call.exchange), chunk, call.gateway.config.server.max_event_bytes)

    return hooks


def _told_by_provider(said: Any, error: MuxxError) -> MuxxError:
    """An error the provider tells of inside its answer keeps the provider's code in the row."""
    if isinstance(said, dict) and isinstance(code := said.get("code") or said.get("type"), str):
        return UpstreamError(code=code[:64])
    return error


async def complete_stream(
    call: Call, facts: Facts, delivered: Facts, last: bytes, taps: Iterable[Tap], *, comment: bool
) -> None:
    """Everything but the held-back end is out: settle and record, then let the end go, with the cost before it."""
    exchange, down, wire = call.exchange, call.down, call.wire
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    learn(call, facts, delivered, 200)
    if call.delivered is None and stores_content(exchange):
        call.delivered = orjson.dumps(wire.assembled(delivered))
    failure = call.stream.error if call.stream is not None else None
    if failure:  # the provider says in the answer's last event that it failed
        exchange.error, exchange.ended_by = _told_by_provider(failure, UpstreamError()), "upstream"
    settle(call, complete=not failure)
    for tap in taps:
        tap(last)
    note(call, 200)
    if not call.recorded:
        await synced(call)
    if last and comment and call.gateway.config.server.stream_cost_comment:
        last = wire.comment_event(exchange.cost, exchange.id, exchange.usage) + last
    down.end(last, lambda error: wire.error_event(error, call.stream))


def learn(call: Call, facts: Facts, delivered: Facts, status: int) -> None:
    """What plugins and the row are told of the answer: usage as the provider has it, the text as the client gets it."""
    response = call.exchange.response
    response.status = status
    response.id, response.model = facts.id, facts.model
    response.finish_reasons = list(facts.finish_reasons.values())
    response.facts = delivered
    call.facts = facts
    if facts.usage_invalid:
        call.exchange.attributes["usage_invalid"] = True


def _refuse_encoded(response: UpstreamResponse) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamProtocolError("The model provider sent a compressed answer though none was asked for.")


TOO_LARGE = "The model provider's answer is larger than the gateway's limit."


class Collector:
    """A sink for a plain answer: all of it, up to a limit."""

    def __init__(self, call: Call, response: UpstreamResponse, seconds: float, most: int, *, commits: bool) -> None:
        self._call = call
        self._response = response
        self._seconds = seconds
        self._most = most
        self._commits = commits
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._call.committed = self._commits
        self._call.due = time.monotonic() + self._seconds
        self._size += len(data)
        if self.overfull:
            self._response.close()
        else:
            self._pieces.append(data)

    @property
    def overfull(self) -> bool:
        return self._size > self._most

    @property
    def body(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


async def answer_plain(call: Call, attempt: Attempt, response: UpstreamResponse) -> None:
    """Pass on a plain answer, byte for byte."""
    status, headers = response.status, response.headers
    body = await _body(call, attempt, response)
    call.committed = True
    content_type = headers.get("content-type", "application/json")
    if "text/event-stream" in content_type.lower():
        raise UpstreamError("The model provider answered with a stream nobody asked for.")
    facts = delivered = call.wire.read_plain(body)
    if chunk_chain(call):
        body = await hooked_plain(call, body)
        delivered = call.wire.read_plain(body)
    learn(call, facts, delivered, status)
    attempt.ended = attempt.ended or time.monotonic()
    age = "Age: 0\r\n" if call.exchange.cache == "joined" else ""
    await send_whole(call, status, body, content_type, age + downstream_lines(attempt.target.provider, headers))


async def _body(call: Call, attempt: Attempt, response: UpstreamResponse) -> bytes:
    """All of a plain answer's bytes, within the limits."""
    _refuse_encoded(response)
    call.exchange.phase = "stream"
    body = response.body_now()
    if body is None:
        return await _collect(call, attempt, response)
    if len(body) > call.gateway.config.server.max_response_bytes:
        raise UpstreamProtocolError(TOO_LARGE)
    return body


async def _collect(call: Call, attempt: Attempt, response: UpstreamResponse) -> bytes:
    timeouts, server = attempt.target.timeouts, call.gateway.config.server
    commits = 200 <= response.status < 300
    collector = Collector(call, response, timeouts.between_events, server.max_response_bytes, commits=commits)
    call.due, call.on_due = time.monotonic() + timeouts.first_token, None
    try:
        await response.pump(collector)
    except UpstreamError:
        if not collector.overfull:
            raise
    finally:
        call.due = NEVER
    if collector.overfull:
        raise UpstreamProtocolError(TOO_LARGE)
    return collector.body


async def send_whole(call: Call, status: int, body: bytes, content_type: str, extra: str = "") -> None:
    """Settle and record, then send a whole answer in one write."""
    exchange, down = call.exchange, call.down
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    exchange.response.status = status
    for tap in exchange.taps:
        isolated(tap)(body)
    call.delivered = body if call.facts is not None else _as_json(body)
    settle(call, complete=True)
    note(call, status)
    if not call.recorded:
        await synced(call)
    head = answer_lines(exchange) + content_type_line(content_type) + extra
    if exchange.cost is not None:
        head += f"X-Muxx-Cost: {usd(exchange.cost.total_pico)}\r\n"
    exchange.note_head(sent=True)
    down.whole(status, head, body)


def _as_json(body: bytes) -> bytes:
    """A body nobody has read yet, as the row keeps it: as it is when it is JSON, else as a string."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.dumps(body.decode("utf-8", "replace"))
    return body


async def hooked_plain(call: Call, body: bytes) -> bytes:
    """A plain answer is a short stream of the same Chunks."""
    chunks = await through(call, chunk_chain(call), call.wire.decode_plain(body))
    try:
        return call.wire.encode_plain(body, chunks)
    except Exception as error:  # the provider's own chunks can be encoded; a plugin's need not be
        log.error("chunks a plugin returned cannot be encoded: %s", describe_crash(error))
        raise PluginError() from error


async def through(call: Call, chain: Chain, chunks: Iterable[Chunk]) -> list[Chunk]:
    """What the hooks let through of these chunks, up to the first `end`."""
    hooks = chunk_hooks(call, chain)
    out: list[Chunk] = []
    for chunk in chunks:
        for result in await hooks(chunk):
            out.append(result)
            if result.kind == "end":
                return out
    return out


async def refusal(call: Call, attempt: Attempt, response: UpstreamResponse) -> MuxxError:
    """What a provider's status other than 2xx means to the client."""
    status, body = response.status, await _body(call, attempt, response)
    provider = attempt.target.provider
    own_key = not (provider.forward_client_credentials and call.head.client_credential)
    if status in (401, 403) and own_key:
        return UpstreamAuth()
    if not 400 <= status < 600 or body.lstrip()[:1] == b"<":
        return UpstreamError()
    wait = retry_after(response.headers)
    error = _error_member(body)
    code = error.get("code") or error.get("type")
    refusal = ProviderRefusal(
        status,
        b"",
        code[:64] if isinstance(code, str) else "upstream_error",
        retry=status in RETRY_STATUSES,
        retry_after=wait,
    )
    refusal.body = _masked(call, attempt, body) if error else call.wire.error_body(refusal)
    return refusal


def _error_member(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _masked(call: Call, attempt: Attempt, body: bytes) -> bytes:
    """A provider's error body without the secrets muxx knows, which some providers quote."""
    secrets = {attempt.target.provider.api_key, call.head.client_credential}
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode("utf-8", "surrogateescape"), b"***")
    return body

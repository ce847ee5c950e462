"""Bring an answer to the client: a provider's stream, a provider's plain answer, or a plugin's reply.

Each of the three ends the same way: the answer is complete, its usage and cost are settled, its row is recorded, and only then
its last byte leaves. What goes wrong is raised; the pipeline settles it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from .accounting import record, settle
from .chains import describe_crash, isolated, run_chunk
from .errors import ClientGone, MuxxError, PluginError, ProviderRefusal, UpstreamAuth, UpstreamError, UpstreamProtocolError
from .exchange import Attempt, Chunk, Reply, usd
from .headers import answer_headers, client_credential, downstream_headers, retry_after
from .relay import Delivered, HookedRelay, Relay
from .routing import RETRY_STATUSES
from .wire import openai
from .wire.sse import EventSplitter

if TYPE_CHECKING:
    from .call import Call
    from .plugins import Chain
    from .upstream import UpstreamResponse

T = TypeVar("T")

STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

TRAILER_SECONDS = 0.25
"""After `[DONE]`: how long the provider may take to end its response before its connection is given up."""


def chunk_chain(call: Call) -> Chain:
    """The `on_chunk` steps of this exchange: those plugins took off it are left out."""
    chain = call.gateway.plugins.chain("on_chunk")
    skipped = call.exchange.skipped
    return tuple(step for step in chain if step.plugin not in skipped) if skipped else chain


async def answer_stream(call: Call, attempt: Attempt, response: UpstreamResponse, *, withhold_usage: bool) -> None:
    """Relay a stream, event by event."""
    exchange, down, timeouts = call.exchange, call.down, attempt.target.timeouts
    exchange.phase = "stream"
    stream = openai.ChatStream(client_asked_usage=not withhold_usage, choices=_choices(attempt.body))
    call.facts = stream
    exchange.response.read_text = lambda: stream.text
    _refuse_encoded(response)
    headers = answer_headers(exchange) | STREAM_HEADERS | downstream_headers(attempt.target.provider, response.headers)
    down.begin(200, headers)
    exchange.reply_headers.sent = True
    relay, delivered = _relay(call, attempt, response, stream, include_usage=not withhold_usage)
    call.due, call.on_due = time.monotonic() + timeouts.first_token, relay.timed_out
    pump = asyncio.ensure_future(response.pump(relay))
    pump.add_done_callback(relay.pumped)
    try:
        error = await (relay.run() if isinstance(relay, HookedRelay) else relay.over)
        call.error_relayed = relay.relayed_error
        exchange.timing.first_token = relay.first_event
        if error is not None:
            raise _told_by_provider(stream, error)
        if relay.surplus:
            exchange.attributes["surplus_after_done"] = True
        await _complete_stream(call, stream, delivered, relay.last, comment=relay.comments_allowed)
        if not pump.done():
            await asyncio.wait((pump,), timeout=TRAILER_SECONDS)
    except asyncio.CancelledError:
        if exchange.phase == "stream" and stream.finished:
            exchange.phase = "finish"  # only the end was still to come
        raise
    finally:
        call.due, call.on_due, down.on_resume = float("inf"), None, None
        call.committed = relay.first_event is not None
        exchange.timing.first_token = relay.first_event
        if not pump.done():
            pump.cancel()


def _relay(
    call: Call, attempt: Attempt, response: UpstreamResponse, stream: openai.ChatStream, *, include_usage: bool
) -> tuple[Relay, openai.ChatFacts]:
    """The relay for this exchange, and the facts of what the client gets from it."""
    server, taps = call.gateway.config.server, [isolated(tap) for tap in call.exchange.taps]
    kind: Any = Relay
    delivered: openai.ChatFacts = stream
    chain = chunk_chain(call)
    if chain:
        readback = Delivered(2 * server.max_event_bytes)
        delivered = readback.facts
        taps.append(readback.take)
        kind = partial(HookedRelay, hooks=_hooks(call, chain), include_usage=include_usage)
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
    return relay, delivered


def _hooks(call: Call, chain: Chain) -> Any:
    async def hooks(chunk: Chunk) -> list[Chunk]:
        return await run_chunk(chain, (call.gateway, call.exchange), chunk, call.gateway.config.server.max_event_bytes)

    return hooks


def _told_by_provider(stream: openai.ChatStream, error: MuxxError) -> MuxxError:
    """An error event of the provider keeps the provider's code in the row."""
    if isinstance(stream.error, dict) and isinstance(code := stream.error.get("code") or stream.error.get("type"), str):
        return UpstreamError(code=code[:64])
    return error


async def _complete_stream(
    call: Call, facts: openai.ChatFacts, delivered: openai.ChatFacts, last: bytes, *, comment: bool
) -> None:
    """Everything but the held-back end is out: settle and record, then let the end go, with the cost before it."""
    exchange, down = call.exchange, call.down
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    _learn(call, facts, 200)
    call.delivered = openai.assembled(delivered)
    settle(call, complete=True)
    await record(call, 200)
    if last and comment and call.gateway.config.server.stream_cost_comment:
        last = openai.comment_event(exchange.cost, exchange.id, exchange.usage) + last
    down.end(last)


def _learn(call: Call, facts: openai.ChatFacts, status: int) -> None:
    """What plugins and the row are told of the answer."""
    response = call.exchange.response
    response.status = status
    response.id, response.model = facts.id, facts.model
    response.finish_reasons = list(facts.finish_reasons.values())
    response.read_text = lambda: facts.text
    call.facts = facts
    if facts.usage_invalid:
        call.exchange.attributes["usage_invalid"] = True


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    return n if isinstance(n, int) and n > 1 else 1


def _refuse_encoded(response: UpstreamResponse) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamProtocolError("The model provider sent a compressed answer though none was asked for.")


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
    """Pass on a plain answer, byte for byte, or raise what the provider's refusal means."""
    _refuse_encoded(response)
    body = await _collect(call, attempt, response)
    if not 200 <= response.status < 300:
        raise _refusal(call, attempt, response, body)
    if "text/event-stream" in response.headers.get("content-type", "").lower():
        raise UpstreamError("The model provider answered with a stream nobody asked for.")
    facts = openai.read_completion(body)
    _learn(call, facts, response.status)
    chain = chunk_chain(call)
    if chain:
        body = await _hooked_plain(call, chain, body)
    attempt.ended = time.monotonic()
    content_type = response.headers.get("content-type", "application/json")
    await _send_whole(call, response.status, body, content_type, downstream_headers(attempt.target.provider, response.headers))


async def _collect(call: Call, attempt: Attempt, response: UpstreamResponse) -> bytes:
    call.exchange.phase = "stream"
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
        call.due = float("inf")
    if collector.overfull:
        raise UpstreamProtocolError("The model provider's answer is larger than the gateway's limit.")
    return collector.body


async def _send_whole(call: Call, status: int, body: bytes, content_type: str, extra: Mapping[str, str]) -> None:
    """Settle and record, then send a whole answer in one write."""
    exchange, down = call.exchange, call.down
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    exchange.response.status = status
    for tap in exchange.taps:
        isolated(tap)(body)
    call.delivered = orjson.Fragment(body) if call.facts is not None else _as_json(body)
    settle(call, complete=True)
    await record(call, status)
    headers = {**answer_headers(exchange), "Content-Type": content_type, **extra}
    if exchange.cost is not None:
        headers["X-Muxx-Cost"] = usd(exchange.cost.total_pico) or "0"
    exchange.reply_headers.sent = True
    down.whole(status, headers, body)


def _as_json(body: bytes) -> Any:
    """A body nobody has read yet, as the row keeps it: as it is when it is JSON, else as a string."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
    return orjson.Fragment(body)


async def _hooked_plain(call: Call, chain: Chain, body: bytes) -> bytes:
    """A plain answer is a short stream of the same Chunks."""
    return openai.encode_plain(body, await _through(call, chain, openai.decode_completion(body)))


async def _through(call: Call, chain: Chain, chunks: Iterable[Chunk]) -> list[Chunk]:
    hooks = _hooks(call, chain)
    out: list[Chunk] = []
    for chunk in chunks:
        for result in await hooks(chunk):
            out.append(result)
            if result.kind == "end":
                return out
    return out


def _refusal(call: Call, attempt: Attempt, response: UpstreamResponse, body: bytes) -> MuxxError:
    """What a provider's status other than 2xx means to the client."""
    status = response.status
    provider = attempt.target.provider
    own_key = not (provider.forward_client_credentials and client_credential(call.head.headers))
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
    refusal.body = _masked(call, attempt, body) if error else openai.error_body(refusal)
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
    secrets = {attempt.target.provider.api_key, client_credential(call.head.headers)}
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode("utf-8", "surrogateescape"), b"***")
    return body


async def answer_from_plugin(call: Call, reply: Reply) -> None:
    """Send a plugin's reply in the form the client asked for; bytes, Chunks, or an async iterator of either.

    Whatever is wrong with it, and its running longer than a whole request may, is a crash of the plugin.
    """
    exchange = call.exchange
    exchange.served_by = reply.served_by
    exchange.reply_headers.update(reply.headers)
    exchange.phase = "stream"
    try:
        async with asyncio.timeout(call.gateway.config.server.request_timeout_s), _closing(reply.body):
            await _reply(call, reply)
    except MuxxError:
        raise
    except Exception as error:
        call.gateway.log.error("request %s: a plugin's reply failed: %s", exchange.id, describe_crash(error))
        raise PluginError() from error


@asynccontextmanager
async def _closing(body: Any) -> AsyncIterator[None]:
    """Close an async generator at the end, whoever ended it."""
    try:
        yield
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()


async def _reply(call: Call, reply: Reply) -> None:
    if isinstance(reply.body, bytes):
        await _reply_bytes(call, reply, reply.body)
    elif isinstance(reply.body, AsyncIterator):
        await _reply_iterator(call, reply, reply.body)
    else:
        await _reply_chunks(call, list(reply.body))


async def _reply_bytes(call: Call, reply: Reply, body: bytes) -> None:
    if reply.status != 200 or reply.content_type != "application/json":
        await _send_whole(call, reply.status, body, reply.content_type, {})
        return
    facts = _understood(openai.read_completion, body)
    if call.exchange.request.stream:
        await _reply_chunks(call, openai.decode_completion(body))
        return
    chain = chunk_chain(call)
    if chain:
        body = await _hooked_plain(call, chain, body)
        facts = openai.read_completion(body)
    _learn(call, facts, 200)
    await _send_whole(call, 200, body, reply.content_type, {})


def _understood(read: Callable[[bytes], T], body: bytes) -> T:
    """What a plugin's bytes say; a plugin is to blame, not a provider, when they are no answer."""
    try:
        return read(body)
    except UpstreamError as error:
        raise ValueError("the reply's bytes are no chat completion") from error


async def _reply_chunks(call: Call, chunks: list[Chunk]) -> None:
    if not any(chunk.kind == "end" for chunk in chunks):
        chunks.append(Chunk("end"))
    chunks = await _through(call, chunk_chain(call), chunks)
    if not call.exchange.request.stream:
        body = openai.encode_completion(chunks, _head(call))
        _learn(call, openai.read_completion(body), 200)
        await _send_whole(call, 200, body, "application/json", {})
        return
    await _stream_reply(call, _one(openai.encode_stream(chunks, _head(call)).removesuffix(openai.DONE_EVENT)), openai.DONE_EVENT)


async def _reply_iterator(call: Call, reply: Reply, items: AsyncIterator[Any]) -> None:
    if not call.exchange.request.stream:
        collected = [item async for item in items]
        if all(isinstance(item, bytes) for item in collected):
            await _reply_bytes(call, reply, b"".join(collected))
        else:
            await _reply_chunks(call, collected)
        return
    await _stream_reply(call, _encoded(call, items), openai.DONE_EVENT)


async def _encoded(call: Call, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Items as event bytes, through the hooks where there are any; the `[DONE]` is left out, for the kernel adds it."""
    encoder, chain = openai.ChunkEncoder(_head(call)), chunk_chain(call)
    splitter = EventSplitter(call.gateway.config.server.max_event_bytes)
    as_they_are = False
    async for item in items:
        if isinstance(item, Chunk):
            groups = [[item]]
        elif chain:
            groups = [openai.decode_event(event) for event in splitter.feed(item)]
        else:
            as_they_are = True
            yield b"".join(raw for raw, data in splitter.feed(item) if data and data.strip() != b"[DONE]")
            continue
        for group in groups:
            chunks = await _through(call, chain, group)
            yield encoder.encode(chunks)
            if _is_ended(chunks):
                return
    if not as_they_are:
        yield encoder.encode(await _through(call, chain, [Chunk("end")]))


def _is_ended(chunks: list[Chunk]) -> bool:
    return bool(chunks) and chunks[-1].kind == "end"


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _stream_reply(call: Call, pieces: AsyncIterator[bytes], last: bytes) -> None:
    """Stream a plugin's pieces at the client's pace."""
    exchange, down, server = call.exchange, call.down, call.gateway.config.server
    delivered = Delivered(2 * server.max_event_bytes)
    down.begin(200, answer_headers(exchange) | STREAM_HEADERS)
    exchange.reply_headers.sent = True
    taps = [isolated(tap) for tap in exchange.taps]
    async for piece in pieces:
        if piece:
            exchange.timing.first_token = exchange.timing.first_token or time.monotonic()
            down.send(piece)
            delivered.take(piece)
            for tap in taps:
                tap(piece)
        if down.paused and not await down.drained(server.write_stall_timeout_s):
            raise ClientGone()
    await _complete_stream(call, delivered.facts, delivered.facts, last, comment=True)


def _head(call: Call) -> openai.AnswerHead:
    exchange = call.exchange
    return openai.AnswerHead(f"chatcmpl-{exchange.id[4:]}", exchange.request.model, int(exchange.timing.started_at))

"""Bring a plugin's reply to the client, in the form the client asked for; it ends as a provider's answer does.

A `Reply` carries bytes, Chunks, or an async iterator of either; one with a provider's whole answer goes by `again`. Whatever is
wrong with it is the plugin's crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .accounting import NO_COST
from .answering import STREAM_LINES, asks_for_usage, chunk_chain, complete_stream, hooked_plain, learn, send_whole, through
from .chains import is_plugins_own, isolated
from .crashes import describe_crash
from .driving import DrivenItems
from .errors import ClientGone, ClientStalled, MuxxError, PluginError, UpstreamError
from .headers import answer_lines
from .hookedrelay import Delivered
from .money import usd
from .plugins import Step
from .reply import KERNEL_HEADERS, Chunk, Reply, WholeAnswer
from .wire.mending import Mender, observed
from .wire.sse import Event, EventSplitter
from .wire.wire import DONE, DROP, WITHHOLD, AnswerHead, Head

if TYPE_CHECKING:
    from .call import Call
    from .wire.wire import Facts, StreamFacts


log = logging.getLogger("muxx.plugins")


async def answer_from_plugin(call: Call, reply: Reply) -> None:
    """Send the reply. It may run no longer than a whole request may."""
    exchange = call.exchange
    exchange.served_by = reply.served_by
    exchange.phase = "stream"
    try:
        exchange.reply_headers.update(reply.headers)
        async with asyncio.timeout(call.gateway.config.server.request_timeout_s):
            await _reply(call, reply)
    except MuxxError:
        raise
    except BaseException as error:
        if not is_plugins_own(error):
            raise
        what = str(error) if isinstance(error, UnusableReply) else describe_crash(error)
        call.gateway.log.error("plugin %s failed in its reply to request %s: %s", reply.plugin, exchange.id, what)
        raise PluginError() from error


BODILESS = (204, 304)
"""Statuses behind whose head clients expect the next answer."""

WRITTEN_FOR_ROUTES = KERNEL_HEADERS - {"cache-control", "x-accel-buffering"}
"""Response headers that are not a route's to set."""


class UnusableReply(Exception):
    """Why a reply cannot be sent, in our own words."""


def refuse_unusable(reply: Reply, *bodies: type) -> None:
    """Raise `UnusableReply` for a status no answer has, and a body of none of these kinds."""
    if type(reply.status) is not int or not 200 <= reply.status <= 599:
        raise UnusableReply(f"the status of its Reply is {reply.status!r:.20}; give an int from 200 to 599")
    if not isinstance(reply.body, bodies) or isinstance(reply.body, str | Mapping):
        raise UnusableReply(f"its Reply carries a {type(reply.body).__name__}; give bytes, or an async iterator of them")
    if reply.status in BODILESS and reply.body != b"":
        raise UnusableReply(f"its Reply carries a body, and an answer of status {reply.status} has none")


def refuse_kernel_headers(reply: Reply) -> None:
    """Raise `UnusableReply` for headers of a route's reply that the kernel writes: twice, they could move the answer's end."""
    if not isinstance(reply.headers, Mapping):
        raise UnusableReply(f"the headers of its Reply are a {type(reply.headers).__name__}; give a mapping")
    for name in reply.headers:
        if str(name).lower() in WRITTEN_FOR_ROUTES:
            raise UnusableReply(f"its Reply sets {name}, which is written by the kernel; the content type is a field of its own")


@asynccontextmanager
async def items_of(step: Step, items: AsyncIterator[Any]) -> AsyncIterator[DrivenItems]:
    """What a plugin's iterator brings. It is closed at the end, whoever ended it; what goes wrong in that is nobody's answer."""
    driven = DrivenItems(step, items)
    try:
        yield driven
    finally:
        try:
            await driven.aclose()
        except BaseException as error:
            if not is_plugins_own(error):
                raise
            log.error("plugin %s failed as its reply was closed: %s", step.plugin, describe_crash(error))


async def _reply(call: Call, reply: Reply) -> None:
    refuse_unusable(reply, bytes, AsyncIterator, Iterable)
    if isinstance(reply.body, bytes):
        await _reply_bytes(call, reply, reply.body)
    elif isinstance(reply.body, AsyncIterator):
        step = Step(reply.plugin, lambda: None, is_async=True, hook="its reply")
        async with items_of(step, reply.body) as items:
            await _reply_iterator(call, reply, items)
    else:
        assert not isinstance(reply.body, WholeAnswer), "the pipeline gives it again"
        await _reply_chunks(call, list(reply.body))


async def _reply_bytes(call: Call, reply: Reply, body: bytes) -> None:
    if reply.status == 200 and reply.content_type == "application/json":
        await _reply_plain(call, body, reply.content_type)
    else:
        await send_whole(call, reply.status, body, reply.content_type)


async def _reply_plain(call: Call, body: bytes, content_type: str) -> None:
    """A plain answer's bytes, streamed where a stream was asked for."""
    facts = _understood(call, body)
    if call.exchange.request.stream:
        await stream_items(call, listed(call.wire.decode_plain(body)), facts)
        return
    if chunk_chain(call):
        body = await hooked_plain(call, body)
        facts = call.wire.read_plain(body)
    learn(call, facts, facts, 200)
    await send_whole(call, 200, body, content_type)


def _understood(call: Call, body: bytes) -> Facts:
    """What a plugin's bytes say; a plugin is to blame, not a provider, when they are no answer."""
    try:
        return call.wire.read_plain(body)
    except UpstreamError as error:
        raise UnusableReply("the bytes of its Reply are no answer of this endpoint; Chunks are put into its format") from error


async def _reply_chunks(call: Call, chunks: list[Chunk]) -> None:
    if not all(isinstance(chunk, Chunk) for chunk in chunks):
        raise UnusableReply("its Reply carries something else than bytes or Chunks")
    if not _is_ended(chunks):
        chunks.append(Chunk("end"))
    if call.exchange.request.stream:
        await stream_items(call, listed(chunks), head(call))
        return
    body = call.wire.encode_answer(await through(call, chunk_chain(call), chunks), head(call))
    facts = call.wire.read_plain(body)
    learn(call, facts, facts, 200)
    await send_whole(call, 200, body, "application/json")


async def _reply_iterator(call: Call, reply: Reply, items: AsyncIterator[Any]) -> None:
    if call.exchange.request.stream:
        await stream_items(call, items, head(call))
        return
    collected = [item async for item in items]
    if all(isinstance(item, bytes) for item in collected):
        await _reply_bytes(call, reply, b"".join(collected))
    else:
        await _reply_chunks(call, collected)


def begin_stream(call: Call, facts: StreamFacts, extra: str = "") -> None:
    """The head of a streamed reply, whose cost is known before it; `facts` are what is going to be known of it."""
    exchange = call.exchange
    call.stream = exchange.response.facts = facts
    exchange.cost = exchange.cost or NO_COST
    cost = f"X-Muxx-Cost: {usd(exchange.cost.total_pico)}\r\n"
    call.down.begin(200, answer_lines(exchange) + extra + cost + STREAM_LINES)
    exchange.note_head(sent=True)


async def stream_items(
    call: Call, items: AsyncIterator[Any], head: Head, extra: str = "", *, withhold_usage: bool = False
) -> None:
    """Stream items at the client's pace, under a head with these lines more. `withhold_usage` is for a stream of which the caller
    wants less."""
    exchange, down, server = call.exchange, call.down, call.gateway.config.server
    facts = call.wire.stream(exchange.request.body, True)
    begin_stream(call, facts, extra)
    delivered = Delivered(facts, 2 * server.max_event_bytes)
    taps = [isolated(tap) for tap in exchange.taps]
    events = ReplyEvents(call, head, withhold_usage)
    async for piece in events.of(items):
        if piece:
            exchange.timing.first_token = exchange.timing.first_token or time.monotonic()
            down.send(piece)
            delivered.take(piece)
            for tap in taps:
                tap(piece)
        if down.paused:
            had_gone = down.gone
            if not await down.drained(server.write_stall_timeout_s):
                raise ClientGone() if had_gone else ClientStalled()
    last = events.last()
    delivered.take_last(last)
    await complete_stream(call, facts, facts, last, taps, comment=True)


class ReplyEvents:
    """A plugin's items as the bytes of events, through the hooks where there are any. Bytes nobody hooks leave as they are.

    The last event of the answer is not among them: the kernel sends it, once the row is recorded.
    """

    def __init__(self, call: Call, head: Head, withhold_usage: bool) -> None:
        self._call = call
        self._chain = chunk_chain(call)
        self._codec = call.wire.codec(head, asks_for_usage(call))
        self._observer = call.wire.stream(call.exchange.request.body, not withhold_usage)
        self._splitter = EventSplitter(call.gateway.config.server.max_event_bytes)
        self._mender = Mender()
        self._has_bytes = False
        self._last: bytes | None = None
        self._ended = False

    async def of(self, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        async for item in items:
            if isinstance(item, Chunk | list):
                yield await self._hooked([item] if isinstance(item, Chunk) else item)
            else:
                self._has_bytes = True
                yield b"".join([await self._event(event) for event in self._whole(self._splitter.feed(item)) if not self._ended])
            if self._ended:
                return
        tail = self._splitter.finish()
        for event in [*self._whole([] if tail is None else [tail]), *self._mender.rest()]:
            yield await self._event(event)
        if self._has_bytes and not self._observer.finished and not self._ended:
            raise ValueError("the reply's bytes end before the answer does")
        if not self._ended and (self._chain or not self._has_bytes):
            yield await self._hooked([Chunk("end")])

    def last(self) -> bytes:
        """The last event: the plugin's own, or one like it."""
        return self._codec.last() if self._last is None else self._last

    def _whole(self, events: list[Event]) -> list[Event]:
        """Events that hooks can read; where there are none they leave as they are."""
        return self._mender.take(events) if self._chain else events

    async def _event(self, event: Event) -> bytes:
        """What leaves of an event of the plugin's bytes."""
        verdict = observed(self._observer, event)
        if verdict is DROP or verdict is WITHHOLD:
            return b""
        if self._chain and (chunks := self._codec.decode(event)):
            return await self._hooked(chunks)
        if verdict is DONE:
            self._last, self._ended = event[0], True
            return b""
        return event[0]

    async def _hooked(self, chunks: list[Chunk]) -> bytes:
        chunks = await through(self._call, self._chain, chunks)
        self._ended = _is_ended(chunks)
        return self._codec.encode(chunks)


def _is_ended(chunks: list[Chunk]) -> bool:
    return bool(chunks) and chunks[-1].kind == "end"


async def listed(chunks: list[Chunk]) -> AsyncIterator[list[Chunk]]:
    """Those of one event together: it leaves with what is there of it, and alone each would be all that is left."""
    for _, run in groupby(chunks, key=_event_of):
        yield list(run)


def _event_of(chunk: Chunk) -> int:
    return id(chunk if chunk.raw is None or chunk.kind == "end" else chunk.raw)


def head(call: Call) -> AnswerHead:
    """The head of an answer no provider made."""
    exchange = call.exchange
    return AnswerHead(call.wire.id_prefix + exchange.id[4:], exchange.request.model, int(exchange.timing.started_at))

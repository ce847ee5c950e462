"""Bring a plugin's reply to the client, in the form the client asked for; it ends as a provider's answer does.

A `Reply` carries bytes, Chunks, or an async iterator of either. Whatever is wrong with it is a crash of the plugin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .answering import STREAM_LINES, chunk_chain, complete_stream, hooked_plain, learn, send_whole, through
from .chains import describe_crash, isolated
from .errors import ClientGone, MuxxError, PluginError, UpstreamError
from .exchange import Chunk, Reply
from .headers import answer_lines
from .relay import Delivered
from .wire.openai import AnswerHead
from .wire.openai.answer import DONE, DROP
from .wire.sse import Event, EventSplitter

if TYPE_CHECKING:
    from .call import Call
    from .wire.wires import Facts


async def answer_from_plugin(call: Call, reply: Reply) -> None:
    """Send the reply. It may run no longer than a whole request may."""
    exchange = call.exchange
    exchange.served_by = reply.served_by
    exchange.phase = "stream"
    try:
        exchange.reply_headers.update(reply.headers)
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
        await send_whole(call, reply.status, body, reply.content_type)
        return
    facts = _understood(call, body)
    if call.exchange.request.stream:
        await _reply_chunks(call, call.wire.decode_plain(body))
        return
    if chunk_chain(call):
        body = await hooked_plain(call, body)
        facts = call.wire.read_plain(body)
    learn(call, facts, facts, 200)
    await send_whole(call, 200, body, reply.content_type)


def _understood(call: Call, body: bytes) -> Facts:
    """What a plugin's bytes say; a plugin is to blame, not a provider, when they are no answer."""
    try:
        return call.wire.read_plain(body)
    except UpstreamError as error:
        raise ValueError("the reply's bytes are no answer of this endpoint") from error


async def _reply_chunks(call: Call, chunks: list[Chunk]) -> None:
    if not _is_ended(chunks):
        chunks.append(Chunk("end"))
    if call.exchange.request.stream:
        await _stream(call, _listed(chunks))
        return
    body = call.wire.encode_answer(await through(call, chunk_chain(call), chunks), _head(call))
    facts = call.wire.read_plain(body)
    learn(call, facts, facts, 200)
    await send_whole(call, 200, body, "application/json")


async def _reply_iterator(call: Call, reply: Reply, items: AsyncIterator[Any]) -> None:
    if call.exchange.request.stream:
        await _stream(call, items)
        return
    collected = [item async for item in items]
    if all(isinstance(item, bytes) for item in collected):
        await _reply_bytes(call, reply, b"".join(collected))
    else:
        await _reply_chunks(call, collected)


async def _stream(call: Call, items: AsyncIterator[Any]) -> None:
    """Stream a plugin's items at the client's pace."""
    exchange, down, server = call.exchange, call.down, call.gateway.config.server
    call.stream = facts = call.wire.stream(exchange.request.body, True)
    delivered = Delivered(facts, 2 * server.max_event_bytes)
    exchange.response.facts = facts
    down.begin(200, answer_lines(exchange) + STREAM_LINES)
    exchange.note_head(sent=True)
    taps = [isolated(tap) for tap in exchange.taps]
    events = ReplyEvents(call)
    async for piece in events.of(items):
        if piece:
            exchange.timing.first_token = exchange.timing.first_token or time.monotonic()
            down.send(piece)
            delivered.take(piece)
            for tap in taps:
                tap(piece)
        if down.paused and not await down.drained(server.write_stall_timeout_s):
            raise ClientGone()
    last = events.last()
    delivered.take_last(last)
    await complete_stream(call, facts, facts, last, taps, comment=True)


class ReplyEvents:
    """A plugin's items as the bytes of events, through the hooks where there are any. Bytes nobody hooks leave as they are.

    The last event of the answer is not among them: the kernel sends it, once the row is recorded.
    """

    def __init__(self, call: Call) -> None:
        body = call.exchange.request.body
        self._call = call
        self._chain = chunk_chain(call)
        self._codec = call.wire.codec(_head(call), call.wire.ask_for_usage(dict(body)))
        self._observer = call.wire.stream(body, True)
        self._splitter = EventSplitter(call.gateway.config.server.max_event_bytes)
        self._last: bytes | None = None

    async def of(self, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        as_they_are = False
        async for item in items:
            if isinstance(item, Chunk):
                groups: Iterable[list[Chunk]] = [[item]]
            elif self._chain:
                groups = (self._codec.decode(event) for event in self._splitter.feed(item))
            else:
                as_they_are = True
                yield b"".join(self._as_they_are(self._splitter.feed(item)))
                continue
            for group in groups:
                chunks = await through(self._call, self._chain, group)
                yield self._codec.encode(chunks)
                if _is_ended(chunks):
                    return
        if not as_they_are:
            yield self._codec.encode(await through(self._call, self._chain, [Chunk("end")]))
            return
        if (tail := self._splitter.finish()) is not None:
            yield b"".join(self._as_they_are([tail]))
        if not self._observer.finished and self._last is None:
            raise ValueError("the reply's bytes end before the answer does")

    def last(self) -> bytes:
        """The last event: the plugin's own, or one like it."""
        return self._codec.last() if self._last is None else self._last

    def _as_they_are(self, events: list[Event]) -> Iterable[bytes]:
        for event in events:
            verdict = self._observer.observe(event)
            if verdict is DONE:
                self._last = event[0]
            elif verdict is not DROP and not self._observer.done:
                yield event[0]


def _is_ended(chunks: list[Chunk]) -> bool:
    return bool(chunks) and chunks[-1].kind == "end"


async def _listed(chunks: list[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


def _head(call: Call) -> AnswerHead:
    exchange = call.exchange
    return AnswerHead(call.wire.id_prefix + exchange.id[4:], exchange.request.model, int(exchange.timing.started_at))

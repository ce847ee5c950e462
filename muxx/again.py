"""Give a provider's whole answer again, streamed or plain as it is asked for now, whichever of the two it was.

Where it is asked for in the form it has, and nobody hooks it, it leaves as its own bytes, and what had to be found out about it
is kept with it: it is not parsed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .answering import asks_for_usage, chunk_chain, complete_stream, hooked_plain, learn, send_whole
from .chains import isolated
from .crashes import describe_crash
from .errors import PluginError, UpstreamError
from .money import Usage
from .noting import stores_content
from .reply import WholeAnswer
from .replying import begin_stream, head, listed, stream_items
from .translating import upstream_wire, whole, whole_of_stream
from .wire.halves import dumps
from .wire.mending import observed
from .wire.sse import EventSplitter
from .wire.wire import DONE, FORWARD, WITHHOLD, AnswerHead

if TYPE_CHECKING:
    from .call import Call
    from .wire.fragments import Fragments
    from .wire.wire import Facts, StreamFacts, Wire

log = logging.getLogger("muxx.plugins")

AT_A_STROKE = 256 * 1024
"""Bytes of a stream that are written at once, whether or not the client reads."""

PIECE = 32 * 1024


class KeptFacts:
    """What is known of a kept answer. What it says is read only when somebody asks."""

    __slots__ = ("_read", "created", "finish_reasons", "id", "model", "usage", "usage_invalid")

    def __init__(self, facts: Facts, read: Callable[[], Facts]) -> None:
        self.id, self.model, self.created = facts.id, facts.model, facts.created
        self.finish_reasons: dict[int, str] = dict(facts.finish_reasons)
        self.usage, self.usage_invalid = facts.usage, facts.usage_invalid
        self._read = read

    @property
    def text(self) -> str:
        return self._read().text

    @property
    def output_bytes(self) -> int:
        return self._read().output_bytes

    @property
    def text_since_usage(self) -> bool:
        return False


class KeptStream(KeptFacts):
    """A whole stream, as its observer would be at its end; and where its usage event and its last event stand."""

    __slots__ = ("assembled", "error", "has_ids", "last", "usage_event")

    done = finished = True
    ends_with_body = False
    saying: Fragments | None = None
    value: Any = None

    def __init__(self, facts: StreamFacts, read: Callable[[], Facts], assembled: bytes) -> None:
        super().__init__(facts, read)
        self.error = facts.error
        self.assembled = assembled
        """The answer as one object, as JSON, with what rows tell of it."""
        self.usage_event = self.last = (0, 0)
        self.has_ids = False

    def observe(self, event: Any, value: Any = None) -> Any:
        raise TypeError("it has been observed to its end")

    def likeness(self, raw: bytes) -> None:
        """No more events come."""


class Kept:
    """What the kernel has found out about a `WholeAnswer`."""

    __slots__ = ("_plain", "_wire", "body", "content_type", "is_stream", "saved_pico", "stream", "usage")

    def __init__(self, answer: WholeAnswer, wire: Wire) -> None:
        self.usage: Usage = answer.usage._replace(source="cache")
        self.saved_pico = None if answer.cost is None else answer.cost.total_pico
        self.stream: KeptStream | None = None
        """None for a stream that cannot be cut in two: one with events no client gets."""
        self._wire = wire
        self._plain: tuple[bytes, Facts] | None = None
        self.body, self.content_type, self.is_stream = answer.body, answer.content_type, answer.is_stream
        up = upstream_wire(wire, answer.target.provider)
        if up is not None and up is not wire:
            self.body, self.content_type, self.is_stream = _translated(answer, up, wire), "application/json", False
        if self.is_stream:
            self.stream = _kept_stream(wire, self.body)
        if self.stream is None:
            self.as_plain()  # so that one that is none is found out before anything is sent

    def as_plain(self) -> tuple[bytes, Facts]:
        """The answer as one object, its own bytes where it is one, and what it says. A stream is put together when somebody asks
        for that: mostly it is asked for as a stream again."""
        if self._plain is None:
            wire = self._wire
            body = dumps(wire.assembled(_observed(wire, self.body))) if self.is_stream else self.body
            self._plain = body, KeptFacts(wire.read_plain(body), partial(wire.read_plain, body))
        return self._plain


def _translated(answer: WholeAnswer, up: Wire, wire: Wire) -> bytes:
    """A provider's answer as a plain one in the caller's format."""
    if answer.is_stream:
        facts: Facts = _observed(up, answer.body)
        chunks = whole_of_stream(up, EventSplitter(len(answer.body)).feed(answer.body), wire)
    else:
        facts = up.read_plain(answer.body)
        chunks, _ = whole(up, answer.body, wire)
    if not wire.counts:
        chunks[-1].usage = answer.usage
    return wire.encode_answer(chunks, AnswerHead(*(answer.headed or (facts.id, facts.model, facts.created))))


def _observed(wire: Wire, stream: bytes) -> StreamFacts:
    """What a whole stream says, with all it holds."""
    facts = wire.stream({}, True) if wire.gathering is None else wire.gathering()
    for event in EventSplitter(len(stream)).feed(stream):
        observed(facts, event)
    return facts


def _kept_stream(wire: Wire, stream: bytes) -> KeptStream | None:
    splitter, facts, at = EventSplitter(len(stream)), wire.stream({}, False), 0
    places = {DONE: (0, 0), WITHHOLD: (0, 0)}
    for event in splitter.feed(stream):
        verdict, end = observed(facts, event), at + len(event[0])
        if verdict in places:
            places[verdict] = at, end
        elif verdict is not FORWARD:
            return None
        at = end
        if verdict is DONE:
            break
    if at != len(stream.rstrip(b"\r\n")) and stream[at:].strip(b"\r\n"):
        return None
    kept = KeptStream(facts, partial(_observed, wire, stream), dumps(wire.assembled(facts)))
    last = places[DONE] if facts.done else (at, at)  # of a format whose streams end with their body
    kept.usage_event, kept.last, kept.has_ids = places[WITHHOLD], last, splitter.has_ids
    return kept


def _kept(answer: WholeAnswer, wire: Wire) -> Kept:
    """What is known of the answer. Whoever made one of bytes that are none has crashed."""
    if answer.kept is None:
        try:
            answer.kept = Kept(answer, wire)
        except UpstreamError as error:
            log.error("a plugin's whole answer is none of this endpoint: %s", describe_crash(error))
            raise PluginError() from error
    kept: Kept = answer.kept
    return kept


async def give_again(call: Call, answer: WholeAnswer) -> None:
    """Send the answer. It costs nothing, and saves what it did when it was made."""
    exchange, wire = call.exchange, call.wire
    exchange.phase, exchange.served_by, exchange.cache = "stream", "cache", "hit"
    kept = _kept(answer, wire)
    exchange.origin, exchange.usage, exchange.saved_pico = answer.target, kept.usage, kept.saved_pico
    age = f"Age: {int(time.monotonic() - answer.at)}\r\n"
    hooked = chunk_chain(call)
    if not exchange.request.stream:
        plain, facts = kept.as_plain()
        body = await hooked_plain(call, plain) if hooked else plain
        if body is not plain:
            facts = wire.read_plain(body)
        content_type = "application/json" if kept.is_stream else kept.content_type
        learn(call, facts, facts, 200)
        await send_whole(call, 200, body, content_type, age)
    elif not kept.is_stream:
        await stream_items(call, listed(wire.decode_plain(kept.body)), kept.as_plain()[1], age)
    elif hooked or kept.stream is None or len(kept.body) > AT_A_STROKE:
        await stream_items(call, _pieces(kept.body), head(call), age, withhold_usage=not asks_for_usage(call))
    else:
        await _give_stream(call, kept.body, kept.stream, age)


async def _give_stream(call: Call, stream: bytes, kept: KeptStream, age: str) -> None:
    """A stream that nobody hooks, in one write before its end."""
    exchange = call.exchange
    begin_stream(call, kept, age)
    (usage, after_usage), (last, end) = kept.usage_event, kept.last
    data = stream[:last]
    if after_usage and not asks_for_usage(call):
        data = stream[:usage] + stream[after_usage:last]
    exchange.timing.first_token = time.monotonic()
    taps = [isolated(tap) for tap in exchange.taps]
    if data:
        call.down.send(data)
        for tap in taps:
            tap(data)
    if stores_content(exchange):
        call.delivered = kept.assembled
    await complete_stream(call, kept, kept, stream[last:end], taps, comment=not kept.has_ids)


async def _pieces(stream: bytes) -> AsyncIterator[bytes]:
    """A stream's bytes, as much at a time as a client who does not read may leave us with."""
    for start in range(0, len(stream), PIECE):
        yield stream[start : start + PIECE]

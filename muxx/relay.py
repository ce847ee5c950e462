"""Carry a streamed answer from the provider to the client, event by event, and know at every moment whether it is complete.

The relay is a push: the transport hands bytes to `feed`, whole events go out in the same step. `Relay` is the fast path: the
provider's events as they came. `HookedRelay` decodes each event into Chunks, lets the `on_chunk` plugins see and change them, and
encodes what they let through; a chunk nobody touched still leaves as its own bytes.

Invariants: an unfinished event is never sent; nothing is sent after the end; the last event of a complete answer is held until
its row is recorded, so what the client takes for a whole answer is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from .chains import at_once, describe_crash
from .errors import (
    MuxxError,
    PluginError,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamEventTooLarge,
    UpstreamTimeout,
    UpstreamTruncated,
)
from .reply import Chunk
from .wire.alike import Alike
from .wire.openai import Verdict
from .wire.openai.answer import DONE, ERROR_EVENT, FORWARD
from .wire.sse import Event, EventSplitter
from .wire.wire import Codec, StreamFacts

if TYPE_CHECKING:
    from .call import ClientSide
    from .transport import UpstreamResponse

log = logging.getLogger("muxx.plugins")

MOST_LIKENESSES = 8
"""How often a stream's events are looked at for what they have in common, which costs what it spares in three of them."""

QUEUED_BYTES = 256 * 1024
"""What a `HookedRelay` holds before it stops the provider."""


class Limits(Protocol):
    """What the relay needs of the running call: somewhere to put the moment by which the next event has to come."""

    due: float


class Relay:
    """The fast path. `over` resolves to None when the answer is complete, or to the error that broke it."""

    def __init__(
        self,
        stream: StreamFacts,
        response: UpstreamResponse,
        down: ClientSide,
        limits: Limits,
        *,
        between_events: float,
        finish_grace: float,
        max_event_bytes: int,
        masked: Callable[[bytes], bytes] = bytes,
        taps: Iterable[Callable[[bytes], None]] = (),
    ) -> None:
        self.stream = stream
        self.over: asyncio.Future[MuxxError | None] = asyncio.get_running_loop().create_future()
        self.last = b""
        """The held-back last event of a complete answer, to be sent by whoever records the row."""
        self._ending = b""
        """The provider's last event, as it came."""
        self.first_event: float | None = None
        self.relayed_error = False
        """The provider sent its own error event and it was passed on."""
        self.surplus = False
        """The provider sent more after the end of its answer."""
        self._splitter = EventSplitter(max_event_bytes)
        self._response = response
        self._down = down
        self._limits = limits
        self._between = between_events
        self._grace = finish_grace
        self._masked = masked
        """Takes known secrets out of an error event, which some providers quote."""
        self._taps = tuple(taps)
        self._pausing = False
        self._waits_for_token = True
        """Nothing the model wrote has come yet: pings and the like do not extend its time."""
        self._most = max_event_bytes
        self._likenesses = MOST_LIKENESSES
        self._alike: Alike | None = None
        """Tells events that only say more of what the model is saying. None before the first, and after the last one."""
        self._going_on: Alike | None = None
        """The same, while what comes next begins an event."""
        down.on_resume = self._resume

    def feed(self, data: bytes) -> None:
        """Take bytes from the provider; everything complete goes out at once."""
        alike = self._going_on
        if alike is not None and len(data) <= self._most and alike.take(data):
            self._pass_on(data)
            return
        over, stream = self.over, self.stream
        if over.done():
            self._distrust(data)
            return
        now = monotonic()
        if self.first_event is None:
            self.first_event = now
        try:
            events = self._splitter.feed(data)
        except UpstreamError as error:
            self.finish(error)
            return
        self._take(events)
        if stream.done:
            self._distrust(self._splitter.tail if events[-1][0] is self._ending else events[-1][0])
        if over.done():
            return
        self._going_on = self._alike if self._splitter.between_events else None
        if self._waits_for_token and (stream.finished or stream.output_bytes):
            self._waits_for_token = False
        if not self._waits_for_token:
            self._limits.due = now + (self._grace if stream.finished else self._between)
        if self._down.paused:
            self._pause()

    def _pass_on(self, data: bytes) -> None:
        """Send events that say more, and nothing else."""
        down = self._down
        down.send(data)
        for tap in self._taps:
            tap(data)
        if down.stalled_since is None:
            self._limits.due = monotonic() + self._between
        else:
            self._pause()

    def _look_at(self, raw: bytes) -> None:
        """Learn from the event observed last how those that follow it may look."""
        if self.stream.finished:
            self._alike = None
        elif self._likenesses:
            self._likenesses -= 1
            self._alike = self.stream.likeness(raw) or self._alike

    def _distrust(self, surplus: bytes) -> None:
        """Bytes after the end: this connection is not to be trusted with another answer. Line ends harm nobody."""
        if surplus.strip(b"\r\n"):
            self.surplus = True
            self._response.close()

    def _take(self, events: list[Event]) -> None:
        out: list[bytes] = []
        observe = self.stream.observe
        for event in events:
            try:
                verdict = observe(event)
            except UpstreamError as error:
                self._send(out)
                self.finish(error)
                return
            if verdict is FORWARD:
                out.append(event[0])
            elif verdict is DONE:
                self.last = self._ending = event[0]
                break
            elif verdict is ERROR_EVENT:
                out.append(self._masked(event[0]))
                self.relayed_error = True
                break
        if events:
            self._look_at(events[-1][0])
        self.stream.value = None  # nobody reads it here, and until the next event it would be the largest thing of all
        if out:
            self._send(out)
        if self.stream.done:
            self.finish(None)
        elif self.relayed_error:
            self.finish(UpstreamError())

    def _send(self, pieces: list[bytes]) -> None:
        data = b"".join(pieces)  # of one piece it is that piece itself
        if data:
            self._down.send(data)
            for tap in self._taps:
                tap(data)

    @property
    def comments_allowed(self) -> bool:
        """A comment may be added: not after an `id` field, which makes SDKs take any blank line for an event."""
        return not self._splitter.has_ids

    def finish(self, error: MuxxError | None) -> None:
        """The answer is over; only the first word counts."""
        if not self.over.done():
            self._limits.due = float("inf")
            self._going_on = None
            self.over.set_result(error)

    def pumped(self, pump: asyncio.Future[None]) -> None:
        """The provider's body has ended, cleanly or not: decide what that makes of the answer."""
        if pump.cancelled():
            return
        error = pump.exception()  # asked for in any case: asyncio complains of errors nobody took
        if error is None and not self.over.done():
            self._take_end()
        if self.over.done():
            return
        if self.stream.finished:
            self.stream.done = self.stream.done or (error is None and self.stream.ends_with_body)
            self.finish(None)
        elif error is not None:
            self.finish(error if isinstance(error, MuxxError) else UpstreamDisconnected())
        else:
            self.finish(UpstreamTruncated())

    def _take_end(self) -> None:
        """An event the provider never ended: sent only if it makes the answer complete."""
        try:
            tail = self._splitter.finish()
            verdict = self.stream.observe(tail) if tail is not None else None
        except UpstreamEventTooLarge as error:
            self.finish(None if self.stream.finished else error)
            return
        except UpstreamError:
            return
        if tail is not None and verdict is not None:
            self._take_tail(tail, verdict)
        elif self.stream.ends_with_body:
            self._take_line_ends(self._splitter.tail)

    def _take_line_ends(self, rest: bytes) -> None:
        """The LF of a last event whose CR had ended it already, when the two came in different reads."""
        if rest:
            self._send([rest])

    def _take_tail(self, tail: Event, verdict: Verdict) -> None:
        if verdict is DONE:
            self.last = tail[0]
            self.finish(None)
        elif verdict is FORWARD and self.stream.finished:
            self._send([tail[0]])

    def timed_out(self) -> None:
        """Nothing came in time. After a finish reason the answer counts as complete, only without its usage."""
        self.finish(None if self.stream.finished else UpstreamTimeout())

    def _pause(self) -> None:
        if not self._pausing:
            self._pausing = True
            self._limits.due = float("inf")  # the client is the slow one; its own limit runs
            self._response.pause()

    def _resume(self) -> None:
        if self._pausing:
            self._pausing = False
            self._limits.due = monotonic() + self._between
            self._response.resume()


ChunkHooks = Callable[[Chunk], Coroutine[Any, Any, list[Chunk]]]


class Delivered:
    """What the client was sent, read back from the bytes by `facts`: for the row, where plugins changed the answer."""

    def __init__(self, facts: StreamFacts, max_event_bytes: int) -> None:
        self.facts = facts
        self._splitter = EventSplitter(max_event_bytes)

    def take(self, data: bytes) -> None:
        for event in self._splitter.feed(data):
            self.facts.observe(event)

    def take_last(self, data: bytes) -> None:
        """The last event, which need not have its blank line."""
        self.take(data)
        if (tail := self._splitter.finish()) is not None:
            self.facts.observe(tail)


class HookedRelay(Relay):
    """The path with `on_chunk` plugins. Where none of them waits, events go through the hooks in the step in which they come.
    Where one may, `feed` queues them, and `run` takes them through in the exchange's own task. What is left of events that came
    together leaves together, as far as no hook has to be waited for."""

    def __init__(
        self, *args: Any, hooks: ChunkHooks, codec: Codec, waits: bool = True, readback: Delivered | None = None, **kwargs: Any
    ) -> None:
        """`waits`: hooks may. `readback` is told what the client is sent."""
        super().__init__(*args, **kwargs)
        self._hooks = hooks
        self._codec = codec
        self._readback = readback
        self._context: Context | None = None if waits else copy_context()
        """What the exchange's task has set for those it calls, where they are called without it."""
        self._raised: Exception | None = None
        """What went wrong at once."""
        self._through_hooks: list[bytes] = []
        """What leaves when all events that have come are through, or a hook waits."""
        self._queue: deque[tuple[Event, Verdict]] = deque()
        self._queued = 0
        self._line_ends = b""
        self._wake = asyncio.Event()
        self._outcome: tuple[MuxxError | None] | None = None

    def feed(self, data: bytes) -> None:
        if self._outcome is not None:
            self._distrust(data)  # the hooks may still be at work on what came before the end
            return
        super().feed(data)
        if self._queued > QUEUED_BYTES and self._outcome is None:
            self._pause()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            try:
                verdict = self._observe(event)
            except UpstreamError as error:
                self.finish(error)
                break
            self._bring(event, verdict)
            if verdict is DONE:
                self._note_end(event)
                self.finish(None)
            elif verdict is ERROR_EVENT:
                self.relayed_error = True
                self.finish(UpstreamError())
            if self._outcome is not None or self.over.done():
                break
        if self._context is not None:
            self._leave()

    def _observe(self, event: Event) -> Verdict:
        return self.stream.observe(event)

    def _note_end(self, event: Event) -> None:
        self.last = self._ending = event[0]

    def _bring(self, event: Event, verdict: Verdict) -> None:
        """Through the hooks, at once or when the task comes to it. What may end the answer is the task's."""
        if self._context is None or self._queue or verdict is DONE or verdict is ERROR_EVENT:
            self._enqueue(event, verdict)
            self._wake.set()
            return
        try:
            if self._context.run(at_once, self._through(event, verdict)):
                self.last = self._codec.last()
                self.over.set_result(None)
                self._wake.set()
        except Exception as error:  # the task's to raise: this is called by the provider's connection
            self._raised = error
            self.finish(None)

    def _take_line_ends(self, rest: bytes) -> None:
        self._line_ends = rest

    def _enqueue(self, event: Event, verdict: Verdict) -> None:
        self._queue.append((event, verdict))
        self._queued += len(event[0])

    def _take_tail(self, tail: Event, verdict: Verdict) -> None:
        if verdict is DONE or (verdict is FORWARD and self.stream.finished):
            self._enqueue(tail, verdict)
        if verdict is DONE:
            self.finish(None)

    def finish(self, error: MuxxError | None) -> None:
        """What came before still goes through the hooks; `over` is resolved when it has."""
        if self._outcome is None:
            self._outcome = (error,)
            self._limits.due = float("inf")
            self._wake.set()

    async def run(self) -> MuxxError | None:
        """Take queued events through the hooks until the answer is over; the error that broke it, or None."""
        try:
            return await self._run()
        finally:
            self._leave()
            if not self.over.done():
                self.over.set_result(None)  # whatever still comes is not wanted

    @property
    def _ends_by_itself(self) -> bool:
        """The codec's last event ends the answer, also where the provider sent none: but not a `[DONE]` nobody said."""
        return self.stream.ends_with_body

    async def _run(self) -> MuxxError | None:
        while True:
            while self._queue:
                event, verdict = self._queue.popleft()
                self._queued -= len(event[0])
                if await self._through(event, verdict) or verdict is DONE:
                    self.last = self._codec.last()
                    return None
            if self._raised is not None:
                raise self._raised
            if self.over.done():
                return None
            if self._outcome is not None:
                error = self._outcome[0]
                if error is None:
                    await self._pass([self._codec.end()])
                    if self._ends_by_itself:
                        self.last = self._line_ends + self._codec.last()
                return error
            self._wake.clear()
            self._leave()
            if not self._down.paused:
                self._resume()
            await self._wake.wait()

    async def _through(self, event: Event, verdict: Verdict) -> bool:
        """One event through the hooks; True when it, or a plugin, ended the answer."""
        if verdict is ERROR_EVENT:
            self._send([self._masked(event[0])])
        elif verdict is FORWARD or verdict is DONE:
            chunks = self._codec.decode(event)
            if chunks:
                return await self._pass(chunks, event)
            self._send([event[0]])
        return False

    async def _pass(self, chunks: Iterable[Chunk], event: Event | None = None) -> bool:
        """Send what the hooks let through of these chunks, up to the first `end`; True when there was one. `event` is what they
        are of: where it is left as it was, nobody has to read back what it says."""
        out: list[Chunk] = []
        for chunk in chunks:
            for result in await self._hooks(chunk):
                out.append(result)
                if result.kind == "end":
                    break
            if out and out[-1].kind == "end":
                break
        try:
            data = self._codec.encode(out)
        except MuxxError:
            raise
        except Exception as error:  # the provider's own chunks can be encoded; a plugin's need not be
            log.error("chunks a plugin returned cannot be encoded: %s", describe_crash(error))
            raise PluginError() from error
        self._send([data] if data else [], event if event is not None and data is event[0] else None)
        return bool(out) and out[-1].kind == "end"

    def _send(self, pieces: list[bytes], event: Event | None = None) -> None:
        """`event` is what the pieces are, where they are one that has been parsed."""
        if self._readback is not None:
            if event is not None:
                # Where hooks do not wait it is what was observed last; else more may have come since.
                self._readback.facts.observe(event, None if self._context is None else self.stream.value)
            else:
                self._readback.take(b"".join(pieces))
        if self._context is None and not self._through_hooks:
            asyncio.get_running_loop().call_soon(self._leave)  # comes first only where the next event has to wait
        self._through_hooks += pieces

    def _leave(self) -> None:
        if pieces := self._through_hooks:
            self._through_hooks = []
            super()._send(pieces)

"""The path of a streamed answer with `on_chunk` plugins, in the format it came in.

Each event is decoded into Chunks, which the plugins see and change, and what they let through is encoded; a Chunk nobody touched
still leaves as its own bytes, and one of an event that only says more (`wire.alike`) is known without decoding it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any

from .call import NEVER
from .chains import at_once
from .crashes import describe_crash
from .errors import MuxxError, PluginError, UpstreamError
from .relay import ReadingRelay, form_of
from .reply import Chunk
from .wire.alike import Alike
from .wire.fragments import Fragments
from .wire.mending import observed
from .wire.sse import Event, EventSplitter
from .wire.wire import DONE, ERROR_EVENT, FORWARD, Codec, StreamFacts, Verdict

log = logging.getLogger("muxx.plugins")

QUEUED_BYTES = 256 * 1024
"""What a `HookedRelay` holds before it stops the provider."""

ChunkHooks = Callable[[Chunk], Coroutine[Any, Any, list[Chunk]]]


def unencodable(error: Exception) -> PluginError:
    """The crash of whoever returned chunks that cannot be encoded: the provider's own can be, a plugin's need not."""
    log.error("chunks a plugin returned cannot be encoded: %s", describe_crash(error))
    return PluginError()


class Delivered:
    """What the client was sent, read back from the bytes by `facts`: for the row, where plugins changed the answer."""

    def __init__(self, facts: StreamFacts, max_event_bytes: int) -> None:
        self.facts = facts
        self._splitter = EventSplitter(max_event_bytes)

    def take(self, data: bytes) -> None:
        for event in self._splitter.feed(data):
            observed(self.facts, event)

    def take_last(self, data: bytes) -> None:
        """The last event, which need not have its blank line."""
        self.take(data)
        if (tail := self._splitter.finish()) is not None:
            observed(self.facts, tail)


class HookedRelay(ReadingRelay):
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
        self._delivered = Fragments()
        """Where `readback` keeps what those say."""
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
        if self._mender is not None:
            events = self._mender.take(events)
        for number, event in enumerate(events):
            try:
                verdict = self._observe(event)
            except UpstreamError as error:
                if self._mends(event):
                    self._take(events[number:])
                else:
                    self.finish(error)
                break
            self._bring(event, verdict)
            if verdict is DONE:
                self._note_end(event)
                self.finish(None)
            elif verdict is ERROR_EVENT:
                self.relayed_error = True
                self.finish(UpstreamError())
            if self._has_ended:
                break
        if self._context is not None:
            if events:
                self._look_at(events[-1][0])
            self._leave()

    @property
    def _has_ended(self) -> bool:
        return self._outcome is not None or self.over.done()

    def _will_know(self, raw: bytes) -> bool:
        delivered = None if self._readback is None else self._readback.facts.likeness(raw)
        if delivered is None:
            return False
        self._delivered = delivered.said
        return True

    def _goes_on(self, data: bytes, alike: Alike) -> bool:
        events, context = alike.events(data), self._context
        if events is None or context is None:
            return False
        kind, index = self._known_form
        for raw, text in events:
            alike.said.append(text)
            passing = self._pass([Chunk(kind, text, index, raw=raw)], known=Chunk(kind, text, index, raw=raw))
            self._at_once(passing, context)
            if self._going_on is None:
                break
        self._leave()
        return True

    def _observe(self, event: Event) -> Verdict:
        return self.stream.observe(event)

    def _note_end(self, event: Event) -> None:
        self._note_last(event[0])
        self._ending = self._came(event)

    def _bring(self, event: Event, verdict: Verdict) -> None:
        """Through the hooks, at once or when the task comes to it. What may end the answer is the task's."""
        if self._context is None or self._queue or verdict is DONE or verdict is ERROR_EVENT:
            self._enqueue(event, verdict)
            self._wake.set()
            return
        self._at_once(self._through(event, verdict), self._context)

    def _at_once(self, passing: Coroutine[Any, Any, bool], context: Context) -> None:
        """Run what brings something through hooks that do not wait."""
        try:
            if context.run(at_once, passing):
                self.last = self._codec.last()
                self._going_on = None
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
        self._take_waiting()
        if self._outcome is None:
            self._outcome = (error,)
            self._going_on = None
            self._limits.due = NEVER
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
            self._form = form_of(chunks, event[0]) if self._likenesses and self.stream.saying is not None else None
            if chunks:
                return await self._pass(chunks, event)
            self._send([event[0]])
        return False

    async def _pass(self, chunks: Iterable[Chunk], event: Event | None = None, known: Chunk | None = None) -> bool:
        """Send what the hooks let through of these chunks, up to the first `end`; True when there was one. `event` is what they
        are of: where it is left as it was, nobody has to read back what it says. `known` is what they are, where that is one with
        only a text: where it is left as it was, there is nothing to encode either."""
        out: list[Chunk] = []
        for chunk in chunks:
            for result in await self._hooks(chunk):
                out.append(result)
                if result.kind == "end":
                    break
            if out and out[-1].kind == "end":
                break
        if known is not None and out == [known]:
            self._delivered.append(known.text)
            self._through_hooks.append(known.raw or b"")
            return False
        try:
            data = self._codec.encode(out)
        except MuxxError:
            raise
        except Exception as error:
            raise unencodable(error) from error
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

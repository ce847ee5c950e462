"""Carry a streamed answer from the provider to the client, event by event, and know at every moment whether it is complete.

The relay is a push: the transport hands bytes to `feed`, whole events go out in the same step. `Relay` is the fast path: the
provider's events as they came.

Invariants: an unfinished event is never sent; nothing is sent after the end; the last event of a complete answer is held until
its row is recorded, so what the client takes for a whole answer is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .call import NEVER
from .errors import (
    MuxxError,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamEventTooLarge,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTruncated,
)
from .reply import Chunk, ChunkKind
from .wire.alike import Alike
from .wire.large import LARGE
from .wire.mending import Mender, holds_halves, observed, observed_with_halves
from .wire.sse import Event, EventSplitter
from .wire.wire import DONE, ERROR_EVENT, FORWARD, StreamFacts, Verdict

if TYPE_CHECKING:
    from .call import ClientSide
    from .transport import UpstreamResponse

MOST_LIKENESSES = 16
"""How often a stream's events are looked at for what they have in common, which costs what it spares in three of them."""

MANY_EVENTS = 16
"""In one read: enough for the first of them to tell how the others look."""

FIRST_EVENTS = 4
"""Of many: in every format one of them says something."""

Form: TypeAlias = tuple[ChunkKind, int]
"""Kind and index of a Chunk that has nothing else but text."""

_TEXT: Form = ("text", 0)


class Limits(Protocol):
    """What the relay needs of the running call: somewhere to put the moment by which the next event has to come."""

    due: float


class Relay:
    """The fast path. `over` resolves to None when the answer is complete, or to the error that broke it."""

    last = b""
    """The held-back last event of a complete answer, to be sent by whoever records the row."""
    first_event: float | None = None
    relayed_error = False
    """The provider sent its own error event and it was passed on."""
    surplus = False
    """The provider sent more after the end of its answer."""
    _ending = b""
    """The provider's last event, as it came."""

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
        distrusted: Callable[[], None],
        masked: Callable[[bytes], bytes] = bytes,
        taps: Iterable[Callable[[bytes], None]] = (),
        on_first_token: Callable[[], None] | None = None,
    ) -> None:
        self.stream = stream
        self.over: asyncio.Future[MuxxError | None] = asyncio.get_running_loop().create_future()
        self._splitter = EventSplitter(max_event_bytes)
        self._response = response
        self._down = down
        self._limits = limits
        self._between = between_events
        self._grace = finish_grace
        self._distrusted = distrusted
        """Lets go of the provider's connection for good."""
        self._masked = masked
        """Takes known secrets out of an error event, which some providers quote."""
        self._taps = tuple(taps)
        self._pausing = False
        self._on_first_token = on_first_token
        self._waits_for_token = True
        """Nothing the model wrote has come yet: pings and the like do not extend its time."""
        self._most = max_event_bytes
        self._likenesses = MOST_LIKENESSES
        self._alike: Alike | None = None
        """Tells events that only say more of what the model is saying. None before the first, and after the last one."""
        self._form: Form | None = _TEXT
        """Of the event read last, where its only Chunk only has text. Where nobody reads Chunks it does not matter."""
        self._known_form = _TEXT
        """The same, of the events that are known by their likeness."""
        self._going_on: Alike | None = None
        """The same, while what comes next begins an event."""
        down.on_resume = self._resume

    def feed(self, data: bytes) -> None:
        """Take bytes from the provider; everything complete goes out at once."""
        alike = self._going_on
        if alike is not None and self._goes_on(data, alike):
            if self._down.stalled_since is not None:  # as `paused` says, without the way there: each token comes by here
                self._pause()
            elif self._going_on is not None:  # it has not ended meanwhile
                self._limits.due = monotonic() + self._between
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
        if len(events) < MANY_EVENTS:
            self._take(events)
        else:
            self._take_many(events)
        if stream.done:
            self._distrust(self._splitter.tail if events[-1][0] is self._ending else events[-1][0])
        if over.done():
            return
        self._going_on = self._alike if self._splitter.between_events else None
        if self._waits_for_token and (stream.finished or stream.output_bytes):
            self._waits_for_token = False
            if self._on_first_token is not None:
                self._on_first_token()
        if not self._waits_for_token:
            self._limits.due = min(self._limits.due, now + self._grace) if stream.finished else now + self._between
        if self._down.paused:
            self._pause()

    def _goes_on(self, data: bytes, alike: Alike) -> bool:
        """Send events that only say more; False for any other bytes, of which nothing is taken."""
        if not alike.take(data):
            return False
        self._down.send(data)
        for tap in self._taps:
            tap(data)
        return True

    def _take_many(self, events: list[Event]) -> None:
        """Take events that came together, those that only say more without parsing each. The first leave ahead of them."""
        while events and not self._has_ended:
            self._take(events[:FIRST_EVENTS])
            alike = self._take_alike(events[FIRST_EVENTS:])
            events = events[FIRST_EVENTS + alike :]
            if not alike:
                break
        if events and not self._has_ended:
            self._take(events)

    def _take_alike(self, events: list[Event]) -> int:
        """Take those at the beginning that only say more; how many that are."""
        alike = self._going_on = None if self._has_ended else self._alike
        if alike is None:
            return 0
        whole = list(takewhile(alike.looks_like, [raw for raw, _ in events]))
        return len(whole) if whole and self._goes_on(b"".join(whole), alike) else 0

    @property
    def _has_ended(self) -> bool:
        """Nothing more is taken of the answer."""
        return self.over.done()

    def _look_at(self, raw: bytes) -> None:
        """Learn from the event observed last how those that follow it may look. Once something else has been said, what was
        learnt before no longer holds: who translates has to see where one thing ends and another begins."""
        stream = self.stream
        if stream.finished or (self._alike is not None and stream.value is not None and stream.saying is not self._alike.said):
            self._alike = None
        if self._likenesses and self._form is not None and stream.saying is not None and not stream.finished:
            self._likenesses -= 1
            alike = stream.likeness(raw)
            if alike is not None and self._will_know(raw):
                alike.bound(self._most)
                self._alike, self._known_form = alike, self._form

    def _will_know(self, raw: bytes) -> bool:
        """Note what else this path needs to do the same with events like this one; False where that cannot be told."""
        return True

    def _distrust(self, surplus: bytes) -> None:
        """Bytes after the end: this connection is not to be trusted with another answer. Line ends harm nobody."""
        if surplus.strip(b"\r\n"):
            self.surplus = True
            self._distrusted()

    def _take(self, events: list[Event]) -> None:
        out: list[bytes] = []
        observe = self.stream.observe
        for event in events:
            try:
                try:
                    verdict = observe(event)
                except UpstreamProtocolError as error:
                    verdict = observed_with_halves(self.stream, event, error)
            except UpstreamError as error:
                self._send(out)
                self.finish(error)
                return
            if verdict is FORWARD:
                out.append(event[0])
            elif verdict is DONE:
                self._note_last(event[0])
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

    def _note_last(self, raw: bytes) -> None:
        """Hold back the provider's last event. Where it says that the answer failed, it may quote a key. Of one that was cut off
        within its last CRLF the LF is still to come, when nobody listens any more."""
        self._ending = raw
        self.last = self._masked(raw) if self.stream.error else raw
        if raw.endswith(b"\r\n\r"):
            self.last += b"\n"

    def _send(self, pieces: list[bytes]) -> None:
        if len(pieces) > 1 and max(map(len, pieces)) > LARGE:  # joined, it would be there twice
            for piece in pieces:
                self._emit(piece)
        else:
            self._emit(b"".join(pieces))  # of one piece it is that piece itself

    def _emit(self, data: bytes) -> None:
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
            self._limits.due = NEVER
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
            tail = self._tail()
            verdict = observed(self.stream, tail) if tail is not None else None
        except UpstreamEventTooLarge as error:
            self.finish(None if self.stream.finished else error)
            return
        except UpstreamError:
            return
        if tail is not None and verdict is not None:
            self._take_tail(tail, verdict)
        elif self.stream.ends_with_body:
            self._take_line_ends(self._splitter.tail)

    def _tail(self) -> Event | None:
        return self._splitter.finish()

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
            self._limits.due = NEVER  # the client is the slow one; its own limit runs
            self._response.pause()

    def _resume(self) -> None:
        if self._pausing:
            self._pausing = False
            self._limits.due = monotonic() + self._between
            self._response.resume()


class ReadingRelay(Relay):
    """What holds of the paths on which somebody reads what the events say. From the first on that holds half of a character, all
    are made whole."""

    _mender: Mender | None = None

    def _mends(self, event: Event) -> bool:
        """Whether an event cannot be read because it holds half of a character, which begins the mending."""
        if self._mender is not None or not holds_halves(event):
            return False
        self._mender = Mender()
        self._likenesses, self._alike, self._going_on = 0, None, None  # each event has to come by the mender
        return True

    def _came(self, event: Event) -> bytes:
        """An event's bytes as the provider sent them."""
        return event[0] if self._mender is None else self._mender.came(event[0])

    def _take_waiting(self) -> None:
        """Take the event that waits for the other half of a character, which does not come any more."""
        if self._mender is not None and (waiting := self._mender.rest()):
            self._take(waiting)

    def _tail(self) -> Event | None:
        tail, mender = super()._tail(), self._mender or Mender()
        whole = [*mender.take([] if tail is None else [tail]), *mender.rest()]
        if tail is None:
            self._take(whole)
            return None
        self._take(whole[:-1])
        return whole[-1]


def form_of(chunks: list[Chunk], raw: bytes | None) -> Form | None:
    """The form of what is the only Chunk of an event and only has text; None for any other."""
    if len(chunks) != 1:
        return None
    kind, text, index = chunks[0].kind, chunks[0].text, chunks[0].index
    return (kind, index) if chunks[0] == Chunk(kind, text, index, raw=raw) else None

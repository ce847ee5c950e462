"""Hold a stream back until its model has said something, so that another target may still answer in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .errors import MuxxError, UpstreamDisconnected, UpstreamError, UpstreamTruncated
from .outages import failure_told
from .wire.sse import Event, EventSplitter
from .wire.wire import ERROR_EVENT

if TYPE_CHECKING:
    from .transport import Sink, UpstreamResponse
    from .wire.wire import StreamFacts


class Ahead:
    """An `UpstreamResponse` that is read up to its first token before anybody else reads it. What came until then is kept."""

    def __init__(
        self, response: UpstreamResponse, facts: StreamFacts, max_event_bytes: int, masked: Callable[[bytes], bytes] = bytes
    ) -> None:
        """`facts` observes the stream up to its first token; `masked` takes known secrets out of what it may say instead. What is
        more than `max_event_bytes` is not kept any longer: the client gets it."""
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._facts = facts
        self._masked = masked
        self._splitter = EventSplitter(max_event_bytes)
        self._most = max_event_bytes
        self._came: list[bytes] = []
        self._held = 0
        self._sink: Sink | None = None
        self._told: asyncio.Future[MuxxError | None] = asyncio.get_running_loop().create_future()
        self._pump: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until the first token, or the end of an answer without one; raises what came instead."""
        self._pump = asyncio.ensure_future(self._response.pump(self))
        self._pump.add_done_callback(self._pumped)
        error = await self._told
        if error is not None:
            raise error

    def feed(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.feed(data)
            return
        self._came.append(data)
        self._held += len(data)
        if not self._told.done():
            self._look(lambda: self._splitter.feed(data))
            if self._held > self._most:
                self._tell(None)

    def _look(self, read: Callable[[], Iterable[Event]]) -> None:
        """Look for the first token. Whatever comes after it is for the relay to judge."""
        facts = self._facts
        try:
            for event in read():
                if facts.observe(event) is ERROR_EVENT:
                    raise failure_told(facts.error, self._masked)
                if facts.output_bytes or facts.finished or facts.done:
                    self._tell(None)
                    return
        except UpstreamError as error:
            self._tell(error)

    def _unended(self) -> list[Event]:
        """The last event of a body, where nothing has ended it: it may be all of an answer."""
        tail = self._splitter.finish()
        return [] if tail is None else [tail]

    def _tell(self, error: MuxxError | None) -> None:
        if not self._told.done():
            self._told.set_result(error)

    def _pumped(self, pump: asyncio.Future[None]) -> None:
        if pump.cancelled():
            return
        error = pump.exception()
        if error is None:
            if not self._told.done():
                self._look(self._unended)
            self._tell(UpstreamTruncated())
        else:
            self._tell(error if isinstance(error, MuxxError) else UpstreamDisconnected())

    def body_now(self) -> bytes | None:
        return None

    async def pump(self, sink: Sink) -> None:
        assert self._pump is not None
        came, self._came, self._sink = self._came, [], sink
        for data in came:
            sink.feed(data)
        await self._pump

    def pause(self) -> None:
        self._response.pause()

    def resume(self) -> None:
        self._response.resume()

    def close(self) -> None:
        if self._pump is not None and not self._pump.done():
            self._pump.cancel()
        self._response.close()

"""How exchanges read an answer that may be shared: as an `UpstreamResponse` like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import MuxxError

if TYPE_CHECKING:
    from .call import Call
    from .flight import Flight
    from .transport import Sink, UpstreamResponse


class Reader:
    """One exchange's view of a shared answer."""

    status = 0
    headers: Mapping[str, str] = {}
    _begun: asyncio.Future[None] | None = None
    """Of those who join."""
    paused = False
    next = 0
    """The first piece of the answer that has not been handed on."""
    _sink: Sink | None = None
    _done: asyncio.Future[None] | None = None

    def __init__(self, flight: Flight, call: Call) -> None:
        self.call = call
        self._flight = flight

    def begin(self, response: UpstreamResponse | None, error: MuxxError | None) -> None:
        if response is not None:
            self.status, self.headers = response.status, response.headers
        if self._begun is None or self._begun.done():
            return
        if error is None:
            self._begun.set_result(None)
        else:
            self._begun.set_exception(error)
            self._begun.exception()  # whoever awaits it still gets it; one who has left logs nothing

    async def wait(self) -> None:
        """Until the answer has begun; raises why there is none."""
        if not self.status:
            self._begun = asyncio.get_running_loop().create_future()
            await self._begun

    def body_now(self) -> bytes | None:
        flight = self._flight
        if not flight.whole or self.next:
            return None
        self.next = 1
        return flight.pieces[0]

    def pump(self, sink: Sink) -> asyncio.Future[None]:
        self._sink = sink
        self._done = done = asyncio.get_running_loop().create_future()
        self._flight.start()
        self.advance()
        return done

    def advance(self) -> None:
        """Hand on what has come, as far as the sink takes it, and then the end."""
        flight = self._flight
        pieces = flight.pieces
        while self.next < len(pieces):
            sink = self._sink
            if sink is None or self.paused:
                return
            self.next += 1
            sink.feed(pieces[self.next - 1])
        if flight.ended:
            self._end()
        elif flight.begun and len(flight.readers) == 1 and self._sink is not None and not self.paused:
            flight.follow = self._sink.feed

    def _end(self) -> None:
        flight = self._flight
        if self._done is not None and not self._done.done():
            if flight.error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(flight.error)
                self._done.exception()

    def pause(self) -> None:
        self.paused = True
        self._flight.stop_following()
        self._flight.balance()

    def resume(self) -> None:
        self.paused = False
        self.advance()
        self._flight.balance()

    def close(self) -> None:
        """Want no more. Idempotent."""
        self._sink = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
        self._flight.leave(self)


class WholeResponse:
    """An answer that came with its head, for the exchange that made the call."""

    __slots__ = ("_body", "_response", "headers", "status")

    def __init__(self, response: UpstreamResponse, body: bytes) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._body = body
        self._response = response

    def body_now(self) -> bytes:
        return self._body

    def pump(self, sink: Sink) -> asyncio.Future[None]:
        sink.feed(self._body)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def pause(self) -> None:
        """There is nothing to come."""

    def resume(self) -> None:
        """There is nothing to come."""

    def close(self) -> None:
        self._response.close()

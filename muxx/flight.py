"""One upstream call that answers any number of identical requests, each of them an exchange of its own.

Whoever begins the call makes it in its own task, as if it were alone. What the provider sends is kept, and each exchange reads
it through a `Reader`, an `UpstreamResponse` like any other: relays, hooks and records know nothing of sharing. Until the answer
has begun, the one who began the call sees it through even if its client has gone; from then on the call needs no task.

Invariants: every reader gets every byte, in order, whenever it came aboard; the call ends with its last reader; while the answer
is kept, a slow reader delays nobody but itself; the exchange that began the call pays for all of it, also for what the provider
did after that exchange had ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .accounting import rebook, record_gone
from .collecting import hand_out
from .errors import ClientGone, LogUnavailable, MuxxError, UpstreamDisconnected, UpstreamError
from .exchange import Exchange
from .money import Cost, Usage
from .reader import Reader, WholeResponse
from .row import Phase
from .targets import Attempt

if TYPE_CHECKING:
    from .call import Call
    from .transport import UpstreamResponse
    from .wire.wire import Facts

MOST_HELD = 16 * 1024 * 1024
"""Bytes of running answers that one gateway keeps; beyond, answers pass through and are neither shared nor collected."""

LEAST_KEPT = 256 * 1024
"""Bytes of an answer that are kept for those who come later, where nobody collects it."""

UNCOUNTED = 4096
"""Bytes of an answer that may have come since what is kept was counted: a stream's events are some hundreds each."""


class Flight:
    """An upstream call, and its answer as far as it has come. It is the sink of that."""

    attempt: Attempt
    response: UpstreamResponse | None = None
    begun = False
    """A byte of an answer has come: nobody else is asked any more, and who joins gets this one."""
    ended = False
    whole = False
    """All of the answer came with its head, and is one piece."""
    error: MuxxError | None = None
    facts: Facts | None = None
    """What is known of the whole answer, once an exchange has had all of it; until then, of as much as anybody has had."""
    complete = False
    follow: Callable[[bytes], None] | None = None
    """The only reader's sink takes what comes by this, while it has had all that has come; `next` then stands still."""
    _pump: asyncio.Future[None] | None = None
    _trusted = True
    _stopped = False
    _in_debt = False
    """The exchange that began the call has ended, and the call goes on: its usage is booked at the end."""

    def __init__(self, flights: Flights, starter: Call) -> None:
        self.starter = starter
        self.readers: set[Reader] = set()
        self.pieces: list[bytes] = []
        self.kept = True
        """`pieces` begins with the answer's beginning."""
        self._flights = flights
        self._most = max([LEAST_KEPT, *(most for _, most in starter.exchange.collectors)])
        self._held = 0
        self._uncounted = 0
        """Bytes held that are not among those yet."""

    # The upstream side.

    def take(self, attempt: Attempt, response: UpstreamResponse) -> Reader:
        """A provider's answer, for the exchange that made the call to read. Until its first byte has come, it may still be
        another's that all get."""
        self.attempt, self.response = attempt, response
        self.ended, self.error = False, None
        reader = Reader(self, self.starter)
        reader.begin(response, None)
        self.readers.add(reader)
        return reader

    def take_whole(self, attempt: Attempt, response: WholeResponse) -> None:
        """An answer of which there is no more to come."""
        self.attempt, self.response = attempt, response
        self.whole = self.ended = self.begun = True
        body = response.body_now()
        self._hold(body)
        self._count()
        if len(body) > self._most:
            self._keep_no_longer()
        self._tell_those_who_wait(None)

    def start(self) -> None:
        """Have the provider's bytes pushed here. Idempotent."""
        if self._pump is None and not self.ended and self.response is not None:
            self._pump = pump = asyncio.ensure_future(self.response.pump(self))
            if pump.done():
                self._pumped(pump)
            else:
                pump.add_done_callback(self._pumped)

    def _hold(self, data: bytes) -> None:
        self.pieces.append(data)
        self._uncounted += len(data)

    def _count(self) -> None:
        """Bring what is held up to date."""
        self._held += self._uncounted
        self._flights.held += self._uncounted
        self._uncounted = 0

    def _weigh(self) -> None:
        """Keep no more than may be."""
        self._count()
        if self.kept and (self._held > self._most or self._flights.held > MOST_HELD):
            self.stop_following()
            self._keep_no_longer()
            self._drop_read()

    def feed(self, data: bytes) -> None:
        follow = self.follow
        if follow is None:
            self._feed_all(data)
            return
        if self.kept:
            self.pieces.append(data)
            self._uncounted += len(data)  # as `_hold`, without the way there: each token comes by here
            if self._uncounted > UNCOUNTED:
                self._weigh()
        follow(data)
        pump = self._pump
        if pump is not None and pump.done():
            self._pumped(pump)

    def _has_ended(self) -> bool:
        """Whether that was the end: the provider's connection notes it before it hands on the last bytes."""
        pump = self._pump
        if pump is not None and pump.done() and not pump.cancelled() and pump.exception() is None:
            self.ended = True
        return self.ended

    def _feed_all(self, data: bytes) -> None:
        """To any number of readers, each of which may be anywhere."""
        self._has_ended()
        begins, self.begun = not self.begun, True
        self._hold(data)
        self._count()
        if begins:
            self._tell_those_who_wait(None)
        self._advance_all()
        if self.kept:
            self._weigh()
        else:
            self._drop_read()

    def _advance_all(self) -> None:
        self.stop_following()
        for reader in tuple(self.readers):
            reader.advance()

    def stop_following(self) -> None:
        """What comes is for the readers to fetch. Idempotent."""
        if self.follow is not None:
            self.follow = None
            for reader in self.readers:
                reader.next = len(self.pieces)

    def _pumped(self, pump: asyncio.Future[None]) -> None:
        """The provider's body has ended, cleanly or not."""
        if pump.cancelled():
            return
        error = pump.exception()  # asked for in any case: asyncio complains of errors nobody took
        if pump is not self._pump:
            return
        self.ended = True
        if error is not None:
            self.error = error if isinstance(error, MuxxError) else UpstreamDisconnected()
            if self.begun:
                self._delist()
        self._advance_all()

    def fail(self, error: BaseException) -> None:
        """There is no answer, and there will be none: those who wait for one are told why."""
        if self.begun:
            return
        self._delist()
        self.ended, self.error = True, error if isinstance(error, MuxxError) else self.starter.reason or MuxxError()
        self._tell_those_who_wait(self.error)

    def _tell_those_who_wait(self, error: MuxxError | None) -> None:
        for reader in self.readers:
            reader.begin(self.response, error)
        if self._in_debt and error is None:
            self.starter.abort(ClientGone())  # it has seen the call through to here

    def _keep_no_longer(self) -> None:
        """The answer has grown too large: who comes now makes a call of its own."""
        self.kept = False
        self._delist()
        self.balance()

    def _delist(self) -> None:
        """Nobody joins any more."""
        self._flights.delist(self.starter)

    def _drop_read(self) -> None:
        self._count()
        read = min((reader.next for reader in self.readers), default=len(self.pieces))
        size = sum(map(len, self.pieces[:read]))
        self._held -= size
        self._flights.held -= size
        del self.pieces[:read]
        for reader in self.readers:
            reader.next -= read

    def balance(self) -> None:
        """Stop the provider while nobody reads; once the answer is not kept, while anybody does not."""
        paused = [reader.paused for reader in self.readers]
        stop = any(paused) if not self.kept else bool(paused) and all(paused)
        if self.response is not None and stop != self._stopped:
            self._stopped = stop
            self.response.pause() if stop else self.response.resume()

    # The readers' side.

    @property
    def phase(self) -> Phase | None:
        """How far the call has come, for the row of whoever leaves it."""
        exchange = self.starter.exchange
        was_sent = exchange.phase == "connect" and bool(exchange.attempts) and exchange.attempts[-1].sent
        return "head" if was_sent else exchange.phase

    def board(self, call: Call) -> Reader:
        """Come aboard a call that another exchange has begun."""
        reader = Reader(self, call)
        if self.begun:
            reader.begin(self.response, None)
        self.stop_following()
        self.readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """The reader's exchange wants no more. With the last one the call ends."""
        if reader not in self.readers:
            return
        self.stop_following()
        self.readers.discard(reader)
        own = reader.call is self.starter
        if own and not self.begun:  # this attempt came to nothing
            self._close()
            return
        stream = reader.call.stream
        if stream is not None and stream.done and not self._has_ended():
            self._trusted = False  # the provider says more than an answer holds
        if not self.complete:
            self._learn(reader.call.facts)
            self._in_debt = self._in_debt or (own and bool(self.readers))
        if self.readers and not (self._in_debt and self._begins_for_nobody):
            self.balance()
        elif self.begun or self._in_debt:
            self._land()

    @property
    def outlives_its_starter(self) -> bool:
        """It goes on though the client of the exchange that began it has gone."""
        return self.begun or self._in_debt

    @property
    def _begins_for_nobody(self) -> bool:
        """The answer has not begun, and none but the exchange that began the call is aboard."""
        return not self.begun and all(reader.call is self.starter for reader in self.readers)

    def starter_is_done(self) -> None:
        """The exchange that began the call has ended."""
        if not self.readers:
            self._release()
        elif self.begun and not self.complete:
            self._in_debt = True

    def starter_is_gone(self) -> bool:
        """The client of the exchange that began the call has gone. True when the call needs that exchange's task all the same:
        others wait for an answer that has not begun."""
        if self.begun or self._begins_for_nobody:
            return False
        self._in_debt = True
        self.starter.exchange.phase = self.phase
        record_gone(self.starter)
        return True

    def _land(self) -> None:
        """Nobody is aboard any more."""
        self._release()
        self._close()
        if not self.begun:
            self.starter.abort(ClientGone())  # it goes on for nobody
        if self._in_debt:
            self._pay()

    def _release(self) -> None:
        """Let go of the answer. Idempotent."""
        self._delist()
        self._flights.held -= self._held
        self._held, self._uncounted, self.pieces = 0, 0, []

    def _close(self) -> None:
        if self._pump is not None and not self._pump.done():
            self._pump.cancel()
        self._pump = None
        if self.response is not None:
            self.response.close()

    def owes(self, call: Call) -> bool:
        """Whether that exchange's usage is booked only when this call ends."""
        return self._in_debt and call is self.starter

    def has_landed(self, call: Call, facts: Facts, usage: Usage, cost: Cost | None) -> None:
        """An exchange has had all of the answer: whoever collects it gets it."""
        if self.complete:
            return
        self.complete, self.facts = True, facts
        if self.starter.exchange.collectors and self.kept and self._trusted and self.response is not None:
            body = self.pieces[0] if self.whole else b"".join(self.pieces)
            hand_out(call, body, self.response, usage, cost)
        self._delist()

    def _learn(self, facts: Facts | None) -> None:
        """Keep what is known of most of the answer: nobody pays for less than anybody has had."""
        if facts is not None and (self.facts is None or _extent(facts) > _extent(self.facts)):
            self.facts = facts

    def _pay(self) -> None:
        """Book what the call came to on the exchange that began it, which has long ended."""
        starter, failed = self.starter, not self.begun and isinstance(self.error, UpstreamError)
        try:
            rebook(starter, self.facts, self.complete, failed=failed)
        except LogUnavailable:
            starter.gateway.log.error("request %s: its row could not be brought up to date", starter.exchange.id)
        starter.gateway.after(starter.exchange)


def _extent(facts: Facts) -> tuple[int, bool]:
    return facts.output_bytes, facts.usage is not None


class Flights:
    """The upstream calls of one gateway that others may join. Most never are, and cost little more than their entry here."""

    def __init__(self) -> None:
        self._open: dict[Any, Call] = {}
        self.held = 0
        """Bytes of running answers that are kept."""

    def __len__(self) -> int:
        return len(self._open)

    def find(self, exchange: Exchange) -> Flight | None:
        """A call that this exchange may join."""
        starter = self._open.get(_key(exchange)) if self._open and exchange.shared_key else None
        if starter is None:
            return None
        flight = starter.flight
        if starter.down.gone and starter.whole is None and (flight is None or not flight.outlives_its_starter):
            self.delist(starter)  # its task is about to end, and the call with it
            return None
        return flight or self._take_off(starter)

    def begin(self, call: Call) -> None:
        """Let others find the call that this exchange is about to make. One of a plugin's own ends with the exchange it is made
        for, so nobody can join it."""
        call.shares = True
        exchange = call.exchange
        if exchange.shared_key and not exchange.depth:
            call.shared_as = key = _key(exchange)
            self._open[key] = call

    def take(self, call: Call, attempt: Attempt, response: UpstreamResponse) -> UpstreamResponse:
        """A provider's answer, as the exchange that made the call is to read it."""
        body = response.body_now()
        if not body:
            return (call.flight or self._take_off(call)).take(attempt, response)
        call.whole = whole = WholeResponse(response, body)
        if call.flight is not None:
            call.flight.take_whole(attempt, whole)
        return whole

    def _take_off(self, starter: Call) -> Flight:
        flight = starter.flight = Flight(self, starter)
        starter.down.on_gone = flight.starter_is_gone
        if starter.whole is not None:
            flight.take_whole(starter.exchange.attempts[-1], starter.whole)
        return flight

    def end(self, call: Call) -> None:
        """The exchange that made the call has ended."""
        self.delist(call)
        if call.flight is not None:
            call.flight.starter_is_done()

    def delist(self, call: Call) -> None:
        """Nobody joins this call any more. Idempotent."""
        if call.shared_as is not None:
            del self._open[call.shared_as]
            call.shared_as = None


def _key(exchange: Exchange) -> tuple[Any, ...]:
    identity = exchange.identity
    caller = (identity.project, identity.environment) if identity is not None else None
    return exchange.shared_key, exchange.operation, exchange.request.stream, caller

"""One upstream call that answers any number of identical requests, each of them an exchange of its own.

The call is an errand in a task of its own, so it goes on when whoever began it leaves. What the provider sends is kept, and each
exchange reads it through a `Reader`, an `UpstreamResponse` like any other: relays, hooks and records know nothing of sharing.

Invariants: every reader gets every byte, in order, whenever it came aboard; the call ends with its last reader; while the answer
is kept, a slow reader delays nobody but itself; the exchange that began the call pays for all of it, also for what the provider
did after that exchange had ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .accounting import rebook
from .call import NEVER, Errand
from .chains import describe_crash, isolated
from .errors import LogUnavailable, MuxxError, UpstreamTruncated
from .exchange import Attempt, Cost, Phase, Usage, WholeAnswer
from .headers import is_event_stream

if TYPE_CHECKING:
    from .call import Call
    from .transport import Sink, UpstreamResponse
    from .wire.wires import Facts

MOST_HELD = 64 * 1024 * 1024
"""Bytes of running answers that one gateway keeps; beyond, answers pass through and are neither shared nor collected."""

LEAST_KEPT = 256 * 1024
"""Bytes of an answer that are kept for those who come later, where nobody collects it."""

Receive = Callable[[Attempt, "UpstreamResponse", bool], Awaitable[None]]
AttemptTargets = Callable[[Errand, Receive], Awaitable[None]]


class Reader:
    """One exchange's view of a shared answer. `begun` resolves when the answer has begun, or to why there is none."""

    status = 0
    headers: Mapping[str, str] = {}

    def __init__(self, flight: Flight, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.begun: asyncio.Future[None] = loop.create_future()
        self.paused = False
        self.next = 0
        """The first piece of the answer that has not been handed on."""
        self._flight = flight
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None

    def begin(self, response: UpstreamResponse | None, error: MuxxError | None) -> None:
        if response is not None:
            self.status, self.headers = response.status, response.headers
        if self.begun.done():
            return
        if error is None:
            self.begun.set_result(None)
        else:
            self.begun.set_exception(error)
            self.begun.exception()  # whoever awaits it still gets it; one who has left logs nothing

    def body_now(self) -> bytes | None:
        flight = self._flight
        if not flight.whole or self.next:
            return None
        self.next = len(flight.pieces)
        return b"".join(flight.pieces) if self.next != 1 else flight.pieces[0]

    def pump(self, sink: Sink) -> asyncio.Future[None]:
        self._sink = sink
        self._done = self.begun.get_loop().create_future()
        self.advance()
        return self._done

    def advance(self) -> None:
        """Hand on what has come, as far as the sink takes it, and then the end."""
        sink, flight = self._sink, self._flight
        pieces = flight.pieces
        while self.next < len(pieces):
            if sink is None or self.paused:
                return
            self.next += 1
            sink.feed(pieces[self.next - 1])
        if flight.ended and self._done is not None and not self._done.done():
            if flight.error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(flight.error)
                self._done.exception()

    def pause(self) -> None:
        self.paused = True
        self._flight.balance()

    def resume(self) -> None:
        self.paused = False
        self.advance()
        self._flight.balance()

    def close(self) -> None:
        """Want no more. Where the provider says more than an answer holds, nobody trusts it further; a plugin that ended the
        answer early speaks for its own exchange only."""
        self._sink = None
        stream = self.call.stream
        if stream is None or stream.done:
            self._flight.distrust()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Flight(Errand):
    """An upstream call on behalf of the exchange that began it, and the answer as far as it has come. It is the sink of that."""

    attempt: Attempt
    response: UpstreamResponse | None = None
    withhold_usage = False
    """The usage event in the answer is muxx's own wish, not that of the exchange that began the call."""
    ended = False
    whole = False
    """All of the answer came with its head."""
    error: MuxxError | None = None
    facts: Facts | None = None
    """What is known of the whole answer, once an exchange has had all of it; until then, of as much as anybody has had."""
    complete = False
    _trusted = True
    _stopped = False
    _in_debt = False
    """The exchange that began the call ended before it: its usage is to be booked when the call ends."""

    def __init__(self, flights: Flights, key: Any, starter: Call, most: int) -> None:
        super().__init__(starter.gateway, starter.exchange, starter.wire, starter.head)
        self.key = key
        self.starter = starter
        self.readers: set[Reader] = set()
        self.pieces: list[bytes] = []
        self.kept = True
        """`pieces` begins with the answer's beginning."""
        self._flights = flights
        self._most = most
        self._size = 0

    # The upstream side.

    async def run(self, attempt_targets: AttemptTargets) -> None:
        """Make the call. Whatever becomes of it is told to the readers."""
        error: MuxxError | None = None
        try:
            await attempt_targets(self, self._receive)
        except asyncio.CancelledError:
            error = self.aborted()
        except MuxxError as raised:
            error = raised
        except Exception as raised:
            self.gateway.log.error("request %s failed inside the gateway: %s", self.exchange.id, describe_crash(raised))
            error = MuxxError()
        self._end(error)

    async def _receive(self, attempt: Attempt, response: UpstreamResponse, withhold_usage: bool) -> None:
        """Take a provider's answer. Until its first byte has come, another provider may still be asked instead."""
        self.attempt, self.response, self.withhold_usage = attempt, response, withhold_usage
        self.exchange.phase = "stream"
        body = response.body_now()
        if body:
            self.whole = True
            self.feed(body)
            return
        self.due, self.on_due = time.monotonic() + attempt.target.timeouts.first_token, None
        try:
            await response.pump(self)
        except asyncio.CancelledError:
            if not self.committed and (late := self.late()) is not None:
                raise late from None
            raise
        finally:
            self.due = NEVER
        if not self.committed and is_event_stream(response.headers):
            raise UpstreamTruncated()

    def feed(self, data: bytes) -> None:
        self.pieces.append(data)
        self._size += len(data)
        self._flights.held += len(data)
        if not self.committed:
            self.committed = True
            self.due = NEVER  # from now on each reader has its own limits
            self._begin(None)
        for reader in tuple(self.readers):
            reader.advance()
        if self.kept and (self._size > self._most or self._flights.held > MOST_HELD):
            self._keep_no_longer()
        if not self.kept:
            self._drop_read()

    def _begin(self, error: MuxxError | None) -> None:
        for reader in self.readers:
            reader.begin(self.response, error)

    def _end(self, error: MuxxError | None) -> None:
        self.ended, self.error = True, error
        if error is not None:
            self._flights.remove(self)
        if not self.committed:
            self._begin(error)
        for reader in tuple(self.readers):
            reader.advance()

    def _keep_no_longer(self) -> None:
        """The answer has grown too large: who comes now makes a call of its own."""
        self.kept = False
        self._flights.remove(self)
        self.balance()

    def _drop_read(self) -> None:
        read = min((reader.next for reader in self.readers), default=len(self.pieces))
        self._flights.held -= sum(map(len, self.pieces[:read]))
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

    def distrust(self) -> None:
        self._trusted = False
        if self.response is not None:
            self.response.close()

    # The readers' side.

    @property
    def phase(self) -> Phase | None:
        """How far the call has come, for the row of whoever leaves it."""
        exchange = self.exchange
        was_sent = exchange.phase == "connect" and bool(exchange.attempts) and exchange.attempts[-1].sent
        return "head" if was_sent else exchange.phase

    def board(self, call: Call) -> Reader:
        reader = Reader(self, call, asyncio.get_running_loop())
        if self.committed or self.ended:
            reader.begin(self.response, self.error)
        self.readers.add(reader)
        call.flight = self
        return reader

    def leave(self, reader: Reader) -> None:
        """The reader's exchange wants no more. With the last one the call ends."""
        self.readers.discard(reader)
        if not self.complete:
            self._learn(reader.call.facts)
            self._in_debt = self._in_debt or (reader.call is self.starter and bool(self.readers))
        if self.readers:
            self.balance()
            return
        self._flights.remove(self)
        self._flights.held -= sum(map(len, self.pieces))
        self.pieces = []
        if not self.ended and self.task is not None:
            self.task.cancel()
        if self._in_debt:
            self._pay()

    def owes(self, call: Call) -> bool:
        """Whether that exchange's usage is booked only when this call ends."""
        return self._in_debt and call is self.starter

    def has_landed(self, facts: Facts, usage: Usage, cost: Cost | None) -> None:
        """An exchange has had all of the answer: whoever collects it gets it, before anybody may take it for whole."""
        if self.complete:
            return
        self.complete, self.facts = True, facts
        if self.exchange.collectors and self.kept and self._trusted and self._says_something(facts):
            answer = self._answer(usage, cost)
            for take, most_bytes in self.exchange.collectors:
                if len(answer.body) <= most_bytes:
                    isolated(take)(answer)
        self._flights.remove(self)

    def _says_something(self, facts: Facts) -> bool:
        """An answer of no choice and no text is not worth giving to anybody else. (Embeddings have neither.)"""
        status = 0 if self.response is None else self.response.status
        return status == 200 and (not self.wire.streams or bool(facts.finish_reasons) or facts.output_bytes > 0)

    def _answer(self, usage: Usage, cost: Cost | None) -> WholeAnswer:
        assert self.response is not None
        headers = self.response.headers
        content_type = headers.get("content-type", "application/json")
        storable = "no-store" not in headers.get("cache-control", "").lower()
        return WholeAnswer(b"".join(self.pieces), content_type, self.attempt.target, usage, cost, storable)

    def _learn(self, facts: Facts | None) -> None:
        """Keep what is known of most of the answer: nobody pays for less than anybody has had."""
        if facts is not None and (self.facts is None or facts.output_bytes > self.facts.output_bytes):
            self.facts = facts

    def _pay(self) -> None:
        """Book what the call came to on the exchange that began it, which has long ended."""
        try:
            rebook(self.starter, self.facts, self.complete)
        except LogUnavailable:
            self.gateway.log.error("request %s: its row could not be brought up to date: the journal is full", self.exchange.id)
        self.gateway.after(self.exchange)


class Flights:
    """The calls of one gateway that others may join, by their key."""

    def __init__(self) -> None:
        self._open: dict[Any, Flight] = {}
        self.held = 0
        """Bytes of running answers that are kept."""

    def __len__(self) -> int:
        return len(self._open)

    def board(self, call: Call, attempt_targets: AttemptTargets) -> tuple[Flight, Reader]:
        """The upstream call for this exchange: one that is under way for the same key, or one that begins now."""
        exchange = call.exchange
        key = exchange.shared_key and (
            exchange.shared_key,
            exchange.operation,
            exchange.request.stream,
            exchange.identity and (exchange.identity.project, exchange.identity.environment),
        )
        flight = self._open.get(key) if key else None
        if flight is not None:
            exchange.cache, exchange.phase = "joined", "head"
            return flight, flight.board(call)
        flight = Flight(self, key, call, max([LEAST_KEPT, *(most for _, most in exchange.collectors)]))
        if key:
            self._open[key] = flight
        reader = flight.board(call)
        flight.task = asyncio.get_running_loop().create_task(flight.run(attempt_targets))
        return flight, reader

    def remove(self, flight: Flight) -> None:
        """Nobody joins this call any more. Idempotent."""
        if flight.key and self._open.get(flight.key) is flight:
            del self._open[flight.key]

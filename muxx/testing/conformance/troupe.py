"""The suite's own plugins: two that look on from both ends of every chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import MethodType
from typing import Any

from muxx.errors import PermissionDenied
from muxx.exchange import Exchange
from muxx.gateway import Gateway
from muxx.hookspecs import hookimpl
from muxx.money import Cost, Usage
from muxx.reply import Chunk
from muxx.request import HttpRequest, Identity
from muxx.row import Record
from muxx.targets import Attempt, Target

from ..watching import HookCall, Watch
from .cases import FIRST, LAST, OTHER, PRICELESS, REFUSED, SUBJECT, Case

NUMBER = "x-conformance-case"
PROJECT = "x-conformance-project"
SECRET = "canary-in-an-exception-5d1b"
"""In the text of every exception somebody crashes with here; it may be seen nowhere."""


class Notes:
    """What the probes wrote down, and which case an exchange is of."""

    def __init__(self, cases: Iterable[Case], subject: str) -> None:
        self.watch = Watch(interfere=self._interfere)
        self.subject = subject
        self.cases = {case.number: case for case in cases}
        self.canaries: list[str] = []
        self.seen_secrets: list[str] = []
        """Where a credential could be seen after `authenticate`."""
        self.records: list[Record] = []
        """Every record the recorder brought, in order."""
        self.exchanges: dict[int, Exchange] = {}
        """By the number of their cases, the exchanges that have come as far as `pre_request`."""
        self.billed: dict[str, tuple[Usage, Cost | None]] = {}
        """By the exchange's id, what it had come to when `post_response` ran."""
        self.acted: set[int] = set()
        """Cases whose act came about."""
        self.over: set[int] = set()
        """Cases for whose exchange `post_response` was called."""
        self._of_record: dict[str, Case] = {}
        """By the exchange's id, the cases in which somebody crashes over the exchange's record."""

    def case_of(self, headers: Any) -> Case | None:
        number = headers.get(NUMBER, "")
        return self.cases.get(int(number)) if number.isdigit() else None

    def _interfere(self, call: HookCall) -> BaseException | None:
        """What a case's act makes of this call, the first time it is due."""
        case = self._meant(call)
        if case is not None and call.hook == "post_response":
            self.over.add(case.number)
        act = case.act if case is not None else None
        if case is None or act is None or act.what == "hangs" or case.number in self.acted:
            return None
        who = self.subject if act.who == SUBJECT else act.who
        if (call.plugin, call.hook) != (who, act.hook) or call.kind not in ("", "text", "end"):
            return None
        self.acted.add(case.number)
        return PermissionDenied("Not in this case.", code=REFUSED) if act.what == "refuses" else RuntimeError(SECRET)

    def _meant(self, call: HookCall) -> Case | None:
        if call.exchange is not None:
            case = self.case_of(call.exchange.request.headers)
            if case is not None and case.act is not None and case.act.hook == "record":
                self._of_record[call.exchange.id] = case
            return case
        if call.request is not None:
            return self.case_of(call.request.headers)
        if call.hook == "record":
            return self._undone(call, [self._of_record[id] for id in call.record_ids if id in self._of_record])
        if call.hook == "price" and call.given["target"].model in PRICELESS:
            return self._undone(call, self.cases.values())
        return None

    def _undone(self, call: HookCall, cases: Iterable[Case]) -> Case | None:
        """The next of these cases whose act is in this hook, which is not of one exchange."""
        for case in cases:
            act = case.act
            if act is None or act.hook != call.hook or case.number in self.acted:
                continue
            if call.plugin == (self.subject if act.who == SUBJECT else act.who):
                return case
        return None

    async def hang(self, name: str, hook: str, headers: Any) -> None:
        """Come to no end, where a case has this probe hang in this hook."""
        case = self.case_of(headers)
        if case is not None and case.act is not None and (case.act.who, case.act.hook, case.act.what) == (name, hook, "hangs"):
            self.acted.add(case.number)
            await asyncio.Event().wait()

    def look(self, exchange: Exchange, place: str) -> None:
        """Search all that an exchange shows for the client's credentials."""
        values = [getattr(exchange, name) for name in dir(exchange) if not name.startswith("__")]
        shown = repr([value for value in values if not isinstance(value, MethodType)])  # each of which shows all of it again
        shown += repr([exchange.request.headers, exchange.request.body, [vars(attempt) for attempt in exchange.attempts]])
        self.seen_secrets += [f"{place}: {canary}" for canary in self.canaries if canary in shown]


def probes(notes: Notes) -> dict[str, type]:
    """A plugin before all others and one after them. They change no answer, and hang where a case says so.

    The first one knows the callers of the other project, and writes on each upstream call which case it is made for.
    """
    return {FIRST: _probe(notes, FIRST), LAST: _probe(notes, LAST)}


def _probe(notes: Notes, name: str) -> type:
    placed = hookimpl(tryfirst=name == FIRST, trylast=name == LAST)

    class Probe:
        @placed
        async def authenticate(self, request: HttpRequest) -> Identity | None:
            await notes.hang(name, "authenticate", request.headers)
            return Identity(OTHER) if name == FIRST and request.headers.get(PROJECT) == OTHER else None

        @placed
        async def pre_request(self, exchange: Exchange) -> None:
            notes.look(exchange, "pre_request")
            case = notes.case_of(exchange.request.headers)
            if case is None or not case.hooked:
                exchange.skip_chunks(name)
            if case is not None:
                notes.exchanges[case.number] = exchange
            await notes.hang(name, "pre_request", exchange.request.headers)

        @placed
        async def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            notes.look(exchange, "pre_attempt")
            if name == FIRST and NUMBER in exchange.request.headers:
                attempt.headers[NUMBER] = exchange.request.headers[NUMBER]
            await notes.hang(name, "pre_attempt", exchange.request.headers)

        @placed
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            if chunk.kind == "end":
                notes.look(exchange, "on_chunk")

        @placed
        def price(self, target: Target, usage: Usage) -> None: ...

        @placed
        async def post_response(self, exchange: Exchange) -> None:
            await asyncio.sleep(0)
            notes.look(exchange, "post_response")
            if name == FIRST:
                notes.billed[exchange.id] = exchange.usage, exchange.cost

        @placed
        def record(self, records: list[Record]) -> None:
            if name == LAST:
                notes.records.extend(record.copy() for record in records)

    if name == FIRST:
        _attach_at_start(Probe, notes.watch)
    return Probe


def _attach_at_start(probe: Any, watch: Watch) -> None:
    """Have every chain of a gateway watched before its first request, and before its recorder is made."""

    async def lifespan(self: object, gateway: Gateway) -> AsyncIterator[None]:
        watch.attach(gateway)
        yield

    probe.lifespan = hookimpl(tryfirst=True)(lifespan)

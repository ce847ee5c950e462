"""The conformance suite fails when the kernel breaks what holds of hits and of shared calls: one broken kernel for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from broken_kernels import Breaks, ask_before_an_attempt

import muxx.accounting as accounting
import muxx.flight as flight
import muxx.pipeline as pipeline
from muxx import Exchange, Gateway, Identity, MuxxError
from muxx.answer import Answer
from muxx.errors import UpstreamDisconnected
from muxx.flight import Flight, Flights, Reader
from muxx_std.cache import Cache

BREAKS = breaks = Breaks()


@breaks("pre_attempt_runs_once_per_upstream_call_and_never_on_a_hit", "answered to all")
def pre_attempt_of_who_joins(patch: pytest.MonkeyPatch) -> None:
    join = pipeline.join

    async def asked_first(call: Any, flight: Any) -> None:
        await ask_before_an_attempt(call)
        await join(call, flight)

    patch.setattr(pipeline, "join", asked_first)


@breaks("every_case_ends_as_it_should", "answered to all")
def nobody_joins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flights, "find", lambda self, exchange: None)


@breaks("every_case_ends_as_it_should", "another project asks the same")
def projects_share_their_calls(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flight, "_key", lambda exchange: (exchange.shared_key, exchange.operation, exchange.request.stream))
    patch.setattr(Cache, "_find_out", for_nobody_in_particular(Cache._find_out))


@breaks("every_case_ends_as_it_should", "another project asks for what is cached", "answered")
def projects_share_their_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cache, "_find_out", for_nobody_in_particular(Cache._find_out))


def for_nobody_in_particular(find_out: Callable[..., Any]) -> Callable[..., Any]:
    def found(self: Cache, gateway: Gateway, exchange: Exchange, purges: int) -> Any:
        kept, exchange.identity = exchange.identity, Identity("anybody")
        try:
            return find_out(self, gateway, exchange, purges)
        finally:
            exchange.identity = kept

    return found


@breaks("an_answer_the_plugin_does_not_change_stays_byte_identical", "answered to all")
def who_joins_loses_a_byte(patch: pytest.MonkeyPatch) -> None:
    pump = Reader.pump

    def lossy(self: Reader, sink: Any) -> Any:
        feed = sink.feed
        if self.call.exchange.cache == "joined":
            sink.feed = lambda data: feed(data.replace(b'"created":1', b'"created":'))
        return pump(self, sink)

    patch.setattr(Reader, "pump", lossy)


@breaks("every_case_ends_as_it_should", "who began it leaves")
def the_call_ends_with_who_began_it(patch: pytest.MonkeyPatch) -> None:
    leave = Flight.leave

    def sinking(self: Flight, reader: Reader) -> None:
        leave(self, reader)
        if reader.call is self.starter and self.readers and not self.ended:
            self.ended, self.error = True, UpstreamDisconnected()
            for other in tuple(self.readers):
                other.advance()

    patch.setattr(Flight, "leave", sinking)


@breaks("an_answer_parses_in_its_format_and_ends_properly", "crashes in on_chunk by probe-first, for who joined it")
def a_crash_of_one_is_everybodys(patch: pytest.MonkeyPatch) -> None:
    close = Reader.close

    def contagious(self: Reader) -> None:
        others = [other for other in self._flight.readers if other is not self]
        close(self)
        for other in others:
            if self.call.exchange.cache == "joined" and not self._flight.ended:
                other.call.abort(MuxxError())

    patch.setattr(Reader, "close", contagious)


PAYS = "who_began_a_shared_call_pays_for_all_of_it"


@breaks(PAYS, "answered", "who began it leaves")
def who_began_a_call_and_left_pays_nothing_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flight, "rebook", lambda *args: None)


@breaks(PAYS, "answered")
def who_joins_has_saved_nothing(patch: pytest.MonkeyPatch) -> None:
    settle = accounting._settle_joined

    def unsaid(call: Any, *args: Any) -> None:
        settle(call, *args)
        call.exchange.saved_pico = None

    patch.setattr(accounting, "_settle_joined", unsaid)


@breaks("post_response_comes_after_the_bill", "who began it leaves")
def post_response_of_who_left_comes_at_once(patch: pytest.MonkeyPatch) -> None:
    after, done = Gateway.after, set()

    def once(self: Gateway, exchange: Exchange) -> None:
        if exchange.id not in done:
            done.add(exchange.id)
            after(self, exchange)

    patch.setattr(Gateway, "after", once)
    patch.setattr(Flight, "owes", lambda self, call: False)


@breaks("post_response_runs_exactly_once_per_exchange", "who began it leaves")
def post_response_of_who_left_comes_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flight, "owes", lambda self, call: False)


@breaks("an_answer_says_whether_it_came_from_the_cache")
def a_hit_has_no_age(patch: pytest.MonkeyPatch) -> None:
    begin, whole = Answer.begin, Answer.whole
    young = lambda head: re.sub("Age: [0-9]+\r\n", "", head)  # noqa: E731
    patch.setattr(Answer, "begin", lambda self, status, head: begin(self, status, young(head)))
    patch.setattr(Answer, "whole", lambda self, status, head, body: whole(self, status, young(head), body))


@pytest.mark.parametrize("what", BREAKS)
async def test_a_kernel_that_shares_badly_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BREAKS[what].invariant in await BREAKS[what].found(monkeypatch)

"""Handing a provider's whole answer to the plugins that collect it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from .call import TranslatedHead
from .chains import refuse_coroutine
from .crashes import crash_of
from .money import Cost, Usage
from .reply import WholeAnswer

if TYPE_CHECKING:
    from .call import Call
    from .transport import UpstreamResponse


log = logging.getLogger("muxx.plugins")

FAILURES = frozenset({"error", "cancelled"})
"""Finish reasons of an answer that came to nothing."""


def hand_out(call: Call, body: bytes, response: UpstreamResponse, usage: Usage, cost: Cost | None) -> None:
    """Give a provider's whole answer to those who collect it, before anybody who has had it can ask again.

    Nobody else is given an answer that does not say it is finished, or says that it failed. (Embeddings say neither.)
    """
    exchange, facts = call.exchange, call.facts
    reasons = exchange.response.finish_reasons
    if response.status != 200 or not (reasons or not call.wire.streams) or not FAILURES.isdisjoint(reasons):
        return
    headers, starter = response.headers, call.flight.starter if call.flight is not None else call
    content_type, cache_control = headers.get("content-type", "application/json"), headers.get("cache-control", "")
    attempt, headed = starter.exchange.attempts[-1], None
    if facts is not None and attempt.wire is not call.wire:
        head = TranslatedHead(starter, facts)
        headed = head.id, head.model, head.created
    answer = WholeAnswer(body, attempt.target, usage, cost, time.monotonic(), content_type, cache_control, headed)
    for take, most_bytes in starter.exchange.collectors:
        if len(body) <= most_bytes:
            try:
                if (result := take(answer)) is not None:
                    refuse_coroutine(result)
            except BaseException as error:  # plain `def`, so not even a cancellation is anybody else's
                log.error("a plugin failed to take an answer: %s", crash_of(take, error))


def hand_out_whole(call: Call) -> None:
    """The same of an answer that came with its head and that nobody shares, once it has left: its client need not wait for that,
    and as nothing is waited for in between, no other request is looked at before."""
    exchange = call.exchange
    if call.whole is not None and call.flight is None and exchange.collectors:
        hand_out(call, call.whole.body_now(), call.whole, exchange.usage, exchange.cost)

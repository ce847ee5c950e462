"""What translation costs: the same stream carried as it came, and carried into another format, event by event, in one process.

Nothing is sent anywhere, so the difference is the translation's own: reading an event into Chunks and writing them as another
format's events. Rounds of the two alternate, and the least of each counts: what is slower than that was disturbed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from muxx.relay import Relay
from muxx.testing import Said, Tool, words
from muxx.testing.speaking import streamed
from muxx.translating import TranslatedRelay, Translator
from muxx.wire.wire import AnswerHead, Wire
from muxx.wire.wires import BY_NAME

from .part import Claim, Stage, Table, say

NAME = "translation"
TITLE = "Translation"
WORDS = """Where client and provider speak different formats, an event is read into what plugins see and written as the other format's. That
costs so many µs of CPU per event besides what an event costs that passes as it came."""

FORMATS = ("chat", "responses", "messages", "generate_content")
MOST_US = 5.0
"""Per event, of every pair."""
EVENTS = 400
ROUNDS = 100
SAID = {
    "text": Said("token " * EVENTS),
    "a call's arguments": Said("", tools=(Tool("search", '{"q": "' + "token " * EVENTS + '"}'),), finish_reason="tool_calls"),
}
"""What is said, by what its events carry. (Google's format has a call in one event.)"""


Result = dict[str, dict[str, dict[str, float]]]


class _Client:
    """A client that takes everything."""

    on_resume = stalled_since = None
    paused = False

    def send(self, data: bytes) -> None:
        """It is taken."""


class _Provider:
    def close(self) -> None:
        """There is nothing to close."""


class _Limits:
    due = 0.0


def _relay(up: Wire, client: Wire | None) -> Relay:
    kind: Any = Relay
    options: dict[str, Any] = {}
    if client is not None:
        kind, options = TranslatedRelay, {"codec": Translator(up, client.codec(AnswerHead("id-1", "model", 1), True), client)}
    facts, down, response = up.stream({}, True), _Client(), _Provider()
    options |= {"between_events": 60, "finish_grace": 5, "max_event_bytes": 2**24, "distrusted": response.close}
    relay: Relay = kind(facts, response, down, _Limits(), **options)
    return relay


def _seconds(events: list[bytes], up: Wire, client: Wire | None) -> float:
    relay = _relay(up, client)
    feed = relay.feed
    begun = time.perf_counter()
    for event in events:
        feed(event)
    return time.perf_counter() - begun


async def _measured(rounds: int) -> Result:
    """Every round takes every pair, so that what disturbs the machine for a second costs each of them one round."""
    ways = {
        (kind, name): events
        for kind, said in SAID.items()
        for name in FORMATS
        if len(events := streamed(name, said, "model", pieces=words)) >= EVENTS
    }
    least: dict[tuple[str, str, str], float] = {}
    for _ in range(rounds):
        for (kind, name), events in ways.items():
            for client in FORMATS:
                took = _seconds(events, BY_NAME[name], None if client == name else BY_NAME[client])
                least[kind, name, client] = min(took, least.get((kind, name, client), took))
    result: Result = {kind: {} for kind in SAID}
    for (kind, name), events in ways.items():
        native = least[kind, name, name]
        others = [client for client in FORMATS if client != name]
        result[kind][name] = {client: round((least[kind, name, client] - native) / len(events) * 1e6, 2) for client in others}
    return result


def measured(stage: Stage) -> Result:
    """Microseconds per event on the way from each provider's format into each client's: `{"text": {"chat": {"messages": 1.3}}}`."""
    say(f"{NAME}: all pairs of formats")
    return asyncio.run(_measured(1 if stage.quick else ROUNDS))


def claims(result: dict[str, Any]) -> list[Claim]:
    most = max(took for kind in result.values() for pairs in kind.values() for took in pairs.values())
    return [Claim(f"That translation costs at most {MOST_US:g} µs per event", f"{most:.1f} µs", most < MOST_US)]


def tables(result: dict[str, Any]) -> list[Table]:
    """A row for each provider's format and kind of event, a column for each client's."""
    rows = [
        (f"{name}, {kind}", *(f"{pairs[client]:.1f}" if client in pairs else "" for client in FORMATS))
        for kind, formats in result.items()
        for name, pairs in formats.items()
    ]
    return [Table("µs per event, into each client's format:", ("the provider's format, events of", *FORMATS), rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    return []

"""One measurement of one server, and a fair comparison of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol, TypeVar

from muxx.bench.machine import busy_seconds

from .machine import cores, own_seconds
from .part import Stage, say
from .payloads import EVENTS, LAST_LINE, PROMPT_BYTES, STAMPED, request
from .server import Server, Upstream
from .tools import BenchError

QUIET = 0.05
"""The share of a core that other processes may take before a comparison is made again."""
ENOUGH = 1.5
"""Upstream and load are no bottleneck where they alone reach this many times the rate of the fastest gateway that is judged."""


@dataclass(frozen=True)
class Cell:
    """One kind of load, in a closed loop per connection."""

    name: str
    title: str
    """In words, for the docs."""
    who: tuple[str, ...]
    """Names of those who are compared; whoever is not there is left out."""
    connections: int
    stream: bool = False
    pace_ms: int = 0
    same: bool = False
    """Every request is the same one, which a cache may answer; else no two prompts are alike."""
    prompt_bytes: int = PROMPT_BYTES

    @property
    def events(self) -> int:
        return EVENTS if self.stream else 0


WARM_UP = Cell("warm-up", "", (), 64)
WARM_UP_SECONDS, QUICK_WARM_UP_SECONDS = 0.3, 0.02


@dataclass(frozen=True)
class Streams:
    """So many streams at once, for as long as it is measured, with a time between their events."""

    streams: int
    pace_ms: int
    seconds: float
    ramp_s: float
    """Over which they are begun. After it they have no common beat."""


class Bench:
    """Sends load, and accounts for what it costs. No number is ever used twice, but in a cell's load that asks one question only."""

    def __init__(self, stage: Stage, upstream: Upstream, *helpers: Server) -> None:
        """`helpers` run beside the upstream, as part of what is ours."""
        self._tools = stage.tools
        self._warm_up_s = QUICK_WARM_UP_SECONDS if stage.quick else WARM_UP_SECONDS
        self._ours = (upstream, *helpers)
        self._next = 0

    def send(self, server: Server, cell: Cell, seconds: float) -> dict[str, Any]:
        """Load of one kind for `seconds`; every answer has come and was right."""
        result = self._tools.run_load(
            request(server, stream=cell.stream, pace_ms=cell.pace_ms, prompt_bytes=cell.prompt_bytes),
            port=server.port,
            connections=cell.connections,
            seconds=seconds,
            first=self._next,
            step=0 if cell.same else 1,
            events=cell.events,
        )
        self._next += result["answers"]
        server.sent += result["answers"]
        return result

    def warm_up(self, servers: Sequence[Server]) -> None:
        for server in servers:
            self.send(server, WARM_UP, self._warm_up_s)
            server.settle()

    def measure(self, server: Server, cell: Cell, seconds: float, resting: Sequence[Server]) -> dict[str, Any]:
        """One server under one kind of load, while the others are frozen; its CPU is per event, or per request."""
        result, account = self._accounted(server, lambda: self.send(server, cell, seconds), resting)
        took = result["seconds"]
        return {
            "requests": result["answers"],
            "requests_per_s": round(result["answers"] / took, 1),
            "events_per_s": round(result["events"] / took, 1),
            "p50_ms": result["p50_us"] / 1000,
            "p99_ms": result["p99_us"] / 1000,
            "cpu_us": round(account.pop("cpu_s") / (result["events"] or result["answers"]) * 1e6, 2),
            **account,
        }

    def stream(
        self, server: Server, streams: Streams, resting: Sequence[Server], *, messages: bool = False
    ) -> dict[str, Any]:
        """One server with many streams, while the others are frozen. Delays are from the upstream's hand to the client's, per event.

        Its CPU is per event of all streams, also of those that ran before and after the events that were timed.
        """
        result, account = self._accounted(server, lambda: self._send_streams(server, streams, messages), resting)
        events = result["events"]
        return {
            "requests": result["asked"],
            "errors": result["errors"],
            "first_error": result["first_error"],
            "events_per_s": round(events / result["seconds"] * EVENTS / STAMPED, 1),
            "on_time": round(result["on_time"] / events, 5) if events else 0.0,
            "p50_ms": result["p50_us"] / 1000,
            "p99_ms": result["p99_us"] / 1000,
            "most_ms": result["most_us"] / 1000,
            "cpu_us": round(account.pop("cpu_s") / max(1, result["answers"] * EVENTS) * 1e6, 2),
            **account,
        }

    def _send_streams(self, server: Server, streams: Streams, messages: bool) -> dict[str, Any]:
        result = self._tools.run_streams(
            request(server, stream=True, pace_ms=streams.pace_ms, messages=messages),
            port=server.port,
            streams=streams.streams,
            seconds=streams.seconds,
            first=self._next,
            stamps=STAMPED,
            ramp_s=streams.ramp_s,
            ending=LAST_LINE[messages],
            stream_s=EVENTS * streams.pace_ms / 1000,
        )
        self._next += result["asked"]
        server.sent += result["asked"]
        if result["errors"]:
            server.recount()
        return result

    def _accounted(
        self, server: Server, work: Callable[[], dict[str, Any]], resting: Sequence[Server]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What came of the work, and of its cost: CPU, counted until all rows are stored; how long that took after the last answer;
        how much of a core went to processes that are none of ours (`noise`)."""
        for other in resting:
            other.freeze()
        try:
            started, foreign, cpu = time.monotonic(), self._foreign(server), server.cpu()
            result = work()
            answered = time.monotonic()
            server.settle()
            cpu, foreign, ended = server.cpu() - cpu, self._foreign(server) - foreign, time.monotonic()
        finally:
            for other in resting:
                other.thaw()
        noise = max(0.0, foreign) / (ended - started)
        return result, {"cpu_s": cpu, "settling_s": round(ended - answered, 3), "noise": round(noise, 3)}

    def _foreign(self, server: Server) -> float:
        """Seconds of our cores that others have used, plus a constant."""
        return busy_seconds(cores()) - sum(one.cpu() for one in {server, *self._ours}) - own_seconds()


Figures = dict[str, dict[str, Any]]
"""What was measured, by who."""


class Contestant(Protocol):
    """Who is compared."""

    name: str
    ours: bool
    """Whether it has to work."""


C = TypeVar("C", bound=Contestant)


def quietest(who: Sequence[C], one: Callable[[C], dict[str, Any]], *, tries: int, backwards: bool) -> Figures:
    """Each in turn, `backwards` in every other round; again while neighbours are noisy, and the turn with the least noise counts.

    Somebody else's gateway that fails is left out, and said to be; where one of ours does, nothing is worth anything.
    """
    best: Figures = {}
    for _ in range(tries):
        turn: Figures = {}
        for server in reversed(who) if backwards else who:
            try:
                turn[server.name] = one(server)
            except BenchError as error:
                if server.ours:
                    raise
                say(f"  {server.name} is left out: {error}")
        if not best or _noise(turn) < _noise(best):
            best = turn
        if _noise(best) <= QUIET:
            break
    return best


def _noise(turn: Figures) -> float:
    return max(float(figures["noise"]) for figures in turn.values())


def medians(rounds: Sequence[Figures]) -> Figures:
    """The medians of each one's figures, of those who were there in every round."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {
        name: {
            field: median(one[name][field] for one in rounds)
            for field, value in rounds[0][name].items()
            if isinstance(value, int | float)
        }
        for name in names
    }


def ratio(rounds: Sequence[Figures], first: str, second: str, field: str) -> float:
    """The median of the ratios of one to the other, round by round: neighbours disturb both of a round alike."""
    return round(median(float(one[first][field] / one[second][field]) for one in rounds), 3)


def told(turn: Figures, rate: str = "requests_per_s") -> str:
    """One turn in a line, for the progress."""
    said = [f"{name} {figures[rate]:,.0f}/s {figures['cpu_us']:.1f} µs" for name, figures in turn.items()]
    return f"{', '.join(said)}; noise {_noise(turn):.0%}"


def noise_of(rounds: Iterable[Figures]) -> float:
    """The most there was."""
    return max(_noise(turn) for turn in rounds)

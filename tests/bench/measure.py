"""What is measured, and one measurement of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .gateways import Server, Upstream
from .machine import busy_seconds, cores, own_seconds
from .payloads import EVENTS, request
from .tools import Tools


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    name: str
    title: str
    """In words, for the docs."""
    connections: int
    stream: bool = False
    pace_ms: int = 0
    same: bool = False
    """Every request is the same one, which a cache may answer; else no two prompts are alike."""
    pair: tuple[str, str] = ("muxx", "pass-through")
    """Who is compared with whom."""

    @property
    def events(self) -> int:
        return EVENTS if self.stream else 0


CELLS = (
    Cell("plain-c1", "plain calls, 1 connection", 1),
    Cell("plain-c16", "plain calls, 16 connections", 16),
    Cell("plain-c64", "plain calls, 64 connections", 64),
    Cell("stream-burst", "streams, 16 at once, events as fast as they go", 16, stream=True),
    Cell("stream-paced", "streams, 100 at once, 10 ms between events", 100, stream=True, pace_ms=10),
    Cell("hit-c64", "one question over and over, 64 connections", 64, same=True),
    Cell("hit-stream", "one stream over and over, 16 at once", 16, stream=True, same=True),
    Cell("idle-plain", "plain calls, 64 connections", 64, pair=("idle plugin", "muxx")),
    Cell("idle-stream", "streams, 16 at once, events as fast as they go", 16, stream=True, pair=("idle plugin", "muxx")),
)
FLOOR_CELL = "plain-c64"
SATURATING = tuple(cell for cell in CELLS if cell.name in (FLOOR_CELL, "stream-burst"))
"""What brings a gateway to its limit, and what upstream and load are tried with."""

WARM_UP = Cell("warm-up", "", 64)
WARM_UP_SECONDS = 0.3


class Bench:
    """Sends load. No number is ever used twice, but in one cell's load where that asks one question only."""

    def __init__(self, tools: Tools, upstream: Upstream) -> None:
        self._tools = tools
        self._upstream = upstream
        self._next = 0

    def send(self, server: Server, cell: Cell, seconds: float) -> dict[str, Any]:
        """Load of one kind for `seconds`; every answer has come and was right."""
        result = self._tools.run_load(
            request(server.port, server.key, stream=cell.stream, pace_ms=cell.pace_ms),
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

    def measure(self, server: Server, cell: Cell, seconds: float, resting: Sequence[Server]) -> dict[str, Any]:
        """One gateway under one kind of load, while the others are frozen.

        Its CPU is counted until all rows are stored. `noise` is how much of a core went to processes that are none of ours.
        """
        for other in resting:
            other.freeze()
        try:
            started, foreign, cpu = time.monotonic(), self._foreign(server), server.cpu()
            result = self.send(server, cell, seconds)
            server.settle()
            cpu, foreign = server.cpu() - cpu, self._foreign(server) - foreign
            whole = time.monotonic() - started
        finally:
            for other in resting:
                other.thaw()
        return _figures(result) | {
            "settling_s": round(whole - result["seconds"], 3),
            "noise": round(max(0.0, foreign) / whole, 3),
            "cpu_us": round(cpu / (result["events"] or result["answers"]) * 1e6, 2),
        }

    def _foreign(self, server: Server) -> float:
        """Seconds of our cores that others have used, plus a constant."""
        return busy_seconds(cores()) - server.cpu() - self._upstream.cpu() - own_seconds()

    def ceiling(self, cell: Cell, seconds: float) -> dict[str, Any]:
        """What upstream and load reach without a gateway between them: what they are no bottleneck below."""
        return _figures(self.send(self._upstream, cell, seconds))


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """Rates and latencies. A stream's latency is that of its last byte."""
    seconds = result["seconds"]
    return {
        "requests": result["answers"],
        "requests_per_s": round(result["answers"] / seconds, 1),
        "events_per_s": round(result["events"] / seconds, 1),
        "p50_ms": result["p50_us"] / 1000,
        "p99_ms": result["p99_us"] / 1000,
    }

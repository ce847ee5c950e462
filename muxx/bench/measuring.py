"""What is measured, in rounds: each kind of load on the upstream itself, then on the gateway in front of it, seconds apart.

Neighbours move Python's figures from second to second. So a round holds one short stretch of everything, and what counts is the
median over the rounds: of the figures, or of the differences within a round.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..sqlite import connect
from . import machine
from .children import CannotMeasure, Child
from .load import Called, Load, Stretch, sent_words
from .machine import Moment, Use
from .said import MODEL, PACE_SECONDS

BUSY = 64
"""Connections that keep a worker busy."""
STREAMS = 8
"""At once: a load under which nothing has to wait for its turn."""
WARM_UP_SECONDS = 0.3
SETTLING_SECONDS = 0.35
"""About what the rows of a round take to be stored."""
ENDING_SECONDS = 1.0
"""About what the end takes."""
SHARES = 8.5
"""Of a round: 1 and 2 on one connection, ½ and 2 on many, 1 and 1 of streams, ½ and ½ of hits."""
FEWEST_WORDS = 5
STORE_SECONDS = 30.0

Told = Callable[[str, float], None]
"""Gets a line on what has been done, and which part of all it was so far."""


@dataclass(frozen=True)
class Latency:
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Compared:
    """Of the upstream itself, of the gateway in front of it, and what lies between."""

    direct: Latency
    muxx: Latency
    added: Latency


@dataclass(frozen=True)
class Figures:
    """All that was measured. CPU is that of all the gateway's processes, until the rows are stored."""

    request: Compared
    """On one connection."""
    event: Compared | None
    """From when the upstream sent a word of a stream; None where a plugin changes the words."""
    direct_per_s: float
    """Requests, on many connections."""
    muxx_per_s: float
    cpu_us: float | None
    """Of a request, on many connections; None without /proc."""
    hit: Latency | None
    """On one connection; None where nothing came from a cache."""
    hit_cpu_us: float | None
    """On many connections."""
    requests: int
    """All that the gateway was sent and has answered."""
    rows: int | None
    """How many of them have one; None where no plugin keeps rows."""
    changed: int
    """Answers with another text than the upstream's."""
    spread: float
    """How far the rounds are apart, as a share of their median."""
    others_cores: float | None
    """How many cores other processes kept busy meanwhile."""
    busiest: str | None
    """Who of them most."""
    seconds: float

    @property
    def per_core(self) -> float:
        """Requests a second that one core serves; without /proc, what one worker served beside all else that ran."""
        return 1e6 / self.cpu_us if self.cpu_us else self.muxx_per_s


@dataclass
class Taken:
    """What the rounds have brought so far. Times in nanoseconds, one list for each round."""

    direct: list[list[int]] = field(default_factory=list)
    muxx: list[list[int]] = field(default_factory=list)
    direct_events: list[list[int]] = field(default_factory=list)
    muxx_events: list[list[int]] = field(default_factory=list)
    hits: list[list[int]] = field(default_factory=list)
    direct_rates: list[float] = field(default_factory=list)
    muxx_rates: list[float] = field(default_factory=list)
    cpu: list[tuple[float, int]] = field(default_factory=list)
    """Seconds, for so many requests."""
    hit_cpu: list[tuple[float, int]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    changed: int = 0


class Measuring:
    """The rounds. Every call is answered rightly, or `CannotMeasure` says what came instead."""

    def __init__(self, upstream: Child, gateway: Child, logs: Path, user: str, told: Told) -> None:
        self._upstream = upstream
        self._gateway = gateway
        self._logs = logs
        self._told = told
        self._load = Load()
        self._taken = Taken()
        self._keeps_rows = True
        self._direct = Called("upstream", upstream.said["port"], MODEL, "sk-bench", user)
        self._muxx = Called("gateway", gateway.said["port"], gateway.said["model"], gateway.said["key"], user)

    async def figures(self, started: float, seconds: float) -> Figures:
        """Measure until `seconds` after `started` (monotonic)."""
        gc.disable()  # a collection here would look like a delay there
        try:
            await self._ready()
            before = machine.now()
            caches = await self._warm_up()
            left = seconds - (time.monotonic() - started) - ENDING_SECONDS
            rounds = 5 if left > 12 else 3
            unit = max(0.02, (left / rounds - SETTLING_SECONDS) / SHARES)
            for number in range(rounds):
                await self._round(unit, caches)
                self._told(f"round {number + 1} of {rounds}: {self._so_far()}", (number + 1) / rounds)
            use = machine.between(before, machine.now(), self._ours)
            rows = await self._count_stored()
        finally:
            gc.enable()
        return summed_up(self._taken, use, rows, time.monotonic() - started)

    @property
    def _ours(self) -> tuple[int, int]:
        return self._gateway.group, self._upstream.group

    async def _ready(self) -> None:
        """Return when the gateway answers: its socket is there before its worker is."""
        async with asyncio.timeout(30.0):
            while True:
                self._gateway.check()
                with suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._muxx.port)
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    head = await reader.readuntil(b"\r\n")
                    writer.close()
                    await writer.wait_closed()
                    if b" 200 " in head:
                        return
                await asyncio.sleep(0.02)

    async def _warm_up(self) -> bool:
        """Everything once, so that what is compiled and connected on first use is. Whether a repeated question is answered by
        the cache."""
        await self._load.plain(self._direct, BUSY, WARM_UP_SECONDS / 3)
        self._note(await self._load.plain(self._muxx, BUSY, WARM_UP_SECONDS))
        self._note(await self._load.streams(self._muxx, STREAMS, FEWEST_WORDS))
        self._note(await self._load.plain(self._muxx, 1, 0.0, same=True))
        again = self._note(await self._load.plain(self._muxx, 1, 0.0, same=True))
        await self._settle()
        return again.hits > 0

    def _note(self, stretch: Stretch) -> Stretch:
        self._taken.ids += stretch.ids
        self._taken.changed += stretch.changed
        return stretch

    async def _round(self, unit: float, caches: bool) -> None:
        taken, load = self._taken, self._load
        taken.direct.append((await load.plain(self._direct, 1, unit)).latencies)
        taken.muxx.append(self._note(await load.plain(self._muxx, 1, 2 * unit)).latencies)
        words = max(FEWEST_WORDS, round(unit / PACE_SECONDS))
        taken.direct_events.append(await self._delays(await load.streams(self._direct, STREAMS, words)))
        taken.muxx_events.append(await self._delays(self._note(await load.streams(self._muxx, STREAMS, words))))
        await self._settle()
        alone = await load.plain(self._direct, BUSY, unit / 2)
        taken.direct_rates.append(alone.answers / alone.seconds)
        busy = await self._with_cpu(BUSY, 2 * unit, taken.cpu)
        taken.muxx_rates.append(busy.answers / busy.seconds)
        if caches:
            taken.hits.append(self._note(await load.plain(self._muxx, 1, unit / 2, same=True)).latencies)
            await self._settle()
            await self._with_cpu(BUSY, unit / 2, taken.hit_cpu, same=True)

    async def _with_cpu(self, connections: int, seconds: float, cpu: list[tuple[float, int]], *, same: bool = False) -> Stretch:
        """Load on the gateway, and what its processes have used for it in the end: the recorder's work belongs to it."""
        moments: list[Moment] = []
        stretch = await self._load.plain(
            self._muxx, connections, seconds, same=same, connected=lambda: moments.append(machine.now())
        )
        self._note(stretch)
        await self._settle()
        use = machine.between(moments[0], machine.now(), self._ours)
        if use is not None:
            cpu.append((use.of(self._gateway.group), stretch.answers))
        return stretch

    async def _delays(self, stretch: Stretch) -> list[int]:
        """Nanoseconds from the upstream to here, of each word of the streams of which all words came."""
        sent = await sent_words(self._direct.port)
        pairs = [(sent[call], words) for call, words in stretch.streamed if len(words) == len(sent.get(call, ()))]
        self._taken.changed += len(stretch.streamed) - len(pairs)
        return [came - left for lefts, words in pairs for left, came in zip(lefts, words, strict=True)]

    def _so_far(self) -> str:
        taken = self._taken
        added = _median(taken.muxx[-1]) - _median(taken.direct[-1])
        return f"{max(0.0, added) / 1e6:.2f} ms added to a request, {taken.muxx_rates[-1]:,.0f} requests/s"

    async def _settle(self) -> None:
        """Return when what was asked so far has its rows."""
        deadline = time.monotonic() + STORE_SECONDS
        while self._keeps_rows:
            rows = await self._read("SELECT count(*) FROM generations")
            self._keeps_rows = rows is not None
            if rows is None or rows[0][0] >= len(self._taken.ids) or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.01)

    async def _count_stored(self) -> int | None:
        """How many of the answers have a row, by their ids, which is all of them; None where no plugin keeps rows."""
        deadline = time.monotonic() + STORE_SECONDS
        asked = set(self._taken.ids)
        while (rows := await self._read("SELECT request_id FROM generations")) is not None:
            missing = len(asked.difference(row[0] for row in rows))
            if not missing:
                return len(asked)
            if time.monotonic() > deadline:
                raise CannotMeasure(
                    f"{missing:,} of {len(asked):,} answered requests have no row after {STORE_SECONDS:g} s, so nobody knows "
                    "what they cost. Is the disk full or too slow, or does a plugin fail to record?"
                )
            await asyncio.sleep(0.05)
        return None

    async def _read(self, sql: str) -> list[Any] | None:
        connection = await connect(self._logs, query_only=True)
        try:
            return list(await connection.execute_fetchall(sql))
        except sqlite3.OperationalError:
            return None
        finally:
            await connection.close()


def summed_up(taken: Taken, use: Use | None, rows: int | None, seconds: float) -> Figures:
    """The figures of all rounds."""
    events = all(taken.direct_events) and all(taken.muxx_events)
    return Figures(
        request=_compared(taken.direct, taken.muxx),
        event=_compared(taken.direct_events, taken.muxx_events) if events else None,
        direct_per_s=statistics.median(taken.direct_rates),
        muxx_per_s=statistics.median(taken.muxx_rates),
        cpu_us=_microseconds(taken.cpu),
        hit=_latency(taken.hits) if taken.hits else None,
        hit_cpu_us=_microseconds(taken.hit_cpu),
        requests=len(taken.ids),
        rows=rows,
        changed=taken.changed,
        spread=_spread(taken),
        others_cores=None if use is None else use.others / use.seconds,
        busiest=None if use is None else use.busiest,
        seconds=seconds,
    )


def _compared(direct: Sequence[list[int]], muxx: Sequence[list[int]]) -> Compared:
    """`added`: the median of the differences between medians, and the difference of the slowest hundredths."""
    alone, through = _latency(direct), _latency(muxx)
    differences = [_median(ours) - _median(theirs) for ours, theirs in zip(muxx, direct, strict=True)]
    p50 = max(0.0, statistics.median(differences) / 1e6)
    return Compared(alone, through, Latency(p50, max(p50, through.p99_ms - alone.p99_ms)))


def _latency(rounds: Sequence[list[int]]) -> Latency:
    everything = sorted(value for values in rounds for value in values)
    p50 = statistics.median(_median(values) for values in rounds)
    return Latency(p50 / 1e6, everything[len(everything) * 99 // 100] / 1e6)


def _median(values: list[int]) -> float:
    return statistics.median(values)


def _microseconds(cpu: list[tuple[float, int]]) -> float | None:
    """Of one request, over all rounds: the kernel counts in hundredths of a second, too coarse for one of them."""
    requests = sum(count for _, count in cpu)
    return sum(seconds for seconds, _ in cpu) / requests * 1e6 if requests else None


def _spread(taken: Taken) -> float:
    """The worse of the two main figures."""
    medians = [_median(values) for values in taken.muxx]
    return max((max(values) - min(values)) / statistics.median(values) for values in (medians, taken.muxx_rates))

"""What the log costs when it has grown: a million rows are listed, filtered and searched, at rest and while requests are served.

The requests come at a steady rate, whether the last ones have been answered or not, and each one's time counts from when it was
due. Spells with and without somebody who reads the log alternate, and of each kind the median counts: neighbours disturb some of both.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, cycle
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import orjson

from muxx import Database
from muxx_std.logs.indexes import INDEXES, extend, merge, prepare
from muxx_std.logs.schema import COLUMNS

from .load import MARK, judge, read_answer
from .machine import cores
from .muxxes import Muxx
from .part import Claim, Stage, Table, say
from .payloads import request

NAME = "log"
TITLE = "The log"
WORDS = """A million rows of half a kilobyte of content, and [pages](logs.md#over-http) of 20 rows of one project. Where a page says "so far", its time was not enough to look at all rows, and it says where to go on.
Requests, recorder, index and whoever reads share the gateway's one core here; where there is a second one, reading goes on there."""

ROWS = 1_000_000
PER_SECOND = 200
SPELL_SECONDS = 2.0
SPELLS = 20
"""Of each kind."""
PAGES = 15
"""Of each query, while no requests come."""
PAUSE_SECONDS = 0.05
"""Of whoever reads the log, after each page."""
MOST_MS = 200.0
MOST_RATIO = 1.2

ROWS_A_PAGE = 20
_BATCH = 5000
_SECONDS_APART = 2.0
_MODELS = ("gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet", "gemini-1.5-pro")
_PROVIDERS = ("openai", "openai", "anthropic", "gemini")

QUERIES: dict[str, dict[str, str]] = {
    "newest rows": {},
    "all environments": {"environment": "all"},
    "test traffic, 1 in 50": {"environment": "test"},
    "a frequent model": {"model": "gpt-4o"},
    "a model that is not there": {"model": "gpt-5"},
    "a provider that is not there": {"provider": "groq"},
    "a user, 1 in 20,000": {"user_id": "user-77"},
    "a status, 1 in 40": {"status": "429"},
    "a status that is not there": {"status": "500"},
    "cache hits, 1 in 11": {"cache": "hit"},
    "metadata, 1 in 3": {"metadata.feature": "chat"},
    "metadata, one row": {"metadata.trace": "0000abcd"},
    "metadata that is not there": {"metadata.feature": "none"},
    "a day, by status": {"from": "{day}", "to": "{next}", "status": "429"},
    "four fields at once": {"status": "429", "cache": "hit", "provider": "gemini", "metadata.team": "t3"},
    "a text in every row": {"q": "messages"},
    "a text in one row": {"q": "chatcmpl-0000abcd"},
    "a text that is not there": {"q": "no such words anywhere"},
    "a text of two characters": {"q": "qx"},
}
ANALYTICS = {
    "spend of each day, by model": "by=model&interval=day",
    "spend of each day, by a member of metadata": "by=metadata.feature&interval=day",
    "spend of a day, by user": "by=user&interval=day&from={day}&to={next}",
}
"""Of the last 30 days, where nothing else is said."""


def measured(stage: Stage) -> dict[str, Any]:
    """All of it, as plain data."""
    rows, spells, pages = (2000, 1, 2) if stage.quick else (ROWS, SPELLS, PAGES)
    say(f"{NAME}: {rows:,} rows are stored, indexed, and read")
    with stage.upstream() as (directory, upstream):
        muxx = Muxx(directory, cores()[0], loop=stage.loops[0], upstream=upstream.url)
        with muxx:
            pass  # it makes its databases
        fill(muxx.logs, rows)
        indexing = asyncio.run(_index(muxx.directory / "muxx.db"))
        with muxx:
            _wait_for_sums(muxx.logs)
            figures = asyncio.run(_compared(muxx, rows, spells, pages))
    return {"rows": rows, "index_us": round(indexing / rows * 1e6), **figures}


# ── the rows ──


def fill(path: Path, rows: int) -> None:
    """Rows of half a kilobyte of content, the newest a moment ago. They are stored as the recorder would, without muxx."""
    names = ", ".join(COLUMNS)
    marks = ", ".join("?" * len(COLUMNS))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for batch in _batches(rows):
            with db:
                db.executemany(f"INSERT INTO generations ({names}) VALUES ({marks})", [row for row, _ in batch])
                db.executemany("INSERT INTO contents VALUES (?, ?, ?, ?)", [content for _, content in batch])


def _batches(rows: int) -> Iterator[list[tuple[Any, Any]]]:
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(20_000)]
    weights = list(accumulate(1 / place for place in range(1, len(words) + 1)))
    began = time.time() - rows * _SECONDS_APART
    for start in range(0, rows, _BATCH):
        numbers = range(start, min(start + _BATCH, rows))
        text = chance.choices(words, cum_weights=weights, k=50 * len(numbers))
        yield [
            _row(number, began + number * _SECONDS_APART, chance, text[50 * place : 50 * place + 50])
            for place, number in enumerate(numbers)
        ]


def _row(number: int, at: float, chance: random.Random, words: list[str]) -> tuple[Any, Any]:
    which = chance.choices(range(4), (5, 3, 2, 1))[0]
    values: dict[str, Any] = {
        "request_id": f"req_{number:026d}", "started_at": at, "first_token_ms": 312.5, "duration_ms": 1800.25, "project": "default",
        "key_id": "key_bench", "key_prefix": "muxx_sk_live_", "key_last4": "abcd", "environment": "live" if number % 50 else "test",
        "user_id": f"user-{chance.randrange(20_000)}", "client_ip": "127.0.0.1", "endpoint": "/v1/chat/completions",
        "metadata": f'{{"feature":"{("search", "chat", "sum")[number % 3]}","team":"t{number % 7}","trace":"{number:08x}"}}',
        "provider": _PROVIDERS[which], "model_requested": _MODELS[which], "model": f"{_MODELS[which]}-2026-08-06", "stream": 1,
        "status": 200 if number % 40 else 429, "attempts": 1, "input_tokens": 120, "output_tokens": 80, "cache_read_tokens": 0,
        "cache_write_tokens": 0, "reasoning_tokens": 0, "usage_source": "provider", "input_cost_pico": 27_500_000,
        "output_cost_pico": 70_000_000, "cost_pico": 97_500_000, "price_version": "2026-11-01",
        "cache": "miss" if number % 11 else "hit", "finish_reasons": '["stop"]', "attributes": "{}",
    }  # fmt: skip
    asked, answered = " ".join(words[:30]), " ".join(words[30:])
    content = (
        values["request_id"],
        at,
        f'{{"model":"{_MODELS[which]}","messages":[{{"role":"user","content":"{asked}"}}]}}',
        f'{{"id":"chatcmpl-{number:08x}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{answered}"}}}}]}}',
    )
    return tuple(values.get(name) for name in COLUMNS), content


async def _index(path: Path) -> float:
    """The seconds it takes to index all rows, without a pause."""
    db = Database(path)
    begun = time.perf_counter()
    try:
        await db.write_logs(partial(prepare, wanted=True))
        for index in INDEXES:
            while await db.write_logs(partial(_extended, index)):
                while await db.write_logs(partial(merge, index=index)):
                    pass
    finally:
        await db.close()
    return time.perf_counter() - begun


async def _extended(index: Any, db: Any) -> int:
    return await extend(db, 500, index)


def _wait_for_sums(path: Path) -> None:
    """A gateway that finds rows it has no sums of adds them up beside its work."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        while db.execute("SELECT count(*) FROM generations WHERE position > (SELECT position FROM analytics_state)").fetchone()[0] > 2000:
            time.sleep(0.5)


# ── the load ──


@dataclass
class Load:
    """Requests at a steady rate."""

    port: int
    template: bytes
    number: int = 0
    latencies: list[float] = field(default_factory=list)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def spell(self) -> float:
        """The p99 of one spell, in ms."""
        self.latencies = []
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for place in range(int(SPELL_SECONDS * PER_SECOND)):
                due = begun + place / PER_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask(due))
        return _percentile(self.latencies, 99)

    async def _ask(self, due: float) -> None:
        self.number += 1
        digits = b"%016x" % self.number
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self.template.replace(MARK, digits, 1))
        judge(await read_answer(reader), digits, 0)
        self.latencies.append((time.monotonic() - due) * 1000)
        self._idle.append((reader, writer))

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


@dataclass
class Reader:
    """Somebody who reads the log, one page after the other, over one connection."""

    port: int
    key: str
    targets: dict[str, str]

    async def page(self, name: str) -> tuple[float, int, bool]:
        """Milliseconds, rows, and whether the time was enough to look at all."""
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = (f"GET {self.targets[name]} HTTP/1.1", "Host: bench", f"Authorization: Bearer {self.key}", "Connection: close")
        writer.write("\r\n".join((*lines, "", "")).encode())
        body = await read_answer(reader)
        took = (time.monotonic() - begun) * 1000
        writer.close()
        answer = orjson.loads(body)
        return took, len(answer["data"]), not answer["has_more"] or len(answer["data"]) == ROWS_A_PAGE

    async def read(self, times: dict[str, list[float]], until: float) -> None:
        """Ask everything in turn, and again, until it is over."""
        for name in cycle(self.targets):
            if time.monotonic() >= until:
                return
            times[name].append((await self.page(name))[0])
            await asyncio.sleep(PAUSE_SECONDS)


async def _compared(muxx: Muxx, rows: int, spells: int, pages: int) -> dict[str, Any]:
    day = (time.time() - rows * _SECONDS_APART / 2) // 86_400 * 86_400
    moments = {"day": f"{day:.0f}", "next": f"{day + 86_400:.0f}"}
    targets = {
        name: "/v1/logs?" + urlencode({key: value.format(**moments) for key, value in query.items()})
        for name, query in QUERIES.items()
    } | {name: f"/v1/analytics/spend?{query.format(**moments)}" for name, query in ANALYTICS.items()}
    reader = Reader(muxx.port, muxx.key, targets)
    load = Load(muxx.port, request(muxx))
    await load.spell()
    resting = {name: [await reader.page(name) for _ in range(pages)] for name in targets}
    busy: dict[str, list[float]] = {name: [] for name in targets}
    alone, beside = [], []
    for _ in range(spells):
        alone.append(await load.spell())
        reading = asyncio.create_task(reader.read(busy, time.monotonic() + SPELL_SECONDS))
        beside.append(await load.spell())
        await reading
    await load.close()
    return {
        "queries": {
            name: {
                "rows": found[0][1], "whole": all(whole for _, _, whole in found),
                "rest_ms": [round(_percentile([took for took, _, _ in found], share), 1) for share in (50, 95)],
                "busy_ms": [round(_percentile(busy[name], share), 1) for share in (50, 95)],
            }
            for name, found in resting.items()
        },
        "p99_ms": {"alone": round(median(alone), 2), "beside": round(median(beside), 2)},
        "p99_ratio": round(median(beside) / median(alone), 2),
    }  # fmt: skip


def _percentile(values: list[float], share: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) * share // 100, len(ordered) - 1)] if ordered else 0.0


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    slowest = max(max(query["rest_ms"][1], query["busy_ms"][1]) for query in result["queries"].values())
    moved = result["p99_ratio"]
    return [
        Claim(f"That every page of the log takes less than {MOST_MS:g} ms at p95", f"{slowest:.0f} ms", slowest < MOST_MS),
        Claim(f"That requests' p99 grows by less than {MOST_RATIO - 1:.0%} while the log is read", f"{moved - 1:.0%}", moved < MOST_RATIO),
    ]


def tables(result: dict[str, Any]) -> list[Table]:
    """A row for each query."""
    columns = ("page of", "rows", "at rest, p50 / p95 ms", f"while {PER_SECOND} requests/s are served, p50 / p95 ms")
    rows = [
        (
            name,
            f"{query['rows']}{'' if query['whole'] else ', so far'}",
            *(f"{p50:.1f} / {p95:.1f}" for p50, p95 in (query["rest_ms"], query["busy_ms"])),
        )
        for name, query in result["queries"].items()
    ]
    return [Table(f"With {result['rows']:,} rows:", columns, rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    p99 = result["p99_ms"]
    return [
        f"Requests come at {PER_SECOND} a second. Their p99 is {p99['alone']:.1f} ms while nobody reads the log and {p99['beside']:.1f} ms while pages are read one after "
        f"another: {result['p99_ratio']:.2f} times as much. Indexing takes {result['index_us']} µs for each row."
    ]

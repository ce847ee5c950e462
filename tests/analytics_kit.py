"""What the tests of analytics share: a log of made-up rows, and their figures added up in plain Python."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from muxx.db import Connection, Database
from muxx_std.analytics import fold, schema
from muxx_std.analytics.figures import Line, ask
from muxx_std.analytics.question import Question
from muxx_std.logs.schema import COLUMNS
from muxx_std.logs.schema import MIGRATIONS as LOGS
from muxx_std.logs.store import LogWriter

MIDNIGHT = 1_795_305_600
"""A Sunday, 2026-11-22."""
DAY = 86_400

Row = dict[str, Any]
Figures = tuple[int, ...]


def row(number: int = 1, **members: Any) -> Row:
    """A priced answer of a live key of `shop`."""
    found: Row = dict.fromkeys(COLUMNS)
    found |= {"request_id": f"req_{number:06d}", "started_at": MIDNIGHT + 60.0, "project": "shop", "environment": "live"}
    found |= {"key_id": "key_1", "endpoint": "chat", "provider": "openai", "model": "gpt-4o", "status": 200}
    found |= {"input_tokens": 10, "output_tokens": 5, "usage_source": "provider", "cost_pico": 75_000_000, "cache": "miss"}
    return found | {"stream": False, "attributes": {}, "finish_reasons": [], "input": None, "output": None} | members


@asynccontextmanager
async def log_of(directory: Path) -> AsyncIterator[Database]:
    """A database with the tables of the log and of the sums."""
    db = Database(directory / "muxx.db")
    await db.open()
    try:
        await db.migrate("logs", LOGS)
        await db.migrate("analytics", schema.MIGRATIONS)
        await fold.watch(db)
        yield db
    finally:
        await db.close()


async def keep(db: Database, *rows: Row) -> None:
    """As the recorder stores them."""

    async def work(connection: Connection) -> None:
        await LogWriter().store(connection, rows)

    await db.write_logs(work)


async def run(db: Database, sql: str, *values: Any) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(sql, values)

    await db.write_logs(work)


async def wholly_folded(db: Database) -> None:
    while (await db.read_logs(fold._WAITING, (1, 1)))[0][0]:
        await db.write_logs(fold.fold)


# ── plain Python ──


def figures_of(found: Row) -> Figures:
    """What a row adds to each figure of a `Line`."""
    free = found["usage_source"] == "cache"
    cost, saved = found["cost_pico"], found["saved_pico"]
    return (
        1,
        int((found["status"] or 0) >= 400 or found["error_code"] is not None),
        0 if free else found["input_tokens"] or 0,
        0 if free else found["output_tokens"] or 0,
        cost or 0,
        saved or 0,
        int(cost is None),
        *(int(found["cache"] == outcome) for outcome in ("hit", "joined", "miss")),
    )


def start_of(at: float, interval: str) -> int:
    moment = datetime.fromtimestamp(int(at), UTC)
    midnight = moment.replace(hour=0, minute=0, second=0)
    starts = {
        "hour": moment.replace(minute=0, second=0),
        "day": midnight,
        "week": midnight - timedelta(days=midnight.weekday()),
        "month": midnight.replace(day=1),
    }
    return int(starts[interval].timestamp())


def values_of(found: Row, by: str | None) -> list[str | None]:
    """The values under which a row is counted; for metadata there may be none."""
    if by is None:
        return [None]
    if by == "answer":
        return [found["attributes"]["answer_of"]] if "answer_of" in found["attributes"] else []
    if by.startswith("metadata."):
        members, name = found["metadata"] or {}, by.removeprefix("metadata.")
        return [spelt(members[name])] if name in members else []
    name = {"user": "user_id", "key": "key_id"}.get(by, by)
    return [(found["model"] or found["model_requested"]) if name == "model" else found[name]]


def spelt(value: Any) -> str | None:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value) or None


def added_up(rows: Iterable[Row], question: Question) -> dict[tuple[int, str | None], Figures]:
    """By start of the period and value, of the rows that the question is about."""
    span, found = question.span, defaultdict(list)
    for each in rows:
        mine = question.project in (None, each["project"]) and question.environment in (None, each["environment"])
        if not (each["project"] and each["environment"] and mine and span.start <= each["started_at"] < span.end):
            continue
        if any((each[name] or (each["model_requested"] if name == "model" else None)) != v for name, v in question.filters.items()):
            continue
        at = span.start if question.interval == "total" else max(span.start, start_of(each["started_at"], question.interval))
        for value in values_of(each, question.by):
            found[at, value].append(figures_of(each))
    return {key: tuple(map(sum, zip(*lines, strict=True))) for key, lines in found.items()}


async def answered(db: Database, question: Question) -> tuple[dict[tuple[int, str | None], Figures], Figures]:
    """What the plugin says: the same, and the total."""
    spent, cached = await ask(db, question), await ask(db, replace(question, about="cache"))
    assert not spent.has_more
    lines = {(line.span.start, line.value): line for line in cached.lines}
    assert len(lines) == len(spent.lines)
    found = {(line.span.start, line.value): figures(line, lines[line.span.start, line.value]) for line in spent.lines}
    return found, figures(spent.total, cached.total)


def figures(spent: Line, cached: Line) -> Figures:
    assert (spent.span, spent.value, spent.requests, spent.saved_pico) == (
        cached.span, cached.value, cached.requests, cached.saved_pico,
    )  # fmt: skip
    tokens, money = (spent.input_tokens, spent.output_tokens), (spent.cost_pico, spent.saved_pico)
    return spent.requests, spent.errors, *tokens, *money, spent.unpriced, cached.hits, cached.joined, cached.misses


def total(lines: Mapping[Any, Figures]) -> Figures:
    return tuple(map(sum, zip(*lines.values(), strict=True))) if lines else (0,) * 10


def many(count: int, seconds: float, seed: int = 1) -> Callable[[int], Row]:
    """Rows over so many seconds, of a few projects, keys, models, users and features."""
    choose = random.Random(seed)

    def make(number: int) -> Row:
        cost = choose.randrange(10**10)
        return row(
            number,
            started_at=MIDNIGHT + number * seconds / count,
            project=f"project{number % 10}",
            key_id=f"key_{number % 30}",
            model=f"model-{number % 8}",
            user_id=f"user{choose.randrange(1000)}",
            metadata={"feature": f"feature{number % 7}"},
            cost_pico=cost,
        )

    return make

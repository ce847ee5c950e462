"""The figures that answer a question. They are read in one statement, so they are of one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from muxx import Database, InvalidRequest, MuxxError

from . import statement
from .periods import Span, bounds
from .question import Question

MOST_ROWS = 100_000
"""Requests that are added up one by one: it takes half a second."""
PART = 1_000_000


class Line(NamedTuple):
    """The figures of a period and a value. The total has all of the time, and no value. What was not asked about is 0."""

    span: Span
    value: str | None
    requests: int
    saved_pico: int
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_pico: int = 0
    unpriced: int = 0
    hits: int = 0
    joined: int = 0
    misses: int = 0


class Found(NamedTuple):
    """Lines in the order of their time, the most expensive first; what all comes to that was asked about, and whether it has more
    values than were wanted."""

    lines: list[Line]
    total: Line
    has_more: bool


async def ask(db: Database, question: Question) -> Found:
    """Answer it. `InvalidRequest` where that takes more rows than can be added up while somebody waits."""
    if question.source == "rows":
        everything = replace(question, interval="total", by=None, filters={})
        [row] = await read(db, statement.requests(everything), statement.values(everything))
        _refuse_too_many(row[0])
    spans: dict[str, Span] = {}
    rows = await read(db, statement.figures(question), statement.values(question))
    lines = [_line(question, row, spans) for row in rows if not row["is_total"]]
    [total] = [_line(question, row, spans) for row in rows if row["is_total"]]
    places = _places(question, lines)
    shown = [line for line in lines if places[line.value] < question.limit]
    shown.sort(key=lambda line: (line.span, places[line.value]))
    return Found(shown, total, len(places) > question.limit)


def _places(question: Question, lines: Iterable[Line]) -> dict[str | None, int]:
    """Of each value: the most expensive first, or what the cache gave most often."""
    sums: dict[str | None, tuple[int, int]] = {}
    for line in lines:
        first, second = sums.get(line.value, (0, 0))
        weight = line.cost_pico if question.about == "spend" else line.hits + line.joined
        sums[line.value] = first + weight, second + line.requests
    ranked = sorted(sums, key=lambda value: (-sums[value][0], -sums[value][1], value or ""))
    return {value: place for place, value in enumerate(ranked)}


def _refuse_too_many(requests: int) -> None:
    if requests > MOST_ROWS:
        raise InvalidRequest(
            f"No sums are kept of what is asked together here, and these are {requests} requests to add up one by one; at most"
            f" {MOST_ROWS} are. Ask for a shorter time or leave something out: of users and of metadata by themselves there are"
            " sums of whole days.",
            param="from",
        )


async def read(db: Database, sql: str, values: dict[str, Any]) -> list[Any]:
    """Rows of the log database; an error that says so where there is no log."""
    try:
        return await db.scan_logs(sql, values)
    except sqlite3.OperationalError as error:
        if "no such table: main.generations" not in str(error):
            raise
        text = "Nothing is logged: the plugin `logs` is off, or no gateway has run on this database yet."
        raise MuxxError(text, status=501, code="not_implemented") from error


def _line(question: Question, row: Any, spans: dict[str, Span]) -> Line:
    """`spans` is what is known by now of the periods that rows name."""
    if row["is_total"]:
        span, value = question.span, None
    else:
        start, value = row["start"], row["value"] or None
        span = spans.get(start) or spans.setdefault(start, bounds(question.interval, start, question.span))
    figures = {name: row[name] or 0 for name in question.figures}
    requests, saved = figures["requests"], figures["saved_micro"] * PART + figures["saved_rest"]
    if question.about == "cache":
        return Line(span, value, requests, saved, hits=figures["hits"], joined=figures["joined"], misses=figures["misses"])
    cost, unpriced = figures["cost_micro"] * PART + figures["cost_rest"], requests - figures["priced"]
    counted = figures["errors"], figures["input_tokens"], figures["output_tokens"]
    return Line(span, value, requests, saved, *counted, cost, unpriced)

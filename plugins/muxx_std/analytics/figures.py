"""The figures that answer a question. They are read in one statement, so they are of one moment."""

from __future__ import annotations

import sqlite3
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
    """The figures of a period and a value. The total has all of the time, and no value."""

    span: Span
    value: str | None
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_pico: int
    saved_pico: int
    unpriced: int
    hits: int
    joined: int
    misses: int


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
    total, *rows = sorted(await read(db, statement.figures(question), statement.values(question)), key=_order)
    lines = [_line(question, row) for row in rows if row["place"] <= question.limit]
    return Found(lines, _line(question, total), len(rows) > len(lines))


def _order(row: Any) -> tuple[bool, str, int]:
    """The total first."""
    return row["place"] > 0, row["start"], row["place"]


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
        return await db.read_logs(sql, values)
    except sqlite3.OperationalError as error:
        if "no such table: main.generations" not in str(error):
            raise
        raise MuxxError("Nothing is logged: switch the plugin `logs` on.", status=501, code="not_implemented") from error


def _line(question: Question, row: Any) -> Line:
    is_total = row["place"] == 0
    requests = row["requests"] or 0
    return Line(
        question.span if is_total else bounds(question.interval, row["start"], question.span),
        None if is_total else row["value"] or None,
        requests,
        row["errors"] or 0,
        row["input_tokens"] or 0,
        row["output_tokens"] or 0,
        (row["cost_micro"] or 0) * PART + (row["cost_rest"] or 0),
        (row["saved_micro"] or 0) * PART + (row["saved_rest"] or 0),
        requests - (row["priced"] or 0),
        row["hits"] or 0,
        row["joined"] or 0,
        row["misses"] or 0,
    )

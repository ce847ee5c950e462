"""`muxx costs`: works beside a running server, and without one."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import click

from muxx import Config, Host, MomentArgument, config_option, csv_cell, echo_json, run_async, table, usd

from .figures import Found, Line, ask
from .periods import INTERVALS, Interval, Span, hours_around, last_span, month_span
from .present import spend
from .question import BY, METADATA, WAYS, Question
from .schema import MIGRATIONS
from .shapes import MOST_VALUES

ENVIRONMENTS = ("live", "test", "all")
COLUMNS = ("start", "requests", "errors", "input_tokens", "output_tokens", "cost_usd", "saved_usd", "unpriced_requests")


class By(click.ParamType[str]):
    """What costs are shown by."""

    name = "by"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(BY, value):
            self.fail(f"{WAYS}, please", param, ctx)
        return str(value)


class Time(click.ParamType[Any]):
    """A month or a length of time, in words."""

    def __init__(self, name: str, read: Callable[[str], Any], example: str) -> None:
        self.name = name
        self._read = read
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value)
        except (ValueError, OverflowError):
            self.fail(f"like {self._example}, please", param, ctx)


MONTH = Time("month", month_span, "2026-11")
LAST = Time("length", lambda text: last_span(text, time.time()), "24h or 30d")


@click.command()
@config_option
@click.option("--by", type=By(), default="project", show_default=True, help="Or model, provider, user, key, metadata.MEMBER, …")
@click.option("--interval", type=click.Choice(INTERVALS), default="total", show_default=True, help="A line for each, UTC.")
@click.option("--from", "since", type=MomentArgument(), help="From this moment on.")
@click.option("--to", "until", type=MomentArgument(), help="Before this moment.  [default: now]")
@click.option("--month", type=MONTH, help="This month.  [default: the one that runs]")
@click.option("--last", type=LAST, help="The last hours or days, such as 24h or 30d.")
@click.option("--project", metavar="NAME", help="Only this project's.")
@click.option("--environment", type=click.Choice(ENVIRONMENTS), default="live", show_default=True, help="Of which keys.")
@click.option("--limit", type=click.IntRange(1, MOST_VALUES), default=100, show_default=True, help="Most values, the dearest.")
@click.option("--json", "kind", flag_value="json", help="Print JSON.")
@click.option("--csv", "kind", flag_value="csv", help="Print CSV.")
def costs(
    config: Config,
    by: str,
    interval: Interval,
    since: float | None,
    until: float | None,
    month: Span | None,
    last: Span | None,
    project: str | None,
    environment: str,
    limit: int,
    kind: str | None,
) -> None:
    """What requests cost, by project or by anything else: without options, in the month that runs."""
    span = _span(since, until, month, last)
    question = Question(span, interval, by, project, None if environment == "all" else environment, {}, limit)

    async def run() -> Found:
        async with Host.open(config) as host:
            await host.db.migrate("analytics", MIGRATIONS)
            if doubt := await host.projects.doubt(project):
                click.echo(doubt, err=True)
            return await ask(host.db, question)

    found = run_async(run())
    if kind == "json":
        echo_json(spend(found, by, interval))
    elif kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows(map(csv_cell, row) for row in _rows(found, question))
    else:
        columns, *rows = _rows(found, question)
        table(columns, rows)
        if found.has_more:
            click.echo(f"There are more than {limit}: --limit shows more. The total has them all.", err=True)


def _span(since: float | None, until: float | None, month: Span | None, last: Span | None) -> Span:
    """The time that the options say, of which one way to say it may be used."""
    if sum((since is not None or until is not None, month is not None, last is not None)) > 1:
        raise click.UsageError("Give --from and --to, or --month, or --last.")
    if since is None and until is None:
        return month or last or month_span(datetime.now(UTC).strftime("%Y-%m"))
    if since is None:
        raise click.UsageError("--to needs a --from.")
    end = time.time() if until is None else until
    try:
        return hours_around(since, end)
    except ValueError:
        outside = since < 0 or end > since
        text = "from 1970 to 9999 is what can be asked for" if outside else f"is not before {'now' if until is None else '--to'}"
        raise click.BadParameter(text, param_hint="--from") from None


def _rows(found: Found, question: Question) -> Iterable[list[Any]]:
    """The head, a row for each line, and the total."""
    name = str(question.by).removeprefix(METADATA)
    columns = COLUMNS if question.interval != "total" else COLUMNS[1:]
    yield [name, *columns]
    for line in found.lines:
        yield [line.value, *_cells(line, question)]
    yield ["total", *_cells(found.total, question)]


def _cells(line: Line, question: Question) -> list[Any]:
    start = datetime.fromtimestamp(line.span.start, UTC).strftime("%Y-%m-%d %H:%M" if question.interval == "hour" else "%Y-%m-%d")
    money = usd(line.cost_pico), usd(line.saved_pico)
    cells = [line.requests, line.errors, line.input_tokens, line.output_tokens, *money, line.unpriced]
    return cells if question.interval == "total" else [start, *cells]

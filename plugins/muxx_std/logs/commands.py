"""`muxx logs …`: reads the log beside a running server, and without one.

Rows go to stdout. Nothing stored reaches a terminal with its control characters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from functools import wraps
from typing import Any, TypeVar

import click

from muxx import Config, Host, MomentArgument, config_option, json_line, printable, run_async, table

from .exporting import Format, written
from .filters import CACHE_VALUES, MAX_LIMIT, MAX_TEXT, Filter, Page
from .plugin import find_generation
from .present import generation, summary
from .schema import MIGRATIONS
from .store import LogReader

FOLLOW_SECONDS = 0.2

Command = TypeVar("Command", bound=Callable[..., Any])


@asynccontextmanager
async def _host(config: Config, project: str | None = None) -> AsyncIterator[Host]:
    """The host's databases, with the log's tables there also when no server has run yet."""
    async with Host.open(config) as host:
        await host.db.migrate("logs", MIGRATIONS)
        if doubt := await host.projects.doubt(project):
            click.echo(doubt, err=True)
        yield host


class Text(click.ParamType[Any]):
    """Text to look for; bytes that are not UTF-8 cannot be in the log."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8", param, ctx)
        if not 0 < len(value) <= MAX_TEXT:
            self.fail(f"1 to {MAX_TEXT} characters, please", param, ctx)
        return str(value)


class Member(click.ParamType[tuple[str, str]]):
    """A member of the metadata, and its value."""

    name = "member"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        key, found, wanted = Text().convert(value, param, ctx).partition("=")
        return (key, wanted) if key and found else self.fail("write KEY=VALUE", param, ctx)


_FILTERS = (
    click.option("--project", type=Text(), help="Only this project's rows."),
    click.option(
        "--environment",
        type=click.Choice(["live", "test", "all"]),
        default="live",
        show_default=True,
        help="Traffic of live keys, of test keys, or all.",
    ),
    click.option("--from", "since", type=MomentArgument(), help="From then on: ISO 8601, UTC, or seconds since 1970."),
    click.option("--to", "until", type=MomentArgument(), help="Before then."),
    click.option("--model", type=Text(), help="Asked for or served."),
    click.option("--provider", type=Text(), help="Who was asked."),
    click.option("--user-id", type=Text(), help="As X-Muxx-User-Id named the user."),
    click.option("--status", type=click.IntRange(100, 599), help="The status of the answer; 499: the client left."),
    click.option("--cache", type=click.Choice(CACHE_VALUES), help="What the cache did."),
    click.option("--metadata", type=Member(), multiple=True, metavar="KEY=VALUE", help="Of X-Muxx-Metadata; repeatable."),
)


def filter_options(command: Command) -> Command:
    """Options that say which rows, the same for every command that looks at many, and as `GET /v1/logs` filters them; the command
    gets them as a `Filter`."""

    @wraps(command)
    def filtered(*, environment: str, **given: Any) -> Any:
        chosen = {field.name: given.pop(field.name) for field in fields(Filter) if field.name in given and field.name != "text"}
        filter = Filter(environment=None if environment == "all" else environment, **chosen)
        return command(filter=filter, **given)

    for option in reversed(_FILTERS):
        option(filtered)
    return filtered  # type: ignore[return-value]


@click.group()
def logs() -> None:
    """Look at what went through the gateway."""


@logs.command()
@config_option
@filter_options
@click.option("-n", "count", type=click.IntRange(0, MAX_LIMIT), default=20, show_default=True, help="Rows to begin with.")
@click.option("--follow", "-f", is_flag=True, help="Go on as rows arrive, until interrupted.")
def tail(config: Config, filter: Filter, count: int, follow: bool) -> None:
    """Show the newest rows, the newest last."""

    async def run() -> None:
        async with _host(config, filter.project) as host:
            reader = LogReader(host.db)
            position = await reader.last_position()
            newest = await _newest(reader, filter, count)
            for record in reversed(newest):
                click.echo(summary(record))
            if follow:
                await _follow(reader, filter, position, {record["request_id"] for record in newest})

    try:
        run_async(run())
    except KeyboardInterrupt:
        pass


@logs.command()
@config_option
@filter_options
@click.argument("text", type=Text())
@click.option("-n", "count", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="Most rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def search(config: Config, filter: Filter, text: str, count: int, as_json: bool) -> None:
    """Find rows whose stored content holds TEXT, newest first."""

    async def run() -> list[dict[str, Any]]:
        async with _host(config, filter.project) as host:
            return await _newest(LogReader(host.db), replace(filter, text=text), count)

    for record in run_async(run()):
        click.echo(json_line(generation(record)) if as_json else summary(record))


@logs.command()
@config_option
@click.argument("request_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Config, request_id: str, as_json: bool) -> None:
    """Show one row with its content."""

    async def run() -> dict[str, Any] | None:
        async with _host(config) as host:
            return await find_generation(host.db, host.paths.journal, request_id)

    record = run_async(run())
    if record is None:
        raise click.ClickException("There is no request with this id.")
    shown = generation(record)
    if as_json:
        click.echo(json_line(shown))
        return
    for name, value in shown.items():
        plain = value is None or isinstance(value, str)
        click.echo(f"{name:<18}  {printable(value) if plain else json_line(value)}")


@logs.command()
@config_option
@filter_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(config: Config, filter: Filter, as_json: bool) -> None:
    """Requests, tokens, cost, errors and times of each model."""

    async def run() -> list[dict[str, Any]]:
        async with _host(config, filter.project) as host:
            return await LogReader(host.db).stats(filter)

    rows = run_async(run())
    if as_json:
        click.echo(json_line(rows))
        return
    table(
        ("model", "requests", "input", "output", "cost", "errors", "p50", "p95"),
        [
            (
                row["model"],
                str(row["requests"]),
                str(row["input_tokens"]),
                str(row["output_tokens"]),
                "-" if row["cost_usd"] is None else "$" + row["cost_usd"],
                f"{row['error_share']:.1%}",
                _milliseconds(row["p50_ms"]),
                _milliseconds(row["p95_ms"]),
            )
            for row in rows
        ],
    )


@logs.command()
@config_option
@filter_options
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), required=True, help="One JSON object a line, or CSV.")
@click.option("--content/--no-content", default=True, show_default=True, help="With what was asked and answered.")
def export(config: Config, filter: Filter, kind: Format, content: bool) -> None:
    """Write rows to stdout, oldest first."""

    async def run() -> None:
        async with _host(config, filter.project) as host:
            async for piece in written(LogReader(host.db), filter, kind, content):
                click.echo(piece, nl=False)

    run_async(run())


@logs.command()
@config_option
def path(config: Config) -> None:
    """Print where the log database is."""

    async def run() -> str:
        async with Host.open(config) as host:
            return str(host.paths.logs)

    click.echo(run_async(run()))


async def _newest(reader: LogReader, filter: Filter, count: int) -> list[dict[str, Any]]:
    """The newest rows, however long it takes to find them."""
    rows: list[dict[str, Any]] = []
    after = None
    while len(rows) < count:
        found = await reader.page(filter, Page(count - len(rows), after))
        if found is None:  # retention has just deleted the row that the page before ended with
            break
        rows += found.rows
        after = found.next
        if after is None:
            break
    return rows


async def _follow(reader: LogReader, filter: Filter, position: int, shown: set[str]) -> None:
    """Print rows that arrive after `position`, for ever, but for those `shown` already."""
    while True:
        arrived = await reader.arrivals(filter, position)
        for position, record in arrived:  # noqa: B007  (where to go on)
            if record["request_id"] not in shown:
                click.echo(summary(record))
        if not arrived:
            await asyncio.sleep(FOLLOW_SECONDS)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"

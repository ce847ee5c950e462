"""`muxx keys …`: works beside a running server, which obeys on the very next request.

The text of a key leaves the process in exactly two places: the output of `create` and of `rotate`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import click

from muxx import Config, Host, config_option, echo_json, run_async, table

from . import format
from .present import Status, present
from .store import DEFAULT_PROJECT, LATEST, KeyRow, KeyStore, new_row

MAX_TEXT = 200
SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Duration(click.ParamType[Any]):
    """`90s`, `30m`, `1h`, `30d`, `2w`, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail("write a number and a unit: 90s, 30m, 1h, 30d or 2w", param, ctx)
        return float(int(match[1]) * SECONDS_PER_UNIT[match[2]])


class Expiry(click.ParamType[Any]):
    """A duration from now, or an ISO 8601 moment (UTC unless it says otherwise), as Unix seconds."""

    name = "30d|ISO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if _DURATION.fullmatch(value):
            lasting = Duration().convert(value, param, ctx)
            end = time.time() + lasting if lasting else self.fail("a key that ends at once is of no use", param, ctx)
        else:
            end = self._end(value, param, ctx)
        if end > LATEST:
            self.fail("that is after 9999-12-31; leave it out for a key that does not end", param, ctx)
        return end

    def _end(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("write how long it lasts (30d) or when it ends (2027-01-31T12:00:00Z)", param, ctx)
        end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if end <= time.time():
            self.fail("that moment has passed", param, ctx)
        return end


class ProjectName(click.ParamType[Any]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _PROJECT.fullmatch(value):
            self.fail("up to 64 letters, digits, dots, dashes and underscores, starting with a letter or digit", param, ctx)
        return str(value)


class Plain(click.ParamType[Any]):
    """Text of printable characters: what is stored here is shown on terminals."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.isprintable() or len(value) > MAX_TEXT:
            self.fail(f"up to {MAX_TEXT} printable characters", param, ctx)
        return str(value)


class Pattern(Plain):
    """A pattern of models; an empty one, as of a variable that is not set, would let a key use none."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("it is empty; leave it out for every model", param, ctx)
        return super().convert(value, param, ctx)


@click.group()
def keys() -> None:
    """Make, list, revoke and rotate muxx's own API keys."""


@keys.command()
@config_option
@click.option("--project", type=ProjectName(), help=f"Project the key belongs to (default: {DEFAULT_PROJECT}).")
@click.option("--test", is_flag=True, help="A test key: its traffic is logged apart.")
@click.option("--admin", is_flag=True, help="An admin key: administers every project, calls no model.")
@click.option("--name", type=Plain(), help="What the key is for, as lists show it.")
@click.option(
    "--expires", "expires_at", type=Expiry(), metavar="30d|ISO", help="When it stops working: 30d, or 2027-01-31T12:00:00Z."
)
@click.option("--models", type=Pattern(), multiple=True, metavar="PATTERN", help="Only these; `*` is anything. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    config: Config,
    project: str | None,
    test: bool,
    admin: bool,
    name: str | None,
    expires_at: float | None,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a key and print it, this once."""
    if admin and test:
        raise click.UsageError("a key is a test key or an admin key; leave out --test or --admin")
    if admin and project is not None:
        raise click.UsageError("an admin key belongs to no project; leave out --project or --admin")
    if not admin:
        project = project or DEFAULT_PROJECT
    text = format.generate("admin" if admin else "test" if test else "live")

    async def run() -> tuple[KeyRow, str]:
        async with Host.open(config) as host:
            store = await KeyStore.prepared(host)
            if project not in (None, *(row.name for row in await host.projects.rows())):
                click.echo(f"Project {project} is new: this is its first key.", err=True)
            row = new_row(text, host.derive("keys"), project=project, name=name, models=models, expires_at=expires_at)
            await store.add(row)
            host.shared.bump("keys")
            return row, text

    _make(config, run(), as_json)


@keys.command(name="list")
@config_option
@click.option("--project", type=ProjectName(), help="Only this project's.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(config: Config, project: str | None, status: Status | None, as_json: bool) -> None:
    """Show every key, without its secret part."""

    async def run() -> list[KeyRow]:
        async with Host.open(config) as host:
            return await (await KeyStore.prepared(host)).rows()

    rows = [row for row in run_async(run()) if project in (None, row.project)]
    shown = [key for key in map(present, rows) if status in (None, key["status"])]
    if as_json:
        echo_json(shown)
        return
    columns = ("id", "project", "environment", "name", "expires_at", "status")
    table(("key", *columns), [[key["prefix"] + "…" + key["last4"], *(key[column] for column in columns)] for key in shown])


@keys.command()
@config_option
@click.argument("key_id", metavar="ID", type=Plain())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Config, key_id: str, as_json: bool) -> None:
    """Show one key, without its secret part."""

    async def run() -> KeyRow:
        async with Host.open(config) as host:
            return await (await KeyStore.prepared(host)).one(key_id)

    _show(run_async(run()), as_json)


@keys.command()
@config_option
@click.argument("key_id", metavar="ID", type=Plain())
@click.option("--name", type=Plain(), help="What the key is for; an empty one takes the name away.")
@click.option("--expires", "expires_at", type=Expiry(), metavar="30d|ISO", help="When it stops working, from now on.")
@click.option("--never-expires", is_flag=True, help="It stops working only when it is revoked.")
@click.option("--models", type=Pattern(), multiple=True, metavar="PATTERN", help="Only these from now on. Repeatable.")
@click.option("--all-models", is_flag=True, help="Every model from now on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def change(
    config: Config,
    key_id: str,
    name: str | None,
    expires_at: float | None,
    never_expires: bool,
    models: tuple[str, ...],
    all_models: bool,
    as_json: bool,
) -> None:
    """Change a key's name, its end or its models; it holds for the next request."""
    if (never_expires and expires_at is not None) or (all_models and models):
        raise click.UsageError("--never-expires goes without --expires, and --all-models without --models")
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name or None
    if never_expires or expires_at is not None:
        changes["expires_at"] = expires_at
    if all_models or models:
        changes["models"] = models
    if not changes:
        raise click.UsageError("say what to change: --name, --expires, --never-expires, --models or --all-models")

    async def run() -> KeyRow:
        async with Host.open(config) as host:
            row = await (await KeyStore.prepared(host)).change(key_id, changes)
            host.shared.bump("keys")
            return row

    _show(run_async(run()), as_json)


@keys.command()
@config_option
@click.argument("key_id", metavar="ID", type=Plain())
def revoke(config: Config, key_id: str) -> None:
    """Refuse a key from the next request on. Streams already running finish."""

    async def run() -> bool:
        async with Host.open(config) as host:
            known = await (await KeyStore.prepared(host)).revoke(key_id)
            if known:
                host.shared.bump("keys")
            return known

    if not run_async(run()):
        raise click.ClickException("There is no key with this id. `muxx keys list` shows them.")
    click.echo(f"Revoked {key_id}.", err=True)


@keys.command()
@config_option
@click.argument("key_id", metavar="ID", type=Plain())
@click.option("--overlap", type=Duration(), default="1h", show_default=True, help="How long the old key still works.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(config: Config, key_id: str, overlap: float, as_json: bool) -> None:
    """Make a key that takes over from another, with the same rights, and print it, this once."""

    before: list[KeyRow] = []

    async def run() -> tuple[KeyRow, str]:
        async with Host.open(config) as host:
            store = await KeyStore.prepared(host)
            before.append(await store.one(key_id))
            text, row = await store.rotate(key_id, host.derive("keys"), overlap)
            host.shared.bump("keys")
            return row, text

    _make(config, run(), as_json, before)


def _show(row: KeyRow, as_json: bool) -> None:
    shown = present(row)
    if as_json:
        echo_json(shown)
        return
    del shown["object"]
    shown["models"] = ", ".join(shown["models"]) or "all"
    table(("what", "value"), shown.items())


def _make(
    config: Config, making: Coroutine[Any, Any, tuple[KeyRow, str]], as_json: bool, before: Sequence[KeyRow] = ()
) -> None:
    """Make a key and print it; one that could not be printed, and so is nobody's, is taken back. `before` are others that its
    making changes, as they were."""
    if sys.__stdout__ is None:
        making.close()
        raise click.ClickException("stdout is closed, so nobody would see the key. Nothing was made.")
    row, text = run_async(making)
    try:
        _show_new(row, text, as_json)
    except OSError:
        run_async(_take_back(config, row, before))
        click.echo(f"The key could not be shown, so {row.id} was taken back.", err=True)
        raise


async def _take_back(config: Config, row: KeyRow, before: Sequence[KeyRow]) -> None:
    async with Host.open(config) as host:
        await KeyStore(host.db).take_back(row, before)
        host.shared.bump("keys")


def _show_new(row: KeyRow, text: str, as_json: bool) -> None:
    """The key alone on stdout, so that `KEY=$(muxx keys create)` works; what to know about it on stderr."""
    if as_json:
        echo_json({"id": row.id, "key": text, "project": row.project, "environment": row.environment})
        return
    owner = "administers all projects" if row.project is None else f"project {row.project}, {row.environment}"
    click.echo(f"{row.id} ({owner}). Keep the key now: it is not shown again.", err=True)
    click.echo(text)

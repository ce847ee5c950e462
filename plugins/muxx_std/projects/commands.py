"""`muxx projects …`: works beside a running server, which obeys on the very next request."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import orjson

from muxx import Config, Host, InvalidRequest, ProjectStore, audit_log, config_option, echo_json, nested_setting, run_async, table

from . import present

T = TypeVar("T")

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_project = click.argument("name", metavar="NAME")
_provider = click.argument("provider", metavar="PROVIDER")
_settings = click.argument("settings", nargs=-1, metavar="KEY=VALUE…")


@click.group()
def projects() -> None:
    """Make, set up, list and archive projects, and see who changed what."""


@projects.command()
@config_option
@_project
@_settings
@_as_json
def create(config: Config, name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Make a project, with settings of its own: `muxx projects create shop cache.ttl=1h`."""
    own = _parsed(settings)
    _show(config, _run(config, lambda store: store.create(name, own)), as_json)


@projects.command(name="list")
@config_option
@click.option("--all", "archived", is_flag=True, help="Archived ones too.")
@_as_json
def list_projects(config: Config, archived: bool, as_json: bool) -> None:
    """Show every project, and what each sets itself."""
    rows = [row for row in _run(config, lambda store: store.rows()) if archived or row.archived_at is None]
    shown = [present.project(row, config) for row in rows]
    if as_json:
        echo_json(shown)
        return
    columns = ("id", "name", "created_at", "archived_at")
    table((*columns, "settings"), [[*(row[name] for name in columns), _words(row["settings"])] for row in shown])


@projects.command()
@config_option
@_project
@_as_json
def show(config: Config, name: str, as_json: bool) -> None:
    """Show a project: what it sets itself, and what holds for it."""
    _show(config, _run(config, lambda store: store.named(name)), as_json)


@projects.command(name="set")
@config_option
@_project
@_settings
@_as_json
def set_settings(config: Config, name: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Set some of a project's settings: `muxx projects set shop cache.ttl=3600 store_content=false`."""
    if not settings:
        raise click.UsageError("say what to set: KEY=VALUE, e.g. cache.ttl=3600")
    changes = _parsed(settings)
    _show(config, _run(config, lambda store: store.change(name, changes)), as_json)


@projects.command()
@config_option
@_project
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@_as_json
def unset(config: Config, name: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Take settings back, so that what the file says holds again: `muxx projects unset shop cache.ttl`."""
    changes = _together([nested_setting(key, None) for key in keys])
    _show(config, _run(config, lambda store: store.change(name, changes)), as_json)


@projects.command()
@config_option
@_project
@_as_json
def archive(config: Config, name: str, as_json: bool) -> None:
    """Refuse a project's keys from the next request on. Its rows stay."""
    row = _run(config, lambda store: store.archive(name))
    if as_json:
        echo_json(present.project(row, config))
    else:
        click.echo(f"Archived {name}.", err=True)


@projects.command()
@config_option
@_project
@_as_json
def restore(config: Config, name: str, as_json: bool) -> None:
    """Take a project out of the archive: its keys work again from the next request on."""
    row = _run(config, lambda store: store.restore(name))
    if as_json:
        echo_json(present.project(row, config))
    else:
        click.echo(f"Restored {name}.", err=True)


@projects.command()
@config_option
@click.option("--project", metavar="NAME", help="Only what was done to this project.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many.")
@_as_json
def audit(config: Config, project: str | None, limit: int, as_json: bool) -> None:
    """Who changed what, the newest first. An actor is a key's id, or the user whose shell ran a command."""

    async def run() -> list[dict[str, Any]]:
        async with Host.open(config) as host:
            return [present.change(row) for row in await audit_log(host.db, project=project, limit=limit)]

    rows = run_async(run())
    if as_json:
        echo_json(rows)
        return
    columns = ("at", "actor", "action", "project", "subject")
    table((*columns, "detail"), [[*(row[name] for name in columns), _words(row["detail"])] for row in rows])


@projects.group(name="provider-keys")
def provider_keys() -> None:
    """The keys of providers that a project pays with itself."""


@provider_keys.command(name="set")
@config_option
@_project
@_provider
@click.option("--from-env", metavar="VARIABLE", help="Take the key from this environment variable instead of from stdin.")
@_as_json
def set_provider_key(config: Config, name: str, provider: str, from_env: str | None, as_json: bool) -> None:
    """Set or replace a key, read from stdin, for a command line is for everybody to see. It is never shown again."""
    key = _given_key(from_env)
    row = _run(config, lambda store: store.set_provider_key(name, provider, key))
    if as_json:
        echo_json(present.provider_key(row))
    else:
        click.echo(f"{name} calls {provider} with its own key from now on.", err=True)


@provider_keys.command(name="list")
@config_option
@_project
@_as_json
def list_provider_keys(config: Config, name: str, as_json: bool) -> None:
    """Show whose keys a project has, without the keys."""
    shown = [present.provider_key(row) for row in _run(config, lambda store: store.provider_keys(name))]
    if as_json:
        echo_json(shown)
    else:
        table(("provider", "key", "created_at"), [(row["provider"], "…" + row["last4"], row["created_at"]) for row in shown])


@provider_keys.command()
@config_option
@_project
@_provider
@_as_json
def remove(config: Config, name: str, provider: str, as_json: bool) -> None:
    """Call a provider with the operator's key again."""
    _run(config, lambda store: store.remove_provider_key(name, provider))
    if as_json:
        echo_json({"project": name, "provider": provider, "deleted": True})
    else:
        click.echo(f"{name} has no key of {provider} any more.", err=True)


def _run(config: Config, work: Callable[[ProjectStore], Coroutine[Any, Any, T]]) -> T:
    """What the work on the store gives; what cannot be done is a usage error."""

    async def run() -> T:
        async with Host.open(config) as host:
            try:
                return await work(host.projects)
            except InvalidRequest as error:
                if error.status == 404:
                    raise
                raise click.UsageError(error.message) from None

    return run_async(run())


def _parsed(settings: tuple[str, ...]) -> dict[str, Any]:
    """`cache.ttl=3600` as it would stand in the file; a value that is none of TOML's is text."""
    changes = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not (equals and key):
            raise click.UsageError("write KEY=VALUE, e.g. cache.ttl=3600")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            value = text
        changes.append(nested_setting(key, value))
    return _together(changes)


def _together(changes: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for change in changes:
        _lay_over(found, change)
    return found


def _lay_over(found: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            _lay_over(found[name], value)
        else:
            found[name] = value


def _given_key(variable: str | None) -> str:
    if variable is None:
        return sys.stdin.readline().strip() if not sys.stdin.isatty() else str(click.prompt("Key", hide_input=True, err=True))
    key = os.environ.get(variable, "")
    if not key:
        raise click.UsageError(f"the environment variable {variable} is not set")
    return key


def _show(config: Config, row: Any, as_json: bool) -> None:
    shown = present.project(row, config)
    if as_json:
        echo_json(shown)
        return
    click.echo(f"{shown['name']} ({shown['id']})" + (", archived" if shown["archived_at"] else ""), err=True)
    own = dict(_flat(shown["settings"]))
    rows = [(key, _plain(value), "yes" if key in own else "") for key, value in _flat(shown["effective"])]
    table(("setting", "value", "its own"), rows)


def _flat(settings: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return found


def _words(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={value if isinstance(value, str) else _plain(value)}" for key, value in _flat(settings))


def _plain(value: Any) -> str:
    """As `muxx config explain` shows it."""
    return orjson.dumps(value).decode()

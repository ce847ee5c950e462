"""`muxx models`: what can be asked for, and what a request for it meets. What only one command needs is imported in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import click

from .console import ListedByDefault, config_path_option, echo_json, failures, load, run_async, table
from .providercommands import catalogue

if TYPE_CHECKING:
    from .host import Host
    from .request import Identity


@runtime_checkable
class KnowsKeys(Protocol):
    """A plugin that can say who calls with the key of an id. None: there is no such key, or it does not work."""

    async def identity_of(self, host: Host, key_id: str) -> Identity | None: ...


@click.group(cls=ListedByDefault)
def models() -> None:
    """List the models that can be asked for, and explain where a name leads. Alone it lists."""


@models.command("list")
@config_path_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(ctx: click.Context, path: Path | None, as_json: bool) -> None:
    """List every name a client may ask for, its targets and how one is chosen. `provider/model` works beside these."""
    rows = catalogue(ctx, path).models()
    if as_json:
        echo_json(rows)
        return
    columns = ("name", "targets", "strategy", "rule", "usable")
    table(columns, [(row["name"], ", ".join(row["targets"]), row["strategy"], row["rule"], row["usable"]) for row in rows])


@models.command()
@config_path_option()
@click.argument("name")
@click.option("--key", "key_id", metavar="ID", help="With this key, as `muxx keys list` shows it.")
@click.option("--project", metavar="NAME", help="For this project, which may have keys of providers of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def explain(ctx: click.Context, path: Path | None, name: str, key_id: str | None, project: str | None, as_json: bool) -> None:
    """Show what a request for NAME meets: the rule that finds it, its targets in order, and how each is called."""
    from .catalogue import unknown

    if key_id is not None and project is not None:
        raise click.UsageError("a key says whose it is: leave out --project or --key")
    known = catalogue(ctx, path)
    identity = _identity(ctx, path, key_id) if key_id is not None else None
    owner = project if identity is None else identity.project
    paid = _paid(ctx, path, owner) if owner is not None else ()
    found = known.explained(name, identity.models if identity is not None else (), paid)
    if found is None:
        raise click.ClickException(unknown("model", name, known.nearest(name)) + " `muxx models list` shows them all.")
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _paid(ctx: click.Context, path: Path | None, project: str) -> list[str]:
    """The providers of which the project has a key; only an identity provider may know of a project without a row."""
    from .host import Host

    async def ask() -> list[str]:
        async with Host.open(load(ctx, path).config) as host:
            known = project in (row.name for row in await host.projects.rows())
            return [row.provider for row in await host.projects.provider_keys(project)] if known else []

    return run_async(ask())


def _identity(ctx: click.Context, path: Path | None, key_id: str) -> Identity:
    """Who calls with the key."""
    from .host import Host
    from .plugins import build

    loaded = load(ctx, path)
    with failures():
        plugins = build(loaded.found, loaded.config)

    async def ask() -> Identity | None:
        async with Host.open(loaded.config) as host:
            for plugin in plugins.plugins:
                if isinstance(plugin.instance, KnowsKeys) and (found := await plugin.instance.identity_of(host, key_id)):
                    return found
        return None

    identity = run_async(ask())
    if identity is None:
        raise click.ClickException(f"There is no working key {key_id!r}. `muxx keys list` shows the keys and their ids.")
    if identity.role == "admin":
        raise click.ClickException("An admin key calls no models.")
    return identity


def _show(found: dict[str, Any]) -> None:
    click.echo(f"{found['name']}: {found['rule']} ({found['matched']}), strategy {found['strategy']}\n")
    targets = found["targets"]
    columns = ("target", "format", "weight", "key", "retries", "on_unsupported", "buffer_until", "fall_back_on", "skipped")
    shown = ({**target, "fall_back_on": ", ".join(target["fall_back_on"]) or None} for target in targets)
    table(columns, [[target[column] for column in columns] for target in shown])
    click.echo("\nSeconds to wait for each:\n")
    limits = list(targets[0]["timeouts_s"])
    table(("target", *limits), [(target["target"], *target["timeouts_s"].values()) for target in targets])
    click.echo("\nHow each answers the endpoints:\n")
    endpoints = list(targets[0]["endpoints"])
    table(("target", *endpoints), [(target["target"], *target["endpoints"].values()) for target in targets])

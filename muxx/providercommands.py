"""`muxx providers`: who can be called, and whether they answer. What only one command needs is imported in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import ListedByDefault, config_path_option, echo_json, failures, load, run_async, table

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .config import Config
    from .probing import Probe
    from .targets import Provider


@click.group(cls=ListedByDefault)
def providers() -> None:
    """List the providers there are, and see whether they answer. Alone it lists."""


def catalogue(ctx: click.Context, path: Path | None) -> Catalogue:
    """What a gateway with this configuration can call."""
    from .catalogue import Catalogue
    from .plugins import build

    with failures():
        loaded = load(ctx, path)
        return Catalogue(loaded.config, build(loaded.found, loaded.config))


def known_providers(config: Config) -> Mapping[str, Provider]:
    """For a command: the providers that a gateway with its configuration could call, by name."""
    return catalogue(click.get_current_context(), config.path).providers


@providers.command("list")
@config_path_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(ctx: click.Context, path: Path | None, as_json: bool) -> None:
    """List every provider: its format and address, where its key comes from, what it answers, and whether it can be called."""
    rows = catalogue(ctx, path).listed()
    if as_json:
        echo_json(rows)
        return
    columns = ("name", "format", "base_url", "key", "endpoints", "usable")
    table(columns, [[*(row[name] for name in columns[:4]), ", ".join(row["endpoints"]), row["usable"]] for row in rows])


@providers.command()
@config_path_option()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--model", metavar="M", help="Ask this model for one token, instead of asking for the list of models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def test(ctx: click.Context, path: Path | None, names: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Make one real call of each provider that has a key, or of those named; fail where one fails, and say what to do."""
    rows = _meant(catalogue(ctx, path), names)
    from .probing import probe_all

    def seen(probe: Probe) -> None:
        click.echo(f"{probe.name}: {'ok' if probe.ok else 'failed'}", err=True)

    click.echo(f"Asking {', '.join(row.name for row in rows)} …", err=True)
    probes = run_async(probe_all(rows, model, seen))
    if as_json:
        echo_json([dataclasses.asdict(probe) for probe in probes])
    else:
        table(("name", "ok", "status", "ms", "what to do"), [(p.name, p.ok, p.status, p.ms, p.advice) for p in probes])
    if not all(probe.ok for probe in probes):
        ctx.exit(1)


def _meant(known: Catalogue, names: tuple[str, ...]) -> list[Provider]:
    from difflib import get_close_matches

    from .catalogue import unknown

    called = {name: row for name, row in known.providers.items() if row.transport == "http"}
    for name in names:
        if name not in called:
            raise click.ClickException(unknown("provider", name, get_close_matches(name, called, n=3)))
    keyed = [row for row in called.values() if row.keys or (row.name in known.config.providers and row.missing is None)]
    rows = [called[name] for name in dict.fromkeys(names)] or keyed
    if not rows:
        raise click.ClickException("No provider has a key. `muxx providers list` shows which variable each looks for.")
    return rows

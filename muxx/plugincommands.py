"""`muxx plugins`: the plugins there are, the order they are called in, and a new one to begin with.

What only one of these commands needs is imported in it, for every start of `muxx` comes past here.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import (
    ListedByDefault,
    config_path_option,
    echo_json,
    failures,
    find_config,
    find_plugins_dir,
    plugins_dir_option,
    table,
)

if TYPE_CHECKING:
    from .pluginlist import Listed, Survey


@click.group(cls=ListedByDefault)
def plugins() -> None:
    """List the plugins there are, show who is called when, and make a new one. Alone it lists."""


@plugins.command("list")
@config_path_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(ctx: click.Context, path: Path | None, as_json: bool) -> None:
    """List every plugin: those that are on in calling order, with their hooks, then the others and why they are not.

    Where a plugin is broken, the list says so and the command fails as a start would.
    """
    seen = _survey(ctx, path)
    if as_json:
        echo_json([dataclasses.asdict(row) for row in seen.rows])
    else:
        columns = ("name", "version", "order", "hooks", "origin", "state")
        table(columns, [_cells(row, seen) for row in seen.rows])
    _fail_where_broken(ctx, seen)


@plugins.command()
@config_path_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def order(ctx: click.Context, path: Path | None, as_json: bool) -> None:
    """Show for each hook who is called, in order. A hook marked tryfirst or trylast stands before or after the others."""
    seen = _survey(ctx, path)
    chains = {hook: chain for hook, chain in seen.chains.items() if chain}
    if as_json:
        echo_json({hook: [{"plugin": step.plugin, "mark": step.mark} for step in chain] for hook, chain in chains.items()})
    else:
        rows = [(hook, place, step) for hook, chain in chains.items() for place, step in enumerate(chain, start=1)]
        table(("hook", "order", "plugin", "mark"), [(hook, place, step.plugin, step.mark) for hook, place, step in rows])
    _fail_where_broken(ctx, seen)


def _survey(ctx: click.Context, path: Path | None) -> Survey:
    from .pluginlist import survey

    with failures():
        return survey(find_config(path), find_plugins_dir(ctx))


def _cells(row: Listed, seen: Survey) -> tuple[object, ...]:
    marks = {(step.plugin, hook): step.mark for hook, chain in seen.chains.items() for step in chain if step.mark}
    hooks = [f"{hook} ({marks[row.name, hook]})" if (row.name, hook) in marks else hook for hook in row.hooks]
    state = {"off": f"off: {row.reason}", "left out": f"left out by {row.reason}"}.get(row.state, row.state)
    return row.name, row.version, row.order, ", ".join(hooks) or None, row.origin, state


def _fail_where_broken(ctx: click.Context, seen: Survey) -> None:
    for sentence in seen.broken:
        click.echo(f"Error: {sentence}", err=True)
    if seen.broken:
        ctx.exit(2)


@plugins.command()
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), metavar="DIR", help="Where to make it.  [default: ./muxx-NAME]")
@plugins_dir_option
@click.pass_context
def new(ctx: click.Context, name: str, directory: Path | None) -> None:
    """Make a new plugin: a package with a plugin to begin with, its tests, and what it takes to build a wheel.

    NAME is what the plugin will be called everywhere, in lower case: shout, or rate_note.
    """
    from .scaffold import names_of, write

    with failures():
        names = names_of(name, find_plugins_dir(ctx))
        folder = Path(names.distribution) if directory is None else directory
        made = write(names, folder)
    click.echo(f"Made {folder}:\n")
    for path in made:
        click.echo(f"    {path}")
    click.echo(
        f"\nNext, where muxx is installed:\n\n    cd {shlex.quote(str(folder))}\n    pip install -e '.[test]'\n    pytest\n"
        f"    muxx plugins\n\nIt has no licence yet: its README says where to put yours."
    )

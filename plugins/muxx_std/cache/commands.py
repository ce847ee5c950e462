"""`muxx cache …`: works beside a running server, and without one."""

from __future__ import annotations

import time
from typing import Any

import click

from muxx import Config, Host, config_option, echo_json, run_async, table

from .routes import DEFAULT_HOURS, MOST_HOURS
from .store import MIGRATIONS, CacheStore
from .store import purge as empty

_project = click.option("--project", metavar="NAME", help="Only this project's.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def cache() -> None:
    """Look at the cache of answers, and empty it."""


@cache.command()
@config_option
@_project
@click.option(
    "--environment",
    type=click.Choice(["live", "test", "all"]),
    default="live",
    show_default=True,
    help="Traffic of live keys, of test keys, or all.",
)
@click.option("--hours", type=click.IntRange(1, MOST_HOURS), default=DEFAULT_HOURS, show_default=True, help="How far back.")
@_as_json
def stats(config: Config, project: str | None, environment: str, hours: int, as_json: bool) -> None:
    """What the cache did for each project, what that saved, and what each worker holds now."""

    async def run() -> dict[str, Any]:
        async with Host.open(config) as host:
            await host.db.migrate("cache", MIGRATIONS)
            if doubt := await host.projects.doubt(project):
                click.echo(doubt, err=True)
            store = CacheStore(host.db)
            wanted = None if environment == "all" else environment
            projects = await store.outcomes(time.time() - hours * 3600, project, wanted)
            return {"projects": projects, "workers": await store.workers()}

    found = run_async(run())
    if as_json:
        echo_json(found)
        return
    table(
        ("project", "hits", "joined", "misses", "bypassed", "hit rate", "saved"),
        [
            (row["project"], row["hits"], row["joined"], row["misses"], row["bypassed"], _share(row), "$" + row["saved_usd"])
            for row in found["projects"]
        ],
    )
    click.echo()
    table(
        ("worker", "answers", "held", "of"),
        [(row["worker"], row["entries"], _mib(row["bytes"]), _mib(row["max_bytes"])) for row in found["workers"]],
    )


@cache.command()
@config_option
@_project
@_as_json
def purge(config: Config, project: str | None, as_json: bool) -> None:
    """Forget every stored answer, in every worker, before the next request."""

    async def run() -> None:
        async with Host.open(config) as host:
            if doubt := await CacheStore(host.db).doubt(host.projects, project):
                raise click.ClickException(doubt)
            empty(host.shared, project)

    run_async(run())
    if as_json:
        echo_json({"purged": True, "project": project})
    else:
        click.echo("The cache is empty." if project is None else f"The cache of {project} is empty.", err=True)


def _share(row: dict[str, Any]) -> str:
    return "-" if row["hit_rate"] is None else f"{row['hit_rate']:.1%}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"

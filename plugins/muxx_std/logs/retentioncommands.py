"""`muxx logs retention`: what is kept, and deleting at once what may go."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

import click

from muxx import Config, Connection, Database, Host, config_option, echo_json, resolved_settings, run_async, table

from .kept import overview
from .retention import Rules, sweep
from .schema import MIGRATIONS
from .settings import LogsConfig

_FREE = "SELECT freelist_count AS pages FROM pragma_freelist_count"
_GIVES_BACK = "SELECT auto_vacuum AS mode FROM pragma_auto_vacuum"
_GIVE_BACK = "PRAGMA incremental_vacuum(200)"


@click.command()
@config_option
@click.option("--run", is_flag=True, help="Delete at once what may go, and make the file smaller.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retention(config: Config, run: bool, as_json: bool) -> None:
    """Show what the log keeps, how much space it takes, and what is due to be deleted."""

    async def work() -> tuple[dict[str, Any], dict[str, int]]:
        async with Host.open(config) as host:
            await host.db.migrate("logs", MIGRATIONS)
            own = {
                row.name: resolved_settings(config.project, row.own).content_retention_days
                for row in await host.projects.rows()
                if row.own
            }
            rules = Rules.of(_settings(config), config, own)
            if run:
                await _sweep(host.db, rules)
                await _give_back(host.db)
            return await overview(host.db, rules), own

    kept, own = run_async(work())
    if as_json:
        echo_json(kept)
    else:
        _show(kept, config, own)


def _settings(config: Config) -> LogsConfig:
    return cast(LogsConfig, config.plugin_settings.get("logs") or LogsConfig())


async def _sweep(db: Database, rules: Rules) -> None:
    kept = await overview(db, rules)
    due = kept["content"]["due"] + kept["rows"]["due"]
    with click.progressbar(length=max(due, 1), label="Deleting", file=sys.stderr) as progress:
        async for count in sweep(db, rules):
            progress.update(count)


async def _give_back(db: Database) -> None:
    """Free pages become the file system's again, a few at a time, so that nobody who writes waits."""
    [mode] = await db.scan_logs(_GIVES_BACK)
    if mode["mode"] != 2:
        click.echo(
            "An earlier version of muxx made this file, and it keeps its size; docs/logs.md says how to change that.", err=True
        )
        return
    [free] = await db.scan_logs(_FREE)
    with click.progressbar(length=max(free["pages"], 1), label="Giving space back", file=sys.stderr) as progress:
        while left := await db.write_logs(_fewer_pages):
            progress.update(free["pages"] - left - progress.pos)
        progress.update(free["pages"] - progress.pos)


async def _fewer_pages(db: Connection) -> int:
    await db.execute_fetchall(_GIVE_BACK)
    [(left,)] = await db.execute_fetchall(_FREE)
    return int(left)


def _show(kept: Mapping[str, Any], config: Config, own: Mapping[str, int]) -> None:
    content, rows, index, file = (kept[name] for name in ("content", "rows", "index", "file"))
    row_days, days = _settings(config).row_retention_days, config.project.content_retention_days
    others = sorted(f"{name}: {number}" for name, number in own.items() if number != days)
    waiting = max(index["waiting"].values(), default=None)
    for_content = ", ".join((f"{days} days", *others)) if config.project.store_content else "never"
    for_rows = f"{row_days} days" if row_days else "for ever"
    at_most = "any size" if file["max_bytes"] is None else _size(file["max_bytes"])
    sizes = f"{_size(file['bytes'])}, {_size(file['free_bytes'])} free"
    table(
        ("part", "kept", "count", "oldest", "size", "due"),
        [
            ("content", for_content, content["count"], content["oldest"], _size(content["bytes"]), content["due"]),
            ("rows", for_rows, rows["count"], rows["oldest"], _size(rows["bytes"]), rows["due"]),
            ("index", "with them", None if waiting is None else f"{waiting} waiting", None, _size(index["bytes"]), None),
            ("file", at_most, None, None, sizes, _size(file["too_many_bytes"])),
        ],
    )


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"

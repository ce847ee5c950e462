"""`muxx limits set` and `muxx limits clear`: a project's own limits, which go before the file's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from muxx import Config, Explained, Host, InvalidRequest, config_option, echo_json, project_layers, run_async, table

_NUMBER = re.compile(r"\d[\d_]{0,20}", re.ASCII)
_SECTION = "project.limits."

_project = click.option("--project", metavar="NAME", default="default", show_default=True, help="Whose limits.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(name="set")
@config_option
@_project
@click.argument("limits", nargs=-1, required=True, metavar="LIMIT=NUMBER…")
@_as_json
def set_limits(config: Config, project: str, limits: tuple[str, ...], as_json: bool) -> None:
    """Set some of a project's limits, e.g. `rpm=600 user_rpm=20`; 0 is none. They hold for the next request."""
    _change(config, project, dict(map(_parsed, limits)), as_json)


@click.command()
@config_option
@_project
@click.argument("limits", nargs=-1, metavar="[LIMIT]…")
@_as_json
def clear(config: Config, project: str, limits: tuple[str, ...], as_json: bool) -> None:
    """Take a project's own limits back, all or those named, so that the file's hold again."""
    _change(config, project, dict.fromkeys(limits) or None, as_json)


def _parsed(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not _NUMBER.fullmatch(number):
        raise click.UsageError("write LIMIT=NUMBER, e.g. rpm=600")
    return name, int(number.replace("_", ""))


def _change(config: Config, project: str, limits: Mapping[str, int | None] | None, as_json: bool) -> None:
    """Do it, and show what holds now."""

    async def run() -> list[Explained]:
        async with Host.open(config) as host:
            try:
                row = await host.projects.change(project, {"limits": limits})
            except InvalidRequest as error:
                if error.status == 404:
                    raise
                raise click.UsageError(error.message) from None
            return [found for found in project_layers(config, row.own) if found.key.startswith(_SECTION)]

    shown = [(found.key.removeprefix(_SECTION), found.value, found.layer) for found in run_async(run())]
    if as_json:
        rows: list[dict[str, Any]] = [dict(zip(("limit", "value", "layer"), row, strict=True)) for row in shown]
        echo_json({"project": project, "limits": rows})
    else:
        table(("limit", "value", "from"), shown)

"""`muxx caps …`: a project's spend caps. Works beside a running server, which obeys on the very next request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import click

from muxx import (
    Config,
    Host,
    InvalidRequest,
    ProjectRow,
    ProjectStore,
    config_option,
    echo_json,
    resolved_settings,
    run_async,
    settings_of,
    table,
)

from .ledger import SpendLedger
from .present import Caps, now_standing

FORGOTTEN = "Nothing is added up since this machine was started. A muxx that starts adds up what was spent; until then it is 0."

Cap = dict[str, Any]

_WINDOWS = click.Choice(["day", "month"])
_ACTIONS = click.Choice(["block", "alert"])
_project = click.option("--project", metavar="NAME", default="default", show_default=True, help="Whose caps.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def caps() -> None:
    """Look at what projects may spend, and set it."""


@caps.command(name="list")
@config_option
@_project
@_as_json
def list_caps(config: Config, project: str, as_json: bool) -> None:
    """Show the caps that hold for a project, whether they are its own, and what is spent of each."""
    _show(config, _run(config, lambda store: store.named(project)), as_json)


@caps.command(name="set")
@config_option
@_project
@click.argument("window", type=_WINDOWS)
@click.argument("usd", metavar="USD")
@click.option("--action", type=_ACTIONS, default="block", show_default=True, help="Refuse what goes beyond it, or only say so.")
@_as_json
def set_cap(config: Config, project: str, window: str, usd: str, action: str, as_json: bool) -> None:
    """Let a project spend so many dollars a day or a month: `muxx caps set day 100.00`. The other caps that hold stay."""
    cap = {"window": window, "usd": usd, "action": action}

    def changes(own: Mapping[str, Any]) -> dict[str, Any]:
        return {"spend_caps": [*(other for other in _caps(config, own) if not _is_meant(other, window, action)), cap]}

    _show(config, _run(config, lambda store: store.change(project, changes)), as_json)


@caps.command()
@config_option
@_project
@click.argument("window", type=_WINDOWS, required=False)
@click.option("--action", type=_ACTIONS, help="Only caps that do this.")
@_as_json
def clear(config: Config, project: str, window: str | None, action: str | None, as_json: bool) -> None:
    """Take away a project's caps of a window; without one, all of its own, so that the file's hold again."""

    def changes(own: Mapping[str, Any]) -> dict[str, Any]:
        if window is None and action is None:
            return {"spend_caps": None}
        held = _caps(config, own)
        left = [cap for cap in held if not _is_meant(cap, window, action)]
        if len(left) == len(held):
            raise InvalidRequest("There is no such cap. `muxx caps list` shows what holds.")
        return {"spend_caps": left}

    _show(config, _run(config, lambda store: store.change(project, changes)), as_json)


def _caps(config: Config, own: Mapping[str, Any]) -> list[Cap]:
    """Those that hold."""
    caps: list[Cap] = resolved_settings(config.project, own).model_dump(mode="json")["spend_caps"]
    return caps


def _is_meant(cap: Cap, window: str | None, action: str | None) -> bool:
    return window in (None, cap["window"]) and action in (None, cap["action"])


def _layer(config: Config, own: Mapping[str, Any]) -> str:
    """Caps are set as a whole, so that all have one layer."""
    if "spend_caps" in own:
        return "project"
    return "file" if "spend_caps" in config.project.model_fields_set else "built in"


def _run(config: Config, work: Callable[[ProjectStore], Coroutine[Any, Any, ProjectRow]]) -> tuple[ProjectRow, Caps]:
    """The project after the work on the store, and how it stands; what cannot be done is a usage error."""

    async def run() -> tuple[ProjectRow, Caps]:
        async with Host.open(config) as host:
            try:
                row = await work(host.projects)
            except InvalidRequest as error:
                if error.status == 404:
                    raise
                raise click.UsageError(error.message) from None
            caps = settings_of(resolved_settings(config.project, row.own)).spend_caps
            ledger = SpendLedger(host.shared)
            if not ledger.table.filled and await host.db.has_table("logs", "generations"):
                click.echo(FORGOTTEN, err=True)
            return row, now_standing(ledger, row.name, caps)

    return run_async(run())


def _show(config: Config, found: tuple[ProjectRow, Caps], as_json: bool) -> None:
    row, now = found
    caps, layer = _caps(config, row.own), _layer(config, row.own)
    if as_json:
        left = [{**cap, "remaining_usd": stands.remaining_usd} for cap, stands in zip(caps, now.caps, strict=True)]
        echo_json({"project": row.name, "layer": layer, "caps": left, "spend": [spend.as_json() for spend in now.spend]})
        return
    spent = {spend.window: (spend.spent_usd, spend.held_usd) for spend in now.spend}
    rows = [
        (cap["window"], cap["usd"], cap["action"], layer, *spent[stands.window], stands.remaining_usd)
        for cap, stands in zip(caps, now.caps, strict=True)
    ]
    table(("window", "usd", "action", "from", "spent", "held", "remaining"), rows)

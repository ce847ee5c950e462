"""`muxx alerts …`: works beside a running server, and without one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from muxx import Config, Host, InvalidRequest, config_option, echo_json, resolved_settings, run_async, settings_of, table

from . import overview
from .message import TEST, test_facts
from .rules import name_of
from .settings import AlertsConfig
from .store import AlertStore, Event

LIMITS = ("rpm", "tpm", "rpd", "user_rpm", "user_tpm", "user_rpd", "spend_cap")

Own = Mapping[str, Any]

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_of_any = click.option("--project", metavar="NAME", help="Only this project's.")
_of_one = click.option("--project", metavar="NAME", default="default", show_default=True, help="Whose alerts.")


@click.group()
def alerts() -> None:
    """See, set and test what somebody is told of."""


@alerts.command(name="list")
@config_option
@_of_any
@_as_json
def list_rules(config: Config, project: str | None, as_json: bool) -> None:
    """Every alert, how it stands, and who is told."""

    async def run() -> list[dict[str, Any]]:
        async with Host.open(config) as host:
            await AlertStore.prepared(host)
            return await overview.rules(host, config, _settings(config), await overview.projects(host, project))

    rows = run_async(run())
    _warn_of_unknown(rows)
    if as_json:
        echo_json(rows)
        return
    table(
        ("project", "alert", "window", "spent", "of", "at", "told", "to"),
        [
            (row["project"], row["alert"], row["window"], _dollars(row["spent_usd"]), _limit(row), f"{100 * row['share']:.10g} %",
             row["told"], ", ".join(row["to"]) or "nobody")
            for row in rows
        ],
    )  # fmt: skip


@alerts.command()
@config_option
@_of_any
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@_as_json
def events(config: Config, project: str | None, limit: int, as_json: bool) -> None:
    """What somebody was told of, the newest first, and what became of each delivery."""

    async def run() -> list[dict[str, Any]]:
        async with Host.open(config) as host:
            store = await AlertStore.prepared(host)
            return [overview.event(row) for row in await store.events(project, None, limit) or ()]

    rows = run_async(run())
    if as_json:
        echo_json(rows)
        return
    table(
        ("at", "project", "alert", "user", "came to", "deliveries"),
        [
            (row["at"], row["project"], row["alert"], row["user_id"], _dollars(row["spent_usd"]) or row["used"], _deliveries(row))
            for row in rows
        ],
    )


@alerts.command()
@config_option
@click.argument("receiver", metavar="RECEIVER")
@_as_json
def test(config: Config, receiver: str, as_json: bool) -> None:
    """Send a test to a receiver now, and say what became of it."""
    settings = _settings(config)
    if receiver not in settings.receivers:
        raise click.UsageError(settings.no_such_receiver(receiver))

    async def run() -> dict[str, Any]:
        from muxx import client_session

        from .courier import send

        async with client_session() as http:
            return overview.tested(receiver, await send(http, settings, receiver, Event.now(TEST, test_facts())))

    tested = run_async(run())
    if as_json:
        echo_json(tested)
    elif tested["delivered"]:
        click.echo(f"Delivered to {receiver}.", err=True)
    if not tested["delivered"]:
        click.echo(f"Error: not delivered to {receiver}: {tested['problem']}", err=True)
        sys.exit(1)


@alerts.command()
@config_option
@_of_one
@click.option("--usd", metavar="AMOUNT", help="When so many US dollars are spent in the window.")
@click.option("--limit", type=click.Choice(LIMITS), help="When a share of this limit is used.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="Of the limit.  [default: 0.8]")
@click.option("--window", type=click.Choice(["day", "month"]), default="day", show_default=True, help="Of spend, by UTC.")
@click.option("--to", multiple=True, metavar="RECEIVER", help="Who is told; may be repeated.  [default: every receiver]")
@_as_json
def add(
    config: Config,
    project: str,
    usd: str | None,
    limit: str | None,
    share: float | None,
    window: str,
    to: tuple[str, ...],
    as_json: bool,
) -> None:
    """Tell somebody from now on: `muxx alerts add --project shop --usd 80 --window day --to ops`."""
    if (usd is None) == (limit is None):
        raise click.UsageError("say either --usd AMOUNT or --limit NAME")
    if usd is not None:
        if share is not None:
            raise click.UsageError("--share is of a --limit; --usd tells at its amount")
        what: dict[str, Any] = {"usd": _amount(usd), "window": window}
    else:
        what = {"limit": limit, "share": 0.8 if share is None else share, "window": window}
    alert = {**what, "to": list(to)}
    _change(config, project, lambda now: [*now, alert], as_json)


@alerts.command()
@config_option
@_of_one
@click.argument("alert", metavar="ALERT")
@_as_json
def remove(config: Config, project: str, alert: str, as_json: bool) -> None:
    """Tell nobody any more. ALERT is its name in the list: `muxx alerts remove --project shop spend:day:80`."""

    def without(now: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [one for one in now if _name(one) != alert]
        if kept == now:
            names = ", ".join(map(_name, now)) or "none"
            raise click.UsageError(f"the project has no alert of this name; it has {names}. A cap's goes with its cap")
        return kept

    _change(config, project, without, as_json)


def _change(config: Config, project: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], as_json: bool) -> None:
    """Change the alerts of a project. Those it has from the file become its own with the first change."""

    def changes(own: Own) -> Own:
        now = resolved_settings(config.project, own).model_dump(mode="json", exclude_unset=True).get("alerts", [])
        return {"alerts": change(now)}

    async def run() -> list[dict[str, Any]]:
        async with Host.open(config) as host:
            await AlertStore.prepared(host)
            try:
                await host.projects.change(project, changes)
            except InvalidRequest as error:
                if error.status == 404:
                    raise
                raise click.UsageError(error.message) from None
            return await overview.rules(host, config, _settings(config), await overview.projects(host, project))

    rows = run_async(run())
    if as_json:
        echo_json(rows)
    else:
        names = ", ".join(row["alert"] for row in rows) or "nothing"
        click.echo(f"Of {project} somebody is told now: {names}.", err=True)


def _settings(config: Config) -> AlertsConfig:
    found = config.plugin_settings.get("alerts")
    return found if isinstance(found, AlertsConfig) else AlertsConfig()


def _name(alert: dict[str, Any]) -> str:
    """The name that the list shows of an alert as it is stored."""
    section = resolved_settings(Config().project, {"alerts": [alert]})
    return name_of(settings_of(section).alerts[0])


def _amount(text: str) -> str:
    try:
        return str(Decimal(text.removeprefix("$")))
    except InvalidOperation:
        raise click.UsageError("--usd is an amount in US dollars, as in 80 or 0.50") from None


def _warn_of_unknown(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name in row["unknown_receivers"]:
            click.echo(f"Warning: {row['alert']} of {row['project']} names {name}, and there is no such receiver.", err=True)


def _dollars(usd: str | None) -> str | None:
    return None if usd is None else "$" + usd


def _limit(row: dict[str, Any]) -> str | None:
    return _dollars(row["limit_usd"]) or row["limit"]


def _deliveries(row: dict[str, Any]) -> str:
    told = []
    for one in row["deliveries"]:
        why = f" ({one['problem']})" if one["problem"] else ""
        told.append(f"{one['receiver']} {one['state']}{why}")
    return ", ".join(told)

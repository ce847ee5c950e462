"""`muxx limits …`: works beside a running server, and without one."""

from __future__ import annotations

import time

import click

from muxx import Config, Host, config_option, echo_json, resolved_settings, run_async, settings_of, table

from .ledger import Ledger
from .present import LimitsNow, limits_now
from .settingcommands import clear, set_limits


@click.group()
def limits() -> None:
    """Look at the limits of projects and users, and set a project's own."""


@limits.command()
@config_option
@click.option("--project", metavar="NAME", default="default", show_default=True, help="Whose limits.")
@click.option("--user", metavar="ID", help="With those of this X-Muxx-User-Id.")
@click.option("--key", metavar="ID", help="With the requests of this key that are under way.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Config, project: str, user: str | None, key: str | None, as_json: bool) -> None:
    """How much of each limit is used now, and when more of it comes back."""

    async def run() -> LimitsNow:
        async with Host.open(config) as host:
            own = (await host.projects.named(project)).own
            limits = settings_of(resolved_settings(config.project, own)).limits
            return limits_now(Ledger(host.shared), limits, project, user, key)

    found = run_async(run())
    if as_json:
        echo_json(found.as_json())
        return
    table(
        ("limit", "of", "used", "remaining", "more in"),
        [(one.name, one.limit, one.used, one.remaining, _until(one.reset)) for one in found.limits],
    )


def _until(moment: int) -> str:
    return f"{max(0.0, moment - time.time()):.0f} s"


limits.add_command(set_limits)
limits.add_command(clear)

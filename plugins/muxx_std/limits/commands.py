"""`muxx limits …`: works beside a running server, and without one."""

from __future__ import annotations

import time
from typing import Any

import click

from muxx import Config, Host, Limits, config_option, echo_json, run_async, table

from .ledger import Ledger
from .setting import clear, set_limits


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

    async def run() -> list[dict[str, Any]]:
        async with Host.open(config) as host:
            ledger = Ledger(host.shared)
            subject = ledger.subject(Limits(**config.project.limits.model_dump()), project, user, key)
            return [
                {
                    "name": standing.name,
                    "limit": standing.limit,
                    "used": standing.used,
                    "remaining": standing.remaining,
                    "reset": -(-standing.reset // 1000),
                }
                for standing in (ledger.standings(subject) if subject is not None else ())
            ]

    found = run_async(run())
    if as_json:
        echo_json({"project": project, "user": user, "limits": found})
        return
    table(
        ("limit", "of", "used", "remaining", "more in"),
        [(row["name"], row["limit"], row["used"], row["remaining"], _until(row["reset"])) for row in found],
    )


def _until(moment: int) -> str:
    return f"{max(0.0, moment - time.time()):.0f} s"


limits.add_command(set_limits)
limits.add_command(clear)

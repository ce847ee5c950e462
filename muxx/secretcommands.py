"""`muxx secret`: change the secret that key hashes and other people's keys depend on."""

from __future__ import annotations

from pathlib import Path

import click

from .config import Config
from .console import config_option, echo_json, run_async


@click.group()
def secret() -> None:
    """Change the secret that key hashes and the provider keys of projects depend on."""


@secret.command()
@config_option
@click.option(
    "--old-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Where the old secret is.  [default: $MUXX_SECRET_OLD, else the file beside the database]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(config: Config, old_file: Path | None, as_json: bool) -> None:
    """Exchange the secret while muxx is stopped. Keys go on working.

    The new one is $MUXX_SECRET or [server] secret; where neither is set, a new file beside the database.
    """
    from .rotation import rotate as exchange

    done = run_async(exchange(config, old_file))
    if as_json:
        echo_json({"rotated": done.provider_keys is not None, "provider_keys": done.provider_keys, "file": done.file})
        return
    where = "the one that is configured" if done.file is None else f"in {done.file}"
    if done.provider_keys is None:
        click.echo(f"Nothing to do: the secret is {where} already.", err=True)
    else:
        click.echo(
            f"The secret is {where} now; {done.provider_keys} provider keys were encrypted anew. Keys go on working.", err=True
        )
    if done.file is None and (left := config.database.path.with_name(config.database.path.name + ".secret")).exists():
        click.echo(f"{left} is used no more: delete it when a start has gone well.", err=True)

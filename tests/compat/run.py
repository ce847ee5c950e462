"""The command: environments, one provider, one gateway, every client; then table, JSON or docs."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from muxx.testing import PROVIDER_KEY, GatewayProcess

from . import report
from .catalogue import CLIENTS, Client
from .environments import CACHE, CannotInstall, Environments
from .provider import Providers
from .trial import Row, Target, tried

AT_ONCE = 2
"""Clients installed or running at the same time."""


@asynccontextmanager
async def target(*, direct: bool) -> AsyncIterator[Target]:
    """The provider, and a gateway that calls it for each of its three names; without `direct` the clients see the gateway."""
    CACHE.mkdir(parents=True, exist_ok=True)
    async with Providers() as providers:
        if direct:
            yield Target(providers.url, PROVIDER_KEY, providers, direct)
            return
        with tempfile.TemporaryDirectory(prefix="muxx-compat-") as name:
            config = {"providers": {"google": {"base_url": f"{providers.url}/v1beta"}}}
            async with GatewayProcess(Path(name), providers.base_url, config) as gateway:
                try:
                    yield Target(gateway.base_url, gateway.key, providers)
                finally:
                    (CACHE / "gateway.log").write_text(gateway.stderr)


async def rows_of(clients: Sequence[Client], *, fresh: bool, direct: bool) -> list[Row]:
    """All rows, in the catalogue's order."""
    environments, places = Environments(fresh=fresh), asyncio.Semaphore(AT_ONCE)
    async with target(direct=direct) as where:

        async def rows(client: Client) -> list[Row]:
            async with places:
                return await _rows(client, environments, where)

        try:
            return [row for found in await asyncio.gather(*map(rows, clients)) for row in found]
        finally:
            _write_requests(where.providers)


async def _rows(client: Client, environments: Environments, where: Target) -> list[Row]:
    try:
        await environments.ready(client, _say)
    except CannotInstall as reason:
        _say(f"{client.name}: cannot be installed: {reason}")
        return [Row(client, face, failure=f"cannot be installed: {reason}") for face in client.faces]
    rows = []
    for face in client.faces:
        row = await tried(client, face, environments, where)
        told = ", ".join(f"{report.FORMATS[name]} {report.cell(row, name)}" for name in face.formats)
        seconds = sum(outcome.seconds for outcome in row.outcomes)
        _say(f"{client.name} {row.version} {face.path}: {told} ({seconds:.1f} s)")
        rows.append(row)
    return rows


def _write_requests(providers: Providers) -> None:
    """What the provider was asked, one request a line, for whoever looks into a failure."""
    lines = [
        {"target": request.target, "headers": dict(request.headers), "body": request.body.decode(errors="replace")}
        for request in providers.requests
    ]
    (CACHE / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(rows: Sequence[Row]) -> None:
    shown = Table(*report.TITLES, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        shown.add_row(*(text.replace("`", "") for text in report.cells(row)))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


@click.command()
@click.argument("names", nargs=-1, metavar="[CLIENT]...", type=click.Choice([client.name for client in CLIENTS]))
@click.option("--fresh", is_flag=True, help="Install the clients anew, in their newest versions.")
@click.option("--direct", is_flag=True, help="Send the clients straight to the scripted provider: tests the scripts themselves.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--write-docs", is_flag=True, help=f"Write the table of {report.DOCS_PATH} anew.")
def main(names: tuple[str, ...], fresh: bool, direct: bool, as_json: bool, write_docs: bool) -> None:
    """Try real SDKs, each with nothing but a base URL and a key, against a running gateway.

    Exits 1 when any case fails.
    """
    if write_docs and (names or direct):
        raise click.UsageError("the docs show every client, behind a gateway")
    clients = [client.native() if direct else client for client in CLIENTS if not names or client.name in names]
    rows = asyncio.run(rows_of(clients, fresh=fresh, direct=direct))
    if as_json:
        print(json.dumps(report.data(rows), indent=1, ensure_ascii=False))
    else:
        _show(rows)
    failures = report.failures(rows)
    for line in failures:
        _say(line)
    if write_docs:
        report.DOCS.write_text(report.page(report.DOCS.read_text(), rows))
    if failures:
        sys.exit(1)

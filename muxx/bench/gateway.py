"""The gateway that is measured: `muxx serve` with the operator's configuration, but for what would lead out of the benchmark.

`python -m muxx.bench.gateway` reads an `Order` as a line of JSON, prints a `Started`, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import select
import signal
import socket
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import click
import orjson
from yarl import URL

from ..catalogue import Catalogue
from ..checking import load_checked
from ..complete import environment_proxy
from ..config import Config, LimitsConfig, ProjectConfig, ProviderConfig
from ..errors import StartError
from ..host import Host
from ..plugins import PluginSet, build
from ..server import allow_files, most_calls, most_files
from ..targets import Provider
from ..worker import prepare
from ..workers import serve
from .said import MODEL

PROVIDER = "muxx-bench"
MOST_USD = Decimal(4_000_000)
"""The most that a cap or an alert can be."""


@dataclass(frozen=True)
class Order:
    """What to serve. The configuration is read from its own place, so that no secret in it is written anywhere."""

    config: str | None
    plugins_dir: str | None
    database: str
    upstream: str
    """Its base URL."""


@dataclass(frozen=True)
class Started:
    """What a caller needs, and how the gateway is going to run."""

    port: int
    key: str
    model: str
    uvloop: bool
    proxied: bool
    """There is a proxy between the operator's gateway and the providers, which decides about the transport."""
    files: int
    """That a process may have open."""
    most_calls: int
    """At a time, in a worker."""
    plugins: list[str]


def under_test(config: Config, providers: Mapping[str, Provider], order: Order, port: int, *, proxied: bool) -> Config:
    """The configuration with one worker, its own address and database, and every provider at the upstream.

    Limits, caps and alerts are looked at as often as the operator's are; they are only so high that no benchmark reaches them.
    """
    server: dict[str, object] = {"host": "127.0.0.1", "port": port, "workers": 1}
    if proxied and config.server.transport == "auto":
        server["transport"] = "aiohttp"
    here = {"base_url": order.upstream, "openai_url": None, "proxy": None, "ca_file": None}
    led = {
        name: config.providers.get(name, ProviderConfig()).model_copy(update=here)
        for name, row in providers.items()
        if row.transport == "http"
    }
    led[PROVIDER] = ProviderConfig.model_validate(
        {"format": "openai", "base_url": order.upstream, "api_key": "sk-bench", "prices": "openai"}
    )
    return config.model_copy(
        update={
            "server": config.server.model_copy(update=server),
            "database": config.database.model_copy(update={"path": Path(order.database)}),
            "providers": led,
            "project": out_of_reach(config.project),
        }
    )


def out_of_reach(project: ProjectConfig) -> ProjectConfig:
    """The same limits, caps and alerts, each as high as it can be."""
    limits = {name: _most(name) for name, value in project.limits if value}
    return project.model_copy(
        update={
            "limits": project.limits.model_copy(update=limits),
            "spend_caps": tuple(cap.model_copy(update={"usd": MOST_USD}) for cap in project.spend_caps),
            "alerts": tuple(
                alert.model_copy(update={"share": 1.0} if alert.usd is None else {"usd": MOST_USD}) for alert in project.alerts
            ),
        }
    )


def _most(limit: str) -> int:
    return next(int(rule.le) for rule in LimitsConfig.model_fields[limit].metadata if hasattr(rule, "le"))


async def _first_key(config: Config, plugins: PluginSet) -> str:
    async with Host.open(config) as host:
        key = await prepare(host, plugins)
    if key is None:
        raise StartError("no plugin that is on makes a key to call with: leave `keys` on", 1)
    return key


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_stdin() -> None:
    """Have the kernel send SIGTERM when whoever ordered this has gone. A thread that waits for that would stand in the way of the
    supervisor's forks."""
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        sys.exit(1)


def _leave_upstream_out_of_proxies() -> None:
    excepted = urllib.request.getproxies().get("no")
    os.environ["no_proxy"] = ",".join(filter(None, (excepted, "127.0.0.1")))


def main() -> int:
    order = Order(**orjson.loads(sys.stdin.buffer.readline()))
    _end_with_stdin()
    found, config = load_checked(
        Path(order.config) if order.config else None, Path(order.plugins_dir) if order.plugins_dir else None
    )
    plugins = build(found, config)
    providers = Catalogue(config, plugins).providers
    proxied = environment_proxy(URL(providers["openai"].base_url)) is not None
    _leave_upstream_out_of_proxies()
    port = _unused_port()
    config = under_test(config, providers, order, port, proxied=proxied)
    key = asyncio.run(_first_key(config, plugins))
    uvloop = importlib.util.find_spec("uvloop") is not None
    names = sorted(plugin.name for plugin in plugins.plugins)
    allow_files()
    started = Started(port, key, f"{PROVIDER}/{MODEL}", uvloop, proxied, most_files(), most_calls(), names)
    click.echo(orjson.dumps(asdict(started)))
    os.dup2(2, 1)  # nobody reads what plugins print from here on, and a full pipe would stop them
    return serve(config, found)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(str(error))

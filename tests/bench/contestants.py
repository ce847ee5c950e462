"""Who takes part in a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .gateways import ADAPTERS, Installed, Nginx, PassThrough
from .machine import cores
from .muxxes import Muxx
from .part import say
from .server import Server, Upstream
from .tools import BenchError

OTHERS = tuple(adapter.name for adapter in ADAPTERS)
"""Gateways of others. They take part where they are installed."""


@contextmanager
def running(
    directory: Path, loop: str, upstream: Upstream, *kinds: type[Muxx], others: bool = False
) -> Iterator[dict[str, Server]]:
    """By name: nobody at all (the upstream itself), nginx where it is installed, muxx in these kinds, the pass-through, and with
    `others` every other gateway there is an adapter for, and found. All share one core."""
    core, _ = cores()
    with ExitStack() as stack:
        servers: list[Server] = [upstream]
        if Nginx.is_installed():
            servers.append(stack.enter_context(Nginx(directory, core, upstream.url)))
        servers += [stack.enter_context(kind(directory, core, loop=loop, upstream=upstream.url)) for kind in kinds]
        servers.append(stack.enter_context(PassThrough(directory, core, loop, upstream.url)))
        for adapter in ADAPTERS:
            if others and adapter.is_installed():
                try:
                    servers.append(stack.enter_context(Installed(adapter, directory, core, upstream.url)))
                except BenchError as error:
                    say(f"  {adapter.name} is left out: {error}")
        yield {server.name: server for server in servers}


def resting(servers: dict[str, Server], busy: Server) -> list[Server]:
    """Who is stopped while one is measured: all others but the upstream."""
    return [server for server in servers.values() if server is not busy and not isinstance(server, Upstream)]

"""The command: rounds of all cells, each cell with the two it compares, one right after the other; then table, JSON or docs.

Neighbours on a shared machine move Python's figures by a fifth from minute to minute. So the two are compared within seconds
of each other, who goes first changes from round to round, and what is reported are medians: of the figures, and of the ratios
per round.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from . import counting, log_store, report, translation
from .gateways import Muxx, MuxxWithIdlePlugin, PassThrough, Server, Upstream
from .machine import cores, facts
from .measure import CELLS, SATURATING, WARM_UP, WARM_UP_SECONDS, Bench, Cell
from .payloads import pieces
from .tools import BenchError, Tools, built

QUIET = 0.05
"""The share of a core that other processes may take before a cell is measured again."""


@dataclass(frozen=True)
class Settings:
    rounds: int
    seconds: float
    loops: tuple[str, ...]
    cells: tuple[Cell, ...] = CELLS
    tries: int = 3
    """How often a cell is measured at most, to find a moment when nothing else runs on the machine."""
    log_rows: int = log_store.ROWS
    log_spells: int = log_store.SPELLS


def measured(settings: Settings) -> dict[str, Any]:
    """All of it, as plain data."""
    with tempfile.TemporaryDirectory(prefix="muxx-bench-") as name:
        directory = Path(name)
        tools = built(directory)
        loops = {loop: _loop(settings, loop, tools, directory) for loop in settings.loops}
        store = _log_store(settings, tools, directory)
    return {
        "machine": facts() | {"tools": tools.language, "cores_shared": cores()[0] == cores()[1]},
        "settings": {"rounds": settings.rounds, "seconds": settings.seconds},
        "loops": loops,
        "translation": translation.measured(),
        "log_store": store,
        "counting": counting.measured(),
        "floor": report.floor(loops),
    }


def _loop(settings: Settings, loop: str, tools: Tools, directory: Path) -> dict[str, Any]:
    _, other_core = cores()
    with Upstream(directory, other_core, tools.upstream, pieces()) as upstream:
        bench = Bench(tools, upstream)
        ceiling = {cell.name: bench.ceiling(cell, min(1.0, settings.seconds)) for cell in SATURATING}
        rounds = []
        for number in range(settings.rounds):
            with tempfile.TemporaryDirectory(dir=directory) as name:
                _say(f"{loop}: round {number + 1} of {settings.rounds}")
                rounds.append(_round(settings, bench, loop, number, upstream.port, Path(name)))
    return {"ceiling": ceiling, "rounds": rounds, "summary": report.summary(rounds)}


def _log_store(settings: Settings, tools: Tools, directory: Path) -> dict[str, Any]:
    gateway_core, other_core = cores()
    _say(f"log: {settings.log_rows:,} rows are stored, indexed, and read")
    with Upstream(directory, other_core, tools.upstream, pieces()) as upstream, tempfile.TemporaryDirectory(dir=directory) as name:
        return log_store.measured(Path(name), settings.loops[0], upstream.port, gateway_core, settings.log_rows, settings.log_spells)


def _round(settings: Settings, bench: Bench, loop: str, number: int, upstream_port: int, directory: Path) -> dict[str, Any]:
    """All of them from their start, through every cell. At its end, muxx has a row for each request."""
    gateway_core, _ = cores()
    with ExitStack() as stack:
        muxx = stack.enter_context(Muxx(directory, gateway_core, loop, upstream_port))
        servers: list[Server] = [
            muxx,
            stack.enter_context(MuxxWithIdlePlugin(directory, gateway_core, loop, upstream_port)),
            stack.enter_context(PassThrough(directory, gateway_core, loop, upstream_port)),
        ]
        for server in servers:
            bench.send(server, WARM_UP, WARM_UP_SECONDS)
            server.settle()
        cells: dict[str, dict[str, Any]] = {}
        for cell in settings.cells:
            cells[cell.name] = _quietest(settings, bench, cell, servers, backwards=bool(number % 2))
            _say(f"  {report.line(cell, cells[cell.name])}")
        return {"requests": muxx.sent, "rows": muxx.rows(), "cells": cells}


def _quietest(settings: Settings, bench: Bench, cell: Cell, servers: list[Server], *, backwards: bool) -> dict[str, Any]:
    """One cell with each of its two in turn; again while neighbours are noisy, and the pair with the least noise counts."""
    best: dict[str, Any] = {}
    two = sorted((server for server in servers if server.name in cell.pair), key=lambda server: server.name, reverse=backwards)
    for _ in range(settings.tries):
        pair = {
            server.name: bench.measure(server, cell, settings.seconds, [other for other in servers if other is not server])
            for server in two
        }
        if not best or _noise(pair) < _noise(best):
            best = pair
        if _noise(best) <= QUIET:
            break
    return best


def _noise(pair: dict[str, Any]) -> float:
    return max(float(figures["noise"]) for figures in pair.values())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _loops(choice: str | None) -> tuple[str, ...]:
    if choice is None:
        try:
            import uvloop  # noqa: F401
        except ImportError:
            return ("asyncio",)
        return ("uvloop", "asyncio")
    return ("uvloop", "asyncio") if choice == "both" else (choice,)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds per event loop.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="Load per gateway and cell.")
@click.option("--loop", type=click.Choice(["asyncio", "uvloop", "both"]), help="Event loop of both. [default: all installed]")
@click.option("--json", "json_path", type=click.Path(path_type=Path, allow_dash=True), help="Write everything here; - is stdout.")
@click.option("--quick", is_flag=True, help="One short round on one loop: proves that it works, and no more.")
@click.option("--write-docs", is_flag=True, help=f"Write {report.DOCS_PATH} anew.")
def main(rounds: int, seconds: float, loop: str | None, json_path: Path | None, quick: bool, write_docs: bool) -> None:
    """Measure muxx, everything on, against a bare aiohttp pass-through.

    Exits 1 when muxx is below its floor or anything makes the figures worthless.
    """
    if quick and write_docs:
        raise click.UsageError("a quick run's figures are not for the docs")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind, least of all a stopped one
    settings = Settings(1, 0.15, _loops(loop)[:1], SATURATING, tries=1, log_rows=2000, log_spells=1) if quick else Settings(rounds, seconds, _loops(loop))
    try:
        result = measured(settings)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if json_path is not None:
        with click.open_file(str(json_path), "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")
    if str(json_path) != "-":
        report.show(result)
        if quick:
            _say("This was too quick to mean anything but that it works.")
    if write_docs:
        report.DOCS.write_text(report.page(result))
    if not quick and not (result["floor"]["held"] and translation.held(result["translation"]) and log_store.held(result["log_store"])):
        sys.exit(1)

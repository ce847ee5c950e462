"""The command: each part in turn; then tables, JSON or docs.

Neighbours on a shared machine move Python's figures by a fifth from minute to minute. So those who are compared are measured within
seconds of each other, who goes first changes from round to round, and what is reported are medians: of the figures, and of the
ratios per round.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from . import report
from .machine import cores, facts, open_files
from .part import DOCS_PATH, Part, Stage, say
from .parts import BY_NAME, PARTS
from .tools import BenchError, Tools, built


def measured(parts: list[Part], stage: Stage) -> dict[str, Any]:
    """What came of each part. One that fails leaves the others alone: what it says is its result."""
    results: dict[str, Any] = {}
    for number, part in enumerate(parts, 1):
        say(f"── {part.TITLE} ({part.NAME}), part {number} of {len(parts)}")
        try:
            results[part.NAME] = part.measured(stage)
        except BenchError as error:
            say(str(error))
            results[part.NAME] = {"failed": str(error)}
    return results


def _outcome(parts: list[Part], stage: Stage) -> dict[str, Any]:
    return {
        "machine": facts() | {"tools": stage.tools.language, "cores_shared": cores()[0] == cores()[1]},
        "settings": {"rounds": stage.rounds, "seconds": stage.seconds},
        "parts": measured(parts, stage),
    }


def _joined(outcome: dict[str, Any], path: Path) -> dict[str, Any]:
    """The outcome with the parts that it has not, taken from a file that `--json` made."""
    others = json.loads(path.read_text())
    for field in ("machine", "settings"):
        if others[field] != outcome[field]:
            raise click.ClickException(f"{path} is of another run: its {field} is {others[field]}, not {outcome[field]}")
    return outcome | {"parts": others["parts"] | outcome["parts"]}


def _loops(choice: str | None) -> tuple[str, ...]:
    if choice is None:
        try:
            import uvloop  # noqa: F401
        except ImportError:
            return ("asyncio",)
        return ("uvloop", "asyncio")
    return ("uvloop", "asyncio") if choice == "both" else (choice,)


def _stage(directory: Path, tools: Tools, rounds: int, seconds: float, loops: tuple[str, ...], quick: bool) -> Stage:
    if quick:
        return Stage(directory, tools, loops[:1], 1, 0.15, quick=True)
    return Stage(directory, tools, loops, rounds, seconds, quick=False)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(tuple(BY_NAME)), help="Measure this part; may be given several times.")
@click.option("--list", "listing", is_flag=True, help="List the parts.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds of what is compared.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="Load per measurement.")
@click.option("--loop", type=click.Choice(["asyncio", "uvloop", "both"]), help="Event loop of both. [default: all installed]")
@click.option("--json", "json_path", type=click.Path(path_type=Path, allow_dash=True), help="Write everything here; - is stdout.")
@click.option(
    "--others", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Take the other parts from what --json wrote here."
)
@click.option("--quick", is_flag=True, help="One short round on one loop: proves that it works, and no more.")
@click.option("--write-docs", is_flag=True, help=f"Write {DOCS_PATH} and its plot anew.")
def main(
    only: tuple[str, ...], listing: bool, rounds: int, seconds: float, loop: str | None, json_path: Path | None, others: Path | None,
    quick: bool, write_docs: bool,
) -> None:  # fmt: skip
    """Measure muxx, everything on, against a bare aiohttp pass-through, nginx, and what other gateways are installed.

    Exits 1 when muxx does not keep what it promises, or anything makes the figures worthless.
    """
    if listing:
        click.echo(report.listed())
        return
    if write_docs and (quick or (only and others is None)):
        raise click.UsageError("the docs need all parts, and no quick ones: give the other parts with --others")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind, least of all a stopped one
    open_files()
    parts = [part for part in PARTS if not only or part.NAME in only]
    try:
        with tempfile.TemporaryDirectory(prefix="muxx-bench-") as name:
            outcome = _outcome(parts, _stage(Path(name), built(Path(name)), rounds, seconds, _loops(loop), quick))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if others is not None:
        outcome = _joined(outcome, others)
    _tell(outcome, json_path, write_docs)
    failed = any("failed" in result for result in outcome["parts"].values())
    if failed or not (quick or all(claim.held for claim in report.claims(outcome["parts"]))):
        sys.exit(1)


def _tell(outcome: dict[str, Any], json_path: Path | None, write_docs: bool) -> None:
    said = [{"promised": claim.promised, "measured": claim.measured, "held": claim.held} for claim in report.claims(outcome["parts"])]
    if json_path is not None:
        with click.open_file(str(json_path), "w") as file:
            file.write(json.dumps(outcome | {"claims": said}, indent=1) + "\n")
    if str(json_path) != "-":
        report.show(outcome["parts"])
    if write_docs:
        report.write_docs(outcome)

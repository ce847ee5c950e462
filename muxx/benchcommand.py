"""`muxx bench`: what muxx costs on this machine. What it measures with is imported in it, for every start of `muxx` comes past
here."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .console import config_path_option, echo_json, load, table


class Length(click.FloatRange):
    """Seconds; "nan" is a number to Python, and beyond no bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("is not a number", param, ctx)
        return seconds


@click.command()
@config_path_option()
@click.option("--seconds", type=Length(3, 300), default=30.0, show_default=True, help="How long it may take in all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def bench(ctx: click.Context, path: Path | None, seconds: float, as_json: bool) -> None:
    """Measure what muxx adds to requests on this machine, with this configuration, and say what it means.

    It starts a gateway of its own on an empty database, and a provider that answers from memory: no account, no network.
    """
    config = load(ctx, path).config
    from .bench import verdict
    from .bench.running import measured

    with _progress() as told:
        figures, about = measured(config, seconds, told)
    if as_json:
        echo_json(verdict.as_json(figures, about))
        return
    click.echo(verdict.setting(about))
    table(verdict.COLUMNS, verdict.rows(figures))
    click.echo("\n" + "\n".join(verdict.verdict(figures, about.most_calls)))
    for warning in verdict.warnings(figures, about):
        click.echo(f"\nWarning: {warning.text}")


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Gets what is done, and which part of all that is: a bar on a terminal, which is gone at the end, and lines elsewhere.

    The bar is drawn only when there is news: a thread that draws it would be in the way of what is measured.
    """
    if not sys.stderr.isatty():
        yield lambda text, part: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def told(text: str, part: float) -> None:
            bar.update(task, description=text, completed=part, refresh=True)

        yield told

"""What a second worker is worth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .machine import cores
from .measure import Bench, Cell, Figures, medians, quietest, ratio, told
from .muxxes import Muxx
from .part import Claim, Stage, Table, say
from .server import Server, Upstream

NAME = "workers"
TITLE = "Two workers"
WORDS = """Plain calls over 64 connections, to one worker on one core and to two on two, in turn. Where upstream and load have a third core, the rates are compared. Where not, the second
worker shares its core with them, so what is compared is how many requests the gateway serves in a second of its CPU, all its processes counted: on two cores of its
own it serves twice as many as that."""

LEAST_GAIN = 1.7
CALLS = Cell("plain-c64", "", (), 64)
SHOWN = {"muxx": 1, "two workers": 2}
"""How many workers each of them has."""


class TwoWorkers(Muxx):
    """muxx with one more worker."""

    name = "two workers"
    server_lines = "workers = 2"


def measured(stage: Stage) -> dict[str, Any]:
    """The rounds; and whether upstream and load were apart from both workers."""
    _, load = cores()
    usable = sorted(os.sched_getaffinity(0))
    second = usable[-2] if len(usable) > 2 else load
    with stage.upstream() as (above, upstream):
        bench = Bench(stage, upstream)
        rounds = [_round(stage, bench, upstream, directory, number, second) for number, directory in stage.each_round(above, NAME)]
    return {"loop": stage.loops[0], "apart": second != load, "rounds": rounds}


def _round(stage: Stage, bench: Bench, upstream: Upstream, directory: Path, number: int, second: int) -> Figures:
    core, loop = cores()[0], stage.loops[0]
    with (
        Muxx(directory, core, loop=loop, upstream=upstream.url) as one,
        TwoWorkers(directory, core, second, loop=loop, upstream=upstream.url) as two,
    ):
        bench.warm_up([one, two])

        def measure(server: Server) -> dict[str, Any]:
            return bench.measure(server, CALLS, stage.seconds, [other for other in (one, two) if other is not server])

        turn = quietest([one, two], measure, tries=stage.tries, backwards=bool(number % 2))
    say(f"  {told(turn)}")
    return turn


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    rounds = result["rounds"]
    if result["apart"]:
        gain, how = ratio(rounds, "two workers", "muxx", "requests_per_s"), ""
    else:
        gain, how = 2 / ratio(rounds, "two workers", "muxx", "cpu_us"), " by the requests per second of CPU"
    return [Claim(f"{LEAST_GAIN:g} times the requests/s with a second worker", f"{gain:.2f}{how}", gain >= LEAST_GAIN)]


def tables(result: dict[str, Any]) -> list[Table]:
    columns = ("workers", "requests/s", "µs of CPU per request", "requests per second of CPU", "p50 / p99 ms")
    found = medians(result["rounds"])
    rows = [
        (
            str(workers),
            f"{found[name]['requests_per_s']:,.0f}",
            f"{found[name]['cpu_us']:.1f}",
            f"{1e6 / found[name]['cpu_us']:,.0f}",
            f"{found[name]['p50_ms']:.2f} / {found[name]['p99_ms']:.2f}",
        )
        for name, workers in SHOWN.items()
    ]
    return [Table(f"On {result['loop']}:", columns, rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    return [] if result["apart"] else ["Upstream and load ran on the second worker's core: the requests/s of two are less than they would be."]

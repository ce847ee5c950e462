"""Chat calls and bursts of streams through every gateway there is, in turn: the part whose figures everybody asks for."""

from __future__ import annotations

from typing import Any

from .contestants import OTHERS, resting, running
from .machine import cores
from .measure import ENOUGH, Bench, Cell, Figures, medians, noise_of, quietest, ratio, told
from .muxxes import Muxx, Unrecorded, WithIdlePlugin
from .part import Claim, Stage, Table, say

NAME = "calls"
TITLE = "Calls and bursts"
WORDS = """Each in a closed loop per connection: the next request is sent when the last one's answer has come. "nginx" passes bytes on and knows nothing
of them, "direct" is upstream and load without anything between them, "bare" the pass-through. "no recording" is muxx without the plugins `logs` and `analytics` and with
`store_content = false`: no row is made, and the journal, which is the kernel's, remains."""

LEAST_RATIO, FLOOR, STRETCH = 2.0, 1.5, 2.5
"""How many times the pass-through's requests per second muxx serves at 64 connections: promised, least, hoped for."""
MOST_TAIL = 5.0
MOST_RECORDING = 0.2
MOST_OF_A_HIT = 0.5

ALL = ("muxx", "pass-through", "muxx, no recording", "nginx", "direct", *OTHERS)
TWO = ("muxx", "pass-through")
IDLE = ("idle plugin", "muxx")
CELLS = (
    Cell("plain-c1", "plain calls, 1 connection", ALL, 1),
    Cell("plain-c16", "plain calls, 16 connections", ALL, 16),
    Cell("plain-c64", "plain calls, 64 connections", ALL, 64),
    Cell("plain-c256", "plain calls, 256 connections", ALL, 256),
    Cell("prompt-50k", "prompts of 50 KB, 16 connections", ALL, 16, prompt_bytes=50 * 1024),
    Cell("stream-burst", "bursts of 100 events, 16 at once", ALL, 16, stream=True),
    Cell("stream-paced", "streams, 100 at once, 10 ms between events", ALL, 100, stream=True, pace_ms=10),
    Cell("hit-c64", "one question over and over, 64 connections", TWO, 64, same=True),
    Cell("hit-stream", "one stream over and over, 16 at once", TWO, 16, stream=True, same=True),
    Cell("idle-plain", "plain calls, 64 connections", IDLE, 64),
    Cell("idle-stream", "bursts of 100 events, 16 at once", IDLE, 16, stream=True),
)
QUICK = ("plain-c64", "stream-burst", "idle-stream")
"""What a quick run is content with."""

SHOWN = {
    "direct": "direct", "nginx": "nginx", "muxx, no recording": "no recording", "muxx": "muxx", "pass-through": "bare",
    "idle plugin": "with it", **{name: name for name in OTHERS},
}  # fmt: skip
"""The columns, in their order, and what they are called."""


def measured(stage: Stage) -> dict[str, Any]:
    """The rounds of each cell by event loop, and what muxx was sent and has rows of."""
    return {"loops": {loop: _loop(stage, loop) for loop in stage.loops}}


def _loop(stage: Stage, loop: str) -> dict[str, Any]:
    cells = [cell for cell in CELLS if not stage.quick or cell.name in QUICK]
    rounds: dict[str, list[Figures]] = {cell.name: [] for cell in cells}
    requests = rows = 0
    with stage.upstream() as (above, upstream):
        bench = Bench(stage, upstream)
        for number, directory in stage.each_round(above, f"{NAME}, {loop}"):
            with running(directory, loop, upstream, Muxx, Unrecorded, WithIdlePlugin, others=True) as servers:
                bench.warm_up([server for server in servers.values() if server.ours])
                for cell in cells:
                    rounds[cell.name].append(_compared(stage, bench, cell, servers, backwards=bool(number % 2)))
                    say(f"  {cell.name}: {told(rounds[cell.name][-1], _rate(cell))}")
                muxx = servers["muxx"]
                assert isinstance(muxx, Muxx)
                requests += muxx.sent
                rows += muxx.rows()
    return {"rounds": rounds, "requests": requests, "rows": rows}


def _compared(stage: Stage, bench: Bench, cell: Cell, servers: dict[str, Any], *, backwards: bool) -> Figures:
    who = [servers[name] for name in cell.who if name in servers]
    return quietest(
        who,
        lambda server: bench.measure(server, cell, stage.seconds, resting(servers, server)),
        tries=stage.tries,
        backwards=backwards,
    )


def _rate(cell: Cell) -> str:
    return "events_per_s" if cell.stream else "requests_per_s"


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    return [claim for loop, one in result["loops"].items() for claim in _claims(loop, one["rounds"])]


def _claims(loop: str, rounds: dict[str, list[Figures]]) -> list[Claim]:
    c64 = rounds["plain-c64"]
    times, kept = ratio(c64, "muxx", "pass-through", "requests_per_s"), ratio(c64, "muxx", "muxx, no recording", "requests_per_s")
    found = [
        Claim(
            f"On {loop}, {LEAST_RATIO:g} times the pass-through's requests/s at 64 connections, everything on,", _times(times),
            times >= LEAST_RATIO,
        ),
        Claim(
            f"On {loop}, that recording costs at most {MOST_RECORDING:.0%} of the requests/s", f"{1 - kept:.0%}",
            1 - kept <= MOST_RECORDING,
        ),
    ]  # fmt: skip
    if "plain-c1" in rounds:
        alone = {name: figures["p50_ms"] for name, figures in medians(rounds["plain-c1"]).items()}
        measured = f"{alone['muxx']:.2f} ms against {alone['pass-through']:.2f} ms"
        found.append(Claim(f"On {loop}, a p50 below the pass-through's at 1 connection", measured, alone["muxx"] < alone["pass-through"]))
    if "plain-c256" in rounds:
        many = medians(rounds["plain-c256"])["muxx"]
        tail = many["p99_ms"] / many["p50_ms"]
        found.append(Claim(f"On {loop}, a p99 below {MOST_TAIL:g} times the p50 at 256 connections", f"{tail:.1f}", tail < MOST_TAIL))
    if "hit-c64" in rounds:
        hit = ratio(rounds["hit-c64"], "muxx", "pass-through", "cpu_us")
        promised = f"On {loop}, that an answer from the cache costs less than half of what the pass-through does"
        found.append(Claim(promised, f"{hit:.2f} of its CPU", hit < MOST_OF_A_HIT))
    return found


def _times(times: float) -> str:
    if times >= STRETCH:
        return f"{times:.2f}, which is even more than {STRETCH:g}"
    return f"{times:.2f}" if times >= LEAST_RATIO else f"{times:.2f}, {'above' if times >= FLOOR else 'BELOW'} the floor of {FLOOR:g}"


def tables(result: dict[str, Any]) -> list[Table]:
    return [table for loop, one in result["loops"].items() for table in _tables(loop, one["rounds"])]


def _tables(loop: str, rounds: dict[str, list[Figures]]) -> list[Table]:
    main = [cell for cell in CELLS if cell.name in rounds and cell.who != IDLE]
    idle = [cell for cell in CELLS if cell.name in rounds and cell.who == IDLE]
    calls = [cell for cell in main if not cell.stream]
    tables = [
        _table(f"On {loop}, requests or events of streams per second:", main, rounds, "rate"),
        _table(f"On {loop}, µs of CPU of the gateway's processes for each request or event:", main, rounds, "cpu_us"),
        _latencies(f"On {loop}, p50 / p99 of whole answers in ms:", calls, rounds),
    ]
    if idle:
        words = f"On {loop}, with a plugin that has `on_chunk` and takes itself off each exchange, "
        tables.append(_table(f"{words}requests or events per second:", idle, rounds, "rate"))
        tables.append(_table(f"{words}µs of CPU for each:", idle, rounds, "cpu_us"))
    return tables


def _columns(cells: list[Cell], rounds: dict[str, list[Figures]]) -> list[str]:
    there = {name for cell in cells for name in medians(rounds[cell.name])}
    return [name for name in SHOWN if name in there]


def _table(words: str, cells: list[Cell], rounds: dict[str, list[Figures]], field: str) -> Table:
    """A column for each, and the ratio of the first of a cell to the second."""
    names = [name for name in _columns(cells, rounds) if field == "rate" or name != "direct"]
    first, second = cells[0].who[:2]
    rows = []
    for cell in cells:
        found, of = medians(rounds[cell.name]), _rate(cell) if field == "rate" else field
        figures = [f"{found[name][of]:,.{0 if field == 'rate' else 1}f}" if name in found else "" for name in names]
        rows.append((cell.title, *figures, f"{ratio(rounds[cell.name], first, second, of):.2f}"))
    return Table(words, ("load", *(SHOWN[name] for name in names), f"{SHOWN[first]} : {SHOWN[second]}"), rows)


def _latencies(words: str, cells: list[Cell], rounds: dict[str, list[Figures]]) -> Table:
    names = _columns(cells, rounds)
    rows = []
    for cell in cells:
        found = medians(rounds[cell.name])
        shown = [f"{found[name]['p50_ms']:.2f} / {found[name]['p99_ms']:.2f}" if name in found else "" for name in names]
        rows.append((cell.title, *shown))
    return Table(words, ("load", *(SHOWN[name] for name in names)), rows)


def remarks(result: dict[str, Any]) -> list[str]:
    return [remark for loop, one in result["loops"].items() for remark in (_bottleneck(loop, one), _counted(loop, one))]


def _bottleneck(loop: str, one: dict[str, Any]) -> str:
    """Whether the figures are the gateways' own, or their surroundings'."""
    found = medians(one["rounds"]["plain-c64"])
    alone = found["direct"]["requests_per_s"]
    times = alone / max(found[name]["requests_per_s"] for name in TWO)
    said = f"On {loop}, upstream and load alone reach {alone:,.0f} requests/s at 64 connections, {times:.1f} times the faster of muxx and the pass-through."
    return said if times >= ENOUGH else f"{said} THEY ARE TOO SLOW: the figures are theirs as much as the gateways'."


def _counted(loop: str, one: dict[str, Any]) -> str:
    noise = noise_of(turn for rounds in one["rounds"].values() for turn in rounds)
    shared = " Gateways, upstream and load had one core together." if cores()[0] == cores()[1] else ""
    return (
        f"On {loop}, muxx was sent {one['requests']:,} requests and has {one['rows']:,} rows. "
        f"Other processes took at most {noise:.0%} of a core during any measurement.{shared}"
    )

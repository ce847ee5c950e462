"""Figures into medians and ratios, and those into a table for a terminal and a page for the docs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from . import log_store, translation
from .measure import CELLS, FLOOR_CELL, Cell

FLOOR = 1.2
"""muxx, with everything on, serves at least this many times the requests per second of the bare pass-through."""

TABLE_WIDTH = 116
ENOUGH = 1.5
"""Upstream and load are no bottleneck where they reach this many times the rate of the faster gateway."""

DOCS_PATH = "docs/performance.md"
DOCS = Path(__file__).parents[2] / DOCS_PATH


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Per cell: the medians of each of the two, and the medians and extremes of the first one's ratios to the second round by
    round."""
    return {
        cell.name: _cell_summary(cell, [one["cells"][cell.name] for one in rounds])
        for cell in CELLS
        if cell.name in rounds[0]["cells"]
    }


def _cell_summary(cell: Cell, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    fields = rounds[0][cell.pair[0]]
    medians: dict[str, Any] = {
        name: {field: round(median(one[name][field] for one in rounds), 3) for field in fields} for name in cell.pair
    }
    return medians | {"rate_ratio": _ratios(cell, rounds, "requests_per_s"), "cpu_ratio": _ratios(cell, rounds, "cpu_us")}


def _ratios(cell: Cell, rounds: list[dict[str, Any]], field: str) -> dict[str, float]:
    ratios = [one[cell.pair[0]][field] / one[cell.pair[1]][field] for one in rounds]
    return {"median": round(median(ratios), 3), "least": round(min(ratios), 3), "most": round(max(ratios), 3)}


def floor(loops: dict[str, Any]) -> dict[str, Any]:
    """Whether the floor holds on every loop that was measured."""
    ratios = {loop: one["summary"][FLOOR_CELL]["rate_ratio"]["median"] for loop, one in loops.items()}
    return {"required": FLOOR, "measured": ratios, "held": all(ratio >= FLOOR for ratio in ratios.values())}


def line(cell: Cell, figures: dict[str, Any]) -> str:
    """One measurement of both, for the progress."""
    unit = "event" if cell.stream else "request"
    rates = [f"{name} {figures[name]['requests_per_s']:,.0f}/s {figures[name]['cpu_us']:.1f} µs/{unit}" for name in cell.pair]
    noise = max(figures[name]["noise"] for name in cell.pair)
    return f"{cell.name}: {', '.join(rates)}, noise {noise:.0%}"


@dataclass(frozen=True)
class Shown:
    """A table: the cells that compare one pair, and what the two are called in it."""

    pair: tuple[str, str]
    names: tuple[str, str]
    title: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Rates, µs of CPU per request or event, latencies."""
        a, b = self.names
        return ("load", f"{a} /s", f"{b} /s", "ratio", f"{a} µs", f"{b} µs", "ratio", f"{a} p50 / p99 ms", f"{b} p50 / p99 ms")

    def rows(self, one: dict[str, Any], *, in_words: bool) -> list[tuple[str, ...]]:
        """A row per cell, under `columns`."""
        summaries = one["summary"]
        cells = [cell for cell in CELLS if cell.pair == self.pair and cell.name in summaries]
        return [(cell.title if in_words else cell.name, *_row(cell, summaries[cell.name])) for cell in cells]


TABLES = (
    Shown(("muxx", "pass-through"), ("muxx", "bare"), "Requests or stream events per second, and µs of CPU for each:"),
    Shown(
        ("idle plugin", "muxx"),
        ("with", "without"),
        "muxx with a plugin that has `on_chunk` and takes itself off each exchange, against muxx without it:",
    ),
)


def _row(cell: Cell, figures: dict[str, Any]) -> tuple[str, ...]:
    rate = "events_per_s" if cell.stream else "requests_per_s"
    first, second = (figures[name] for name in cell.pair)
    latencies = ("", "") if cell.stream else tuple(f"{one['p50_ms']:.2f} / {one['p99_ms']:.2f}" for one in (first, second))
    return (
        f"{first[rate]:,.0f}",
        f"{second[rate]:,.0f}",
        f"{figures['rate_ratio']['median']:.2f}",
        f"{first['cpu_us']:.1f}",
        f"{second['cpu_us']:.1f}",
        f"{figures['cpu_ratio']['median']:.2f}",
        *latencies,
    )


def show(result: dict[str, Any]) -> None:
    """The tables, on stdout."""
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    for loop, one in result["loops"].items():
        for shown in TABLES:
            table = Table(shown.columns[0], title=f"{loop}: requests or events per second, µs of CPU each; {_rounds(result)}")
            for column in shown.columns[1:]:
                table.add_column(column, justify="right")
            for row in shown.rows(one, in_words=False):
                table.add_row(*row)
            if table.row_count:
                console.print(table)
        console.print(_bottleneck(one))
        console.print(_counted(one), end="\n\n")
    crossing = Table("provider's format, events of", title="translation into each client's format, µs per event")
    for client in translation.FORMATS:
        crossing.add_column(client, justify="right")
    for row in translation.rows(result["translation"]):
        crossing.add_row(*row)
    console.print(crossing)
    console.print(translation.sentence(result["translation"]))
    stored = Table(log_store.COLUMNS_SHOWN[0], title=f"the log, with {result['log_store']['rows']:,} rows")
    for column in log_store.COLUMNS_SHOWN[1:]:
        stored.add_column(column, justify="right")
    for row in log_store.rows(result["log_store"]):
        stored.add_row(*row)
    console.print(stored)
    console.print(log_store.sentence(result["log_store"]))
    counted = Table("one process, µs per request", title="limits and spend caps")
    counted.add_column("µs", justify="right")
    for title, took in result["counting"].items():
        counted.add_row(title, f"{took:.1f}")
    console.print(counted)
    console.print(_verdict(result["floor"]))


def _rounds(result: dict[str, Any]) -> str:
    settings = result["settings"]
    rounds = settings["rounds"]
    return f"{rounds} round{'' if rounds == 1 else 's'} of {settings['seconds']:g} s"


def _counted(one: dict[str, Any]) -> str:
    requests = sum(each["requests"] for each in one["rounds"])
    stored = sum(each["rows"] for each in one["rounds"])
    noise = max(figures["noise"] for each in one["rounds"] for pair in each["cells"].values() for figures in pair.values())
    return (
        f"muxx was sent {requests:,} requests and has {stored:,} rows. "
        f"Other processes took at most {noise:.0%} of a core during any measurement."
    )


def _bottleneck(one: dict[str, Any]) -> str:
    """Whether the figures are the gateways' own, or their surroundings'."""
    alone = one["ceiling"][FLOOR_CELL]["requests_per_s"]
    times = alone / max(one["summary"][FLOOR_CELL][name]["requests_per_s"] for name in TABLES[0].pair)
    said = f"Upstream and load alone reach {alone:,.0f} requests/s at 64 connections, {times:.1f} times the faster gateway."
    return said if times >= ENOUGH else f"{said} THEY ARE TOO SLOW: the figures are theirs as much as the gateways'."


def _verdict(held: dict[str, Any]) -> str:
    measured = ", ".join(f"{ratio:.2f} on {loop}" for loop, ratio in held["measured"].items())
    word = "holds" if held["held"] else "DOES NOT HOLD"
    return f"The floor of {held['required']} times the pass-through's requests/s at 64 connections {word}: {measured}."


PAGE = """# Performance

<!-- Written by `python -m tests.bench --write-docs`. Change the words in tests/bench/report.py, not here. -->

What muxx costs with everything on that is on by default: keys checked, usage read, prices booked, each request journalled before
it is sent and again before its answer ends, and stored with its content by the recorder.

It is measured against the least that a reverse proxy on aiohttp can do: one route, one well-tuned `ClientSession`, no checks,
no parsing, no records ([passthrough.py](../tests/bench/passthrough.py)). Both run on the same event loop, in the same run, on
the same core. The collector of the pass-through is as Python sets it; that muxx freezes what lives for ever and collects less often
is part of what is measured. Every figure is a median of {rounds} per load and gateway; a ratio is the median of the ratios round by round.

{verdict}

{tables}

## Translation

Where client and provider speak different formats, an event is read into what plugins see and written as the other format's. That
costs, besides what an event costs that passes as it came, so many µs of CPU per event, into each client's format:

{translation}

## The log

With {log_rows} rows of half a kilobyte of content, [pages](logs.md#over-http) of 20 rows of one project. Where a page says "so far", its time was not enough to look at all rows, and it says where to go on:

{log}

## Limits and spend caps

What a project has set costs its requests so many µs of CPU more, from their admission to their settlement, exact across the workers of a host; where nothing is set,
only spend is counted:

{counting}

## The two HTTP transports

A provider is reached by the lean transport, a pool of protocols on httptools' response parser, except where a proxy or a private CA
needs aiohttp's own client. Both sit behind one interface and under the same tests. In three alternating rounds at 64 connections,
everything else equal, the lean one served 2.5 to 3.8 times the requests per second of the other.

## How it is measured

- Every process of the gateway, the recorder included, is pinned to one core; upstream, load generator and everything else use
  the other. While one gateway is measured the other is stopped (SIGSTOP). Who goes first changes from round to round.
  A measurement that other processes disturbed is repeated, at most twice, and the least disturbed counts.
- A plain call has the head the OpenAI SDK sends, a prompt of 1 KB and an answer of 570 bytes. A stream has 100 events of about 290 bytes. No two prompts are
  alike, except where one question is asked over and over: there muxx answers from its cache and the pass-through asks the provider. Every answer carries the number of its own request, and the load generator checks that, the status, and that the
  answer is whole.
- After every load the bench waits until the log database has exactly one row per request, or fails. CPU is the user and system
  time of all the gateway's processes until then: what the recorder does later is not left out.
- Upstream and load generator are small C programs of our own; twins in Python stand in where there is no compiler. What they
  reach without a gateway is measured in the same run and stands below each table.
- Where streams come as fast as they go, a busy gateway finds several events in one read, and each gets cheaper. With 10 ms
  between events each comes alone: that is the cost per token of a provider's stream. The rate is then the provider's.

Run it yourself: `make bench`. On a shared machine single figures move by a fifth from minute to minute; the ratios move less.

## The machine

{machine}
"""


def page(result: dict[str, Any]) -> str:
    """The page of the docs."""
    tables = "\n\n".join(_section(loop, one) for loop, one in result["loops"].items())
    crossing = [("the provider's format, events of", *translation.FORMATS), *translation.rows(result["translation"])]
    return PAGE.format(
        rounds=_rounds(result), verdict=_verdict(result["floor"]), tables=tables, machine=_machine(result["machine"]),
        log_rows=f"{result['log_store']['rows']:,}",
        log=f"{_table([log_store.COLUMNS_SHOWN, *log_store.rows(result['log_store'])])}\n\n{log_store.sentence(result['log_store'])}",
        translation=f"{_table(crossing)}\n\n{translation.sentence(result['translation'])}",
        counting=_table([("", "µs"), *((title, f"{took:.1f}") for title, took in result["counting"].items())]),
    )


def _section(loop: str, one: dict[str, Any]) -> str:
    tables = "\n\n".join(f"{shown.title}\n\n{_in_markdown(shown, one)}" for shown in TABLES)
    return f"## On {loop}\n\n{tables}\n\n{_bottleneck(one)} {_counted(one)}"


def _in_markdown(shown: Shown, one: dict[str, Any]) -> str:
    return _table([shown.columns, *shown.rows(one, in_words=True)])


def _table(rows: list[tuple[str, ...]]) -> str:
    """Rows in Markdown, the first as the head; all but the first column are figures."""
    head, *body = rows
    lines = [head, ("---", *("---:" for _ in head[1:])), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    return "\n".join(
        (
            f"- {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}",
            f"- CPython {machine['python']}, {packages}",
            f"- upstream and load generator in {machine['tools']}",
        )
    )

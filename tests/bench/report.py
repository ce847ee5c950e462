"""The results of all parts as tables for a terminal, and as the page of the docs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from . import plot
from .part import DOCS, Claim, Part, Table
from .parts import BY_NAME, PARTS

TABLE_WIDTH = 116


def claims(results: dict[str, Any]) -> list[Claim]:
    """Of all parts; one that could not be measured holds nothing."""
    return [claim for part, result in _of(results) for claim in _claims(part, result)]


def _of(results: dict[str, Any]) -> list[tuple[Part, dict[str, Any]]]:
    return [(part, results[part.NAME]) for part in PARTS if part.NAME in results]


def _claims(part: Part, result: dict[str, Any]) -> list[Claim]:
    if "failed" in result:
        return [Claim(f"That {part.NAME} can be measured", result["failed"].splitlines()[0].rstrip("."), False)]
    return part.claims(result)


def show(results: dict[str, Any]) -> None:
    """Everything that was measured, on stdout."""
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    for part, result in _of(results):
        console.rule(part.TITLE)
        if "failed" in result:
            console.print(result["failed"], markup=False)
            continue
        for table in part.tables(result):
            console.print(_printed(table))
        for remark in part.remarks(result):
            console.print(remark, markup=False)
    console.rule("What is promised")
    for claim in claims(results):
        console.print(str(claim), style="" if claim.held else "bold red", markup=False)


def _printed(table: Table) -> Printed:
    first, *others = table.columns
    printed = Printed(first, title=table.words.replace("`", ""), title_justify="left")
    for column in others:
        printed.add_column(column, justify="right")
    for row in table.rows:
        printed.add_row(*row)
    return printed


PAGE = """# Performance

<!-- Written by `python -m tests.bench --write-docs`. Change the words in tests/bench, not here. -->

What muxx costs with everything on that is on by default: keys checked, usage read, prices booked, each request journalled before
it is sent and again before its answer ends, and stored with its content by the recorder.

It is measured against the least that a reverse proxy on aiohttp can do: one route, one well-tuned `ClientSession`, no checks,
no parsing, no records ([passthrough.py](../tests/bench/passthrough.py)); and, where they are installed, against nginx and other gateways. All run in turn in the same run, on
the same core, muxx and the pass-through on the same event loop. The collector of the pass-through is as Python sets it; that muxx freezes what lives for ever and collects less often
is part of what is measured. Figures are medians of {rounds} per load and gateway; a ratio is the median of the ratios round by round.

![{plot_words}](performance.svg)

## What is promised

{claims}

{parts}

## Where a request's time goes

Of a plain call that no cache answers, counted with callgrind, which no neighbour disturbs: a worker's user space takes 639,000 instructions, the pass-through's 591,000.
An event of a stream that passes as it came takes some 220 bytecodes, and of its JSON only the text is read. Of a plain call, 83 % of the worker's instructions are the interpreter's own, for about 6,300 bytecodes in 250 calls of Python functions; orjson takes 5 %, the hash of the
cache's key 5 % (less where the processor has instructions for it), the checksum of the journal 2 %. The bytecodes, by what they are for:

| of a request's bytecodes | % |
| --- | ---: |
| the call up: targets, tries, breaker, the provider's connection, retries that are not needed | 23 |
| usage, price, the row, the trace, and both lines of the journal | 17 |
| the client's side: heads, known heads, the answer's head, one write for all | 16 |
| the request's fields, the answer's facts | 14 |
| the spine: who calls, for which project, from step to step | 12 |
| the cache, and sharing of calls under way | 7 |
| the hook chains themselves | 4 |
| spend counted for caps that may be set later | 3 |
| keys, limits, pricing, and the rest | 4 |

No single place stands out: what is left is the number of steps that everything together takes in an interpreter. The recorder adds about a tenth, on a core of its own where there is one.
A CPython built with profile-guided optimisation takes the same steps at six sevenths of the CPU ([operations](operations.md#workers)).
Compiled, the kernel's path is no faster: a third of the interpreter's steps go, and looking up attributes and calling across the border of what is compiled, which the interpreter
of 3.11 does in place, takes more than that saves. With mypyc (38 modules, classes native) the worker took 1.11 to 1.16 times the CPU per plain call, with Cython 1.2 times.

## The two HTTP transports

A provider is reached by the lean transport, a pool of protocols on httptools' response parser, except where a proxy or a private CA
needs aiohttp's own client. Both sit behind one interface and under the same tests. In three alternating rounds at 64 connections,
everything else equal, the lean one served 2.5 to 3.8 times the requests per second of the other.

## How it is measured

- Every process of the gateway, the recorder included, is pinned to one core; upstream, load generator and everything else use
  the other. While one gateway is measured the others are stopped (SIGSTOP). Who goes first changes from round to round.
  A measurement that other processes disturbed is repeated, at most twice, and the least disturbed counts.
- A plain call has the head the OpenAI SDK sends, a prompt of 1 KB and an answer of 570 bytes. A stream has 100 events of about 300 bytes. No two prompts are
  alike, except where one question is asked over and over: there muxx answers from its cache and the pass-through asks the provider. Every answer carries the number of its own request, and the load generators check that, the status, and that the
  answer is whole.
- After every load the bench waits until the log database has exactly one row per request, or fails. CPU is the user and system
  time of all the gateway's processes until then: what the recorder does later is not left out.
- Upstream and load generators are small C programs of our own; twins in Python stand in where there is no compiler. What they
  reach without a gateway is measured in the same run: "direct".
- nginx has one worker, buffers no answer, keeps its connections to the provider, writes no access log, and puts the provider's key in the place of the client's.
  A gateway that somebody else made takes part when it is installed and has an adapter in
  [gateways.py](../tests/bench/gateways.py): a row that says how it is started.
- Where streams come as fast as they go, a busy gateway finds several events in one read, and each gets cheaper. With a pause
  between events each comes alone: that is the cost per token of a provider's stream. The rate is then the provider's.

Run it yourself: `make bench`, or a part of it: `make bench ARGS="--only streams"`; `make bench ARGS=--list` names the parts. On a shared machine single figures move by a fifth from minute to minute; the ratios move less.

## The machine

{machine}
"""


def write_docs(outcome: dict[str, Any]) -> None:
    """Write the page and its plot anew."""
    plot.write(outcome["parts"])
    DOCS.write_text(page(outcome))


def page(outcome: dict[str, Any]) -> str:
    """The page of the docs."""
    results, settings = outcome["parts"], outcome["settings"]
    rounds = f"{settings['rounds']} round{'' if settings['rounds'] == 1 else 's'} of {settings['seconds']:g} s"
    return PAGE.format(
        rounds=rounds,
        plot_words="; ".join(panel.title for panel in plot.panels(results)),
        claims="\n".join(f"- {claim}" for claim in claims(results)),
        parts="\n\n".join(_section(part, result) for part, result in _of(results)),
        machine=_machine(outcome["machine"]),
    )


def _section(part: Part, result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"## {part.TITLE}\n\nIt could not be measured."
    tables = [f"{table.words}\n\n{_in_markdown(table)}" for table in part.tables(result)]
    return "\n\n".join((f"## {part.TITLE}", part.WORDS, *tables, " ".join(part.remarks(result)))).rstrip()


def _in_markdown(table: Table) -> str:
    """The first row is the head; all but the first column are figures."""
    lines = [table.columns, ("---", *("---:" for _ in table.columns[1:])), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    programs = "".join(f", {name} {number}" for name, number in machine["programs"].items())
    return "\n".join(
        (
            f"- {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}",
            f"- CPython {machine['python']}, {packages}{programs}",
            f"- upstream and load generators in {machine['tools']}",
        )
    )


def listed() -> str:
    """The parts, for those who want one of them."""
    width = max(map(len, BY_NAME))
    return "\n".join(f"{part.NAME:<{width}}  {part.TITLE}" for part in PARTS)

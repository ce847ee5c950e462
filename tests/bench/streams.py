"""Many slow streams at once, as providers send them: is every event passed on at once, and what does one cost?"""

from __future__ import annotations

from typing import Any

from .contestants import resting, running
from .measure import Bench, Figures, Streams, medians, noise_of, quietest, ratio, told
from .muxxes import Muxx, WithReadingPlugin
from .part import Claim, Stage, Table, say
from .server import Server

NAME = "streams"
TITLE = "Slow streams"
WORDS = """So many streams of 100 events at once, 20 ms between the events of each. The upstream writes into each event when it sends it, and the load generator
reads the same clock when it has come: an event that took less than 20 ms is on time. In a burst events follow one another as fast as they go. "reading plugin" is muxx with
a plugin that reads the text of every chunk; "translated" is muxx asked in Anthropic's format for a provider of OpenAI's. CPU counts whole streams: request, events, and row."""

SLOW_1000 = "1,000 streams, 20 ms between events"
BURST = "16 bursts at once"
CELLS = {
    "200 streams, 20 ms between events": Streams(200, 20, 4.0, 2.0),
    SLOW_1000: Streams(1000, 20, 6.0, 2.0),
    BURST: Streams(16, 0, 2.0, 0.2),
}
QUICK = {SLOW_1000: Streams(50, 5, 0.3, 0.2)}
"""Figures of a quick run mean nothing."""

LEAST_ON_TIME = 0.99
MOST_P99_MS = 15.0
MOST_OF_NGINX = {"muxx": 1.3, "muxx, reading plugin": 2.5, "muxx, translated": 2.5}
"""CPU per event, in nginx's."""
SHOWN = {"direct": "direct", "nginx": "nginx", **{name: name for name in MOST_OF_NGINX}, "pass-through": "bare"}
TRANSLATED = "muxx, translated"


def measured(stage: Stage) -> dict[str, Any]:
    """The rounds of each cell on the first event loop, and whether muxx has a row for each request."""
    loop, cells = stage.loops[0], QUICK if stage.quick else CELLS
    rounds: dict[str, list[Figures]] = {title: [] for title in cells}
    requests = rows = 0
    with stage.upstream() as (above, upstream):
        bench = Bench(stage, upstream)
        for number, directory in stage.each_round(above, f"{NAME}, {loop}"):
            with running(directory, loop, upstream, Muxx, WithReadingPlugin) as servers:
                bench.warm_up([*servers.values()])
                for title, streams in cells.items():
                    rounds[title].append(_compared(stage, bench, streams, servers, backwards=bool(number % 2)))
                    say(f"  {title}: {told(rounds[title][-1], 'events_per_s')}")
                muxx = servers["muxx"]
                assert isinstance(muxx, Muxx)
                requests += muxx.sent
                rows += muxx.rows()
    return {"loop": loop, "rounds": rounds, "requests": requests, "rows": rows}


class _Asked:
    """A server, as it is asked: muxx is once more in the comparison, in another format."""

    def __init__(self, name: str, server: Server, messages: bool = False) -> None:
        self.name = name
        self.server = server
        self.messages = messages
        self.ours = server.ours


def _compared(stage: Stage, bench: Bench, streams: Streams, servers: dict[str, Server], *, backwards: bool) -> Figures:
    who = [_Asked(name, server) for name, server in servers.items()]
    who.append(_Asked(TRANSLATED, servers["muxx"], messages=True))

    def one(asked: _Asked) -> dict[str, Any]:
        return bench.stream(asked.server, streams, resting(servers, asked.server), messages=asked.messages)

    return quietest(who, one, tries=stage.tries, backwards=backwards)


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    rounds = result["rounds"][SLOW_1000]
    found = medians(rounds)
    muxx = found["muxx"]
    errors = sum(one[name]["errors"] for cell in result["rounds"].values() for one in cell for name in MOST_OF_NGINX)
    said = [
        Claim(f"That of 1,000 slow streams {LEAST_ON_TIME:.0%} of the events are on time", f"{muxx['on_time']:.2%}", muxx["on_time"] >= LEAST_ON_TIME),
        Claim(f"A p99 of their delay of at most {MOST_P99_MS:g} ms", f"{muxx['p99_ms']:.1f} ms", muxx["p99_ms"] <= MOST_P99_MS),
        Claim("That no stream fails, and each has its row", f"{errors} errors, {result['rows']:,} rows of {result['requests']:,}", not errors and result["rows"] == result["requests"]),
    ]
    if "nginx" in found:
        for name, most in MOST_OF_NGINX.items():
            times = ratio(rounds, name, "nginx", "cpu_us")
            said.append(Claim(f"That an event costs {name} at most {most:g} times nginx's CPU", f"{times:.2f}", times <= most))
    return said


def tables(result: dict[str, Any]) -> list[Table]:
    columns = ("", "events/s", "on time", "delay p50 / p99 / most, ms", "µs of CPU per event", "in nginx's", "errors")
    return [Table(f"{title}:", columns, _rows(rounds, paced=title != BURST)) for title, rounds in result["rounds"].items()]


def _rows(rounds: list[Figures], *, paced: bool) -> list[tuple[str, ...]]:
    found = medians(rounds)
    rows: list[tuple[str, ...]] = []
    for name, shown in SHOWN.items():
        if name in found:
            one = found[name]
            delays = f"{one['p50_ms']:.2f} / {one['p99_ms']:.1f} / {one['most_ms']:.1f}" if paced else ""
            cpu = "" if name == "direct" else f"{one['cpu_us']:.1f}"
            times = f"{ratio(rounds, name, 'nginx', 'cpu_us'):.2f}" if cpu and "nginx" in found else ""
            on_time = f"{one['on_time']:.2%}" if paced else ""
            errors = str(sum(each[name]["errors"] for each in rounds))
            rows.append((shown, f"{one['events_per_s']:,.0f}", on_time, delays, cpu, times, errors))
    return rows


def remarks(result: dict[str, Any]) -> list[str]:
    noise = noise_of(turn for rounds in result["rounds"].values() for turn in rounds)
    return [f"On {result['loop']}. Other processes took at most {noise:.0%} of a core during any measurement."]

"""As many streams at once as one process carries, nearly idle: how much memory they take."""

from __future__ import annotations

from typing import Any

from .contestants import resting, running
from .machine import children, open_files, resident_mib
from .measure import Bench, Streams
from .muxxes import Muxx
from .part import Claim, Stage, Table, say
from .server import Server

NAME = "idle"
TITLE = "Thousands of idle streams"
WORDS = """As many streams as one worker takes, at once, with a second between the events of each: 100 events in 100 s. Memory is the most that the process
which carries them was resident with."""

MOST_STREAMS = 9500
MOST_MIB = 400.0
SPARE_FILES = 300
SHOWN = {"muxx": "muxx", "pass-through": "bare", "nginx": "nginx"}


def measured(stage: Stage) -> dict[str, Any]:
    """What each of them made of the streams, and its memory in MiB at rest and at most."""
    most = min(MOST_STREAMS, (open_files() - SPARE_FILES) // 2)
    streams = Streams(100, 5, 0.3, 0.2) if stage.quick else Streams(most, 1000, 20.0, 20.0)
    loop = stage.loops[0]
    figures = {}
    with stage.upstream() as (directory, upstream), running(directory, loop, upstream, Muxx) as servers:
        bench = Bench(stage, upstream)
        for name, server in servers.items():
            if name in SHOWN:
                say(f"{NAME}: {name} with {streams.streams:,} streams")
                rest = resident_mib(_carrying(server))
                figures[name] = bench.stream(server, streams, resting(servers, server)) | {
                    "rest_mib": round(rest, 1), "most_mib": round(resident_mib(_carrying(server), "VmHWM"), 1),
                }  # fmt: skip
        muxx = servers["muxx"]
        assert isinstance(muxx, Muxx)
        return {
            "streams": streams.streams, "limited": most < MOST_STREAMS, "loop": loop, "figures": figures, "requests": muxx.sent,
            "rows": muxx.rows(),
        }  # fmt: skip


def _carrying(server: Server) -> int:
    """The process that carries streams: muxx's and nginx's first child, the pass-through itself."""
    return (children(server.pid) or [server.pid])[0]


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    muxx = result["figures"]["muxx"]
    whole = not muxx["errors"] and result["rows"] == result["requests"] and result["streams"] == MOST_STREAMS
    measured = f"{muxx['most_mib']:.0f} MiB with {result['streams']:,} streams, {muxx['errors']} errors, {result['rows']:,} rows of {result['requests']:,}"
    return [
        Claim(f"That one process carries {MOST_STREAMS:,} streams at once within {MOST_MIB:g} MiB, without an error,", measured, whole and muxx["most_mib"] <= MOST_MIB)
    ]


def tables(result: dict[str, Any]) -> list[Table]:
    columns = ("", "MiB at rest", "MiB at most", "KiB per stream", "events/s", "on time", "µs of CPU per event", "errors")
    rows = []
    for name, shown in SHOWN.items():
        if name in result["figures"]:
            one = result["figures"][name]
            each = (one["most_mib"] - one["rest_mib"]) * 1024 / result["streams"]
            rows.append(
                (shown, f"{one['rest_mib']:.0f}", f"{one['most_mib']:.0f}", f"{each:.1f}", f"{one['events_per_s']:,.0f}",
                 f"{one['on_time']:.2%}", f"{one['cpu_us']:.1f}", str(one["errors"]))
            )  # fmt: skip
    return [Table(f"{result['streams']:,} streams at once:", columns, rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    if not result["limited"]:
        return []
    return [f"No more than {result['streams']:,} streams were tried: this machine allows a process no more open files, see `ulimit -n`."]

"""How soon muxx answers after its start, and what memory it takes, at rest and after many requests."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from .contestants import resting, running
from .machine import children, cores, family_mib, resident_mib
from .measure import Bench, Cell
from .muxxes import Muxx
from .part import Claim, Stage, Table, say
from .payloads import MARK, request
from .server import Server, Upstream

NAME = "memory"
TITLE = "Start and memory"
WORDS = """From the start of the process, with no database yet, to the end of the first answer; and what is resident. As muxx ships, answers stay in its cache, up to 256 MiB of
them in each worker; so that this is not taken for a leak, growth is that of a muxx whose cache may hold 1 MiB, between its 100,000th and its 200,000th request."""

MOST_START_S = 1.0
MOST_REST_MIB = 80.0
MOST_GROWTH_MIB = 1.0
REQUESTS = 100_000
BEFORE = 100_000
"""Until tables, pools and the allocator have reached the size they keep."""
QUICK_REQUESTS = 300
CALLS = Cell("plain-c64", "", (), 64)
SHOWN = {"muxx": "muxx", "small cache": "muxx, 1 MiB of cache", "pass-through": "bare", "nginx": "nginx"}


class SmallCache(Muxx):
    """muxx with a cache that is soon full."""

    name = "small cache"
    more = "[plugins.cache]\nmax_bytes = 1_048_576"


def measured(stage: Stage) -> dict[str, Any]:
    """Seconds of each start; of each gateway MiB at rest and after the requests; and what grew."""
    loop = stage.loops[0]
    figures = {}
    with stage.upstream() as (above, upstream):
        starts = [_start(directory, loop, upstream) for _, directory in stage.each_round(above, f"{NAME}: start")]
        with tempfile.TemporaryDirectory(dir=above) as name, running(Path(name), loop, upstream, Muxx, SmallCache) as servers:
            bench = Bench(stage, upstream)
            for title in SHOWN:
                if title in servers:
                    others = resting(servers, servers[title])
                    figures[title] = _filled(stage, bench, servers[title], others, BEFORE if title == SmallCache.name else 0)
    return {"loop": loop, "start_s": starts, "figures": figures}


def _start(directory: Path, loop: str, upstream: Upstream) -> float:
    """Seconds from the start of the process to the end of the first answer."""
    muxx = Muxx(directory, cores()[0], loop=loop, upstream=upstream.url)
    begun = time.monotonic()
    with muxx:
        with socket.create_connection(("127.0.0.1", muxx.port), timeout=20) as client:
            client.sendall(request(muxx).replace(MARK.encode(), b"0" * len(MARK)))
            answer = b""
            while not answer.endswith(b"}") and (data := client.recv(65536)):
                answer += data
        took = time.monotonic() - begun
        if answer[9:12] != b"200":
            muxx.fail(f"answered {answer[:300]!r} first")
    return round(took, 3)


def _filled(stage: Stage, bench: Bench, server: Server, others: list[Server], before: int) -> dict[str, Any]:
    """Memory at rest, and after `before` and `REQUESTS` more; in between it is looked at again and again."""
    requests = QUICK_REQUESTS if stage.quick else REQUESTS
    before = min(before, requests)
    say(f"{NAME}: {server.name}, {before + requests:,} requests")
    for other in others:
        other.freeze()
    try:
        process = (children(server.pid) or [server.pid])[0]
        rest, all_rest = resident_mib(process), family_mib(server.pid)
        samples = []
        while server.sent < before + requests:
            bench.send(server, CALLS, 0.15 if stage.quick else 1.0)
            server.settle()
            samples.append((server.sent, resident_mib(process)))
        late = [sample for sample in samples if sample[0] >= before]
        return {
            "rest_mib": round(rest, 1), "all_rest_mib": round(all_rest, 1), "after_mib": round(samples[-1][1], 1),
            "all_after_mib": round(family_mib(server.pid), 1), "requests": server.sent, "growth_mib": _growth(late),
            "samples": [(sent, round(mib, 1)) for sent, mib in samples],
        }  # fmt: skip
    finally:
        for other in others:
            other.thaw()


def _growth(samples: list[tuple[int, float]]) -> float:
    """MiB in 100,000 requests."""
    if len(samples) < 2:
        return 0.0
    slope, _ = linear_regression([sent for sent, _ in samples], [mib for _, mib in samples])
    return round(slope * 100_000, 2)


# ── what it comes to ──


def claims(result: dict[str, Any]) -> list[Claim]:
    start, rest = median(result["start_s"]), result["figures"]["muxx"]["rest_mib"]
    growth = result["figures"][SmallCache.name]["growth_mib"]
    return [
        Claim(f"A first answer within {MOST_START_S:g} s of the start", f"{start:.2f} s", start < MOST_START_S),
        Claim(f"A worker resident with less than {MOST_REST_MIB:g} MiB at rest", f"{rest:.0f} MiB", rest < MOST_REST_MIB),
        Claim(f"A growth below {MOST_GROWTH_MIB:g} MiB in 100,000 requests", f"{growth:.2f} MiB", growth < MOST_GROWTH_MIB),
    ]


def tables(result: dict[str, Any]) -> list[Table]:
    columns = ("MiB", "at rest", "after the requests", "all processes at rest", "all after the requests", "requests")
    rows = [
        (shown, *(f"{one[field]:.0f}" for field in ("rest_mib", "after_mib", "all_rest_mib", "all_after_mib")), f"{one['requests']:,}")
        for name, shown in SHOWN.items()
        if (one := result["figures"].get(name))
    ]
    return [Table("Resident in the process that carries requests, and in all of the gateway's, where what they share counts once:", columns, rows)]


def remarks(result: dict[str, Any]) -> list[str]:
    return []

"""The figures in plain words: a table, sentences an operator can act on, and what on this machine stands in muxx's way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from ..server import MOST_CALLS
from .measuring import BUSY, Figures
from .running import Circumstances

ANSWER_SECONDS = 2
"""What an answer of a model takes, for the example."""
WAITING_MS = 1.0
"""A sync from which on it is most of what a request with durability "power" takes."""
SLOW_DISK_MS = 20.0
BUSY_SHARE = 0.1
"""Of the cores, in the hands of others."""
APART = 0.3
"""Rounds of a quiet machine are closer together."""
HELD_BACK_SHARE = 0.02

COLUMNS = ("", "direct", "muxx", "added")


class Warning(NamedTuple):
    """Something that makes muxx slower here, or the figures doubtful, and what to do about it."""

    name: str
    text: str


def setting(about: Circumstances) -> str:
    """What was measured."""
    loop = "uvloop" if about.uvloop else "asyncio"
    file = about.config or "built-in defaults"
    return (
        f"One worker of muxx {about.version} on {about.python} and {loop}, with {file}, durability {about.durability!r}, and the "
        f"plugins {', '.join(about.plugins)}.\n"
    )


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """The table."""
    compared = {"a request, 1 connection": figures.request, "a token of a stream": figures.event}
    for title, found in compared.items():
        if found is not None:
            yield f"{title}, p50 ms", _ms(found.direct.p50_ms), _ms(found.muxx.p50_ms), _ms(found.added.p50_ms)
            yield f"{title}, p99 ms", _ms(found.direct.p99_ms), _ms(found.muxx.p99_ms), _ms(found.added.p99_ms)
    if figures.hit is not None:
        yield "an answer from the cache, p50 ms", "", _ms(figures.hit.p50_ms), ""
        yield "an answer from the cache, p99 ms", "", _ms(figures.hit.p99_ms), ""
    yield f"requests/s, {BUSY} connections", f"{figures.direct_per_s:,.0f}", f"{figures.muxx_per_s:,.0f}", ""
    if figures.cpu_us is not None:
        yield "CPU of a request, µs", "", f"{figures.cpu_us:.0f}", ""
        yield "requests/s that one core serves", "", f"{figures.per_core:,.0f}", ""
    if figures.hit_cpu_us is not None:
        yield "CPU of an answer from the cache, µs", "", f"{figures.hit_cpu_us:.0f}", ""
    yield "requests", "", f"{figures.requests:,}", ""
    if figures.rows is not None:
        yield "rows in the log", "", f"{figures.rows:,}", ""


def verdict(figures: Figures, most_calls: int) -> Iterator[str]:
    """What the figures mean, a sentence each."""
    added = figures.request.added
    yield f"muxx adds {_ms(added.p50_ms)} ms to a request, and {_ms(added.p99_ms)} ms to the slowest in a hundred."
    yield _capacity(figures.per_core, most_calls)
    if figures.event is not None:
        yield f"A token of a stream is delayed by {_ms(figures.event.added.p50_ms)} ms."
    if figures.hit is not None:
        yield f"An answer from the cache takes {_ms(figures.hit.p50_ms)} ms."
    else:
        yield "The cache answered nothing: it is off, or a plugin keeps it from answering."
    if figures.rows is not None:
        yield f"All {figures.requests:,} requests have their row in the log."
    else:
        yield "No plugin keeps rows, so what was asked is in no log."


def _capacity(per_core: float, most_calls: int) -> str:
    in_flight = _rounded(per_core * ANSWER_SECONDS)
    limited = f", of which a worker takes {max(0, most_calls):,}" if in_flight > most_calls else ""
    return (
        f"One core serves {_rounded(per_core):,} requests/s: at {ANSWER_SECONDS} s per answer that is {in_flight:,} calls in "
        f"flight{limited}."
    )


def _rounded(value: float) -> int:
    """To two digits: more would promise too much."""
    return int(float(f"{value:.2g}"))


def warnings(figures: Figures, about: Circumstances) -> list[Warning]:
    """What stands in the way, the worst for the figures first."""
    return [*_doubts(figures, about), *_hindrances(figures, about)]


def _doubts(figures: Figures, about: Circumstances) -> Iterator[Warning]:
    """What makes the figures say less than they seem to."""
    others = figures.others_cores
    if others is not None and others > BUSY_SHARE * about.cores:
        who = f", most of it by {figures.busiest!r}" if figures.busiest else ""
        text = f"Other processes kept {others:.1f} of {about.cores} cores busy{who}. Measure again when they rest."
        yield Warning("busy", text)
    if figures.spread > APART:
        text = f"The rounds are {figures.spread:.0%} apart, so something disturbed them. Measure again, or longer with --seconds."
        yield Warning("noise", text)
    if about.cores == 1:
        text = "There is one core, which the load was made on too. With more of them a worker serves more than it did here."
        yield Warning("cores", text)
    if figures.cpu_us is None:
        text = (
            "Without /proc nobody can say how much CPU a request takes: what a core serves is what came through here, "
            "beside the load."
        )
        yield Warning("proc", text)
    if figures.changed:
        text = f"{figures.changed:,} answers had another text than the provider's: a plugin changes them. Nobody checked it."
        yield Warning("changed", text)
    if about.elsewhere is not None:
        text = f"The database's folder cannot be written to, so the disk of {about.elsewhere} was used. Run this as muxx's user."
        yield Warning("folder", text)


def _hindrances(figures: Figures, about: Circumstances) -> Iterator[Warning]:
    """What makes muxx slower than it could be, or takes less than it could."""
    if about.debugging:
        yield Warning("debug", f"Debugging is on, which makes Python slow: {', '.join(about.debugging)}. Switch it off.")
    if not about.uvloop:
        text = "uvloop is not installed, and without it streams take an eighth more CPU. Install it: pip install uvloop."
        yield Warning("uvloop", text)
    yield from _of_disk(about)
    if about.most_calls < MOST_CALLS:
        text = (
            f"A worker takes {max(0, about.most_calls):,} calls at a time, for a process may open {about.files:,} files here. "
            "Raise the hard limit: `ulimit -Hn 65536`, or LimitNOFILE=65536 in its systemd unit."
        )
        yield Warning("files", text)
    yield from _of_quota(figures, about)
    if about.workers > max(1, about.cores if about.quota is None else about.quota):
        cores = f"{about.cores if about.quota is None else about.quota:g}"
        text = f'[server] workers is {about.workers}, which share the time of {cores} cores. Set it to "auto".'
        yield Warning("workers", text)
    if about.proxied:
        text = (
            "A proxy stands between muxx and providers, so they are called with aiohttp's client, which takes more CPU than the "
            "lean one. Those that NO_PROXY names are called directly."
        )
        yield Warning("proxy", text)


def _of_disk(about: Circumstances) -> Iterator[Warning]:
    if about.durability == "power" and about.sync_ms >= WAITING_MS:
        text = (
            f'With durability = "power" an answer waits for the disk, and a sync takes {_ms(about.sync_ms)} ms here. A disk with '
            'a battery for its cache is faster; durability = "crash" does not wait.'
        )
        yield Warning("disk", text)
    elif about.sync_ms >= SLOW_DISK_MS:
        text = (
            f"The disk is slow: a sync takes {_ms(about.sync_ms)} ms. No request waits for it, but rows come later, and "
            'durability = "power" would wait.'
        )
        yield Warning("disk", text)


def _of_quota(figures: Figures, about: Circumstances) -> Iterator[Warning]:
    if about.throttled_s > HELD_BACK_SHARE * figures.seconds:
        text = (
            f"The control group held muxx and the load back for {about.throttled_s:.1f} s, which is in the slowest requests. "
            "Give the container more CPU."
        )
        yield Warning("throttled", text)
    if about.quota is not None and about.quota < about.cores:
        text = (
            f"The control group gives this container the time of {about.quota:g} of {about.cores} cores. More of them serve "
            'more, with workers = "auto".'
        )
        yield Warning("quota", text)


def as_json(figures: Figures, about: Circumstances) -> dict[str, Any]:
    """Everything, for machines."""
    found: dict[str, Any] = _short(asdict(figures) | {"requests_per_s_per_core": figures.per_core, "connections": BUSY})
    return {
        **found,
        "machine": _short(asdict(about)),
        "verdict": list(verdict(figures, about.most_calls)),
        "warnings": [warning._asdict() for warning in warnings(figures, about)],
    }


def _short(value: Any) -> Any:
    """With no more digits than mean something."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"

"""The machine as far as it bears on the figures: who used how much CPU, how long a sync of the disk takes, what is configured."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..processes import control_groups

PROC = Path("/proc")
SYNCS = 15
SYNC_SECONDS = 1.0
BLOCK = b"\0" * 4096
DEBUG_VARIABLES = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME")


class Process(NamedTuple):
    """What /proc says of one."""

    group: int
    seconds: float
    """Of CPU it has used so far, and its children that have ended."""
    name: str


@dataclass(frozen=True)
class Moment:
    """What had been used up to now. Nothing is known where there is no /proc."""

    processes: Mapping[int, Process]
    busy: float
    """Seconds that the cores this process may run on have worked, for anybody."""
    at: float

    @property
    def known(self) -> bool:
        return bool(self.processes)


@dataclass(frozen=True)
class Use:
    """What was used between two moments, in seconds of CPU; None where nobody can say."""

    groups: Mapping[int, float]
    others: float
    busiest: str | None
    """Of the others, the process that used the most."""
    seconds: float

    def of(self, group: int) -> float:
        return self.groups.get(group, 0.0)


def now(proc: Path = PROC) -> Moment:
    processes = {int(entry.name): found for entry in _numbered(proc) if (found := _process(entry)) is not None}
    return Moment(processes, busy_seconds(os.sched_getaffinity(0), proc), time.monotonic())


def between(start: Moment, end: Moment, ours: tuple[int, ...]) -> Use | None:
    """`ours` are process groups; this process is ours too."""
    if not (start.known and end.known):
        return None
    groups: dict[int, float] = dict.fromkeys(ours, 0.0)
    own, others = 0.0, dict[str, float]()
    for pid, process in end.processes.items():
        used = process.seconds - (start.processes[pid].seconds if pid in start.processes else 0.0)
        if process.group in groups:
            groups[process.group] += used
        elif pid == os.getpid():
            own = used
        else:
            others[process.name] = max(used, others.get(process.name, 0.0))
    foreign = max(0.0, end.busy - start.busy - own - sum(groups.values()))
    busiest = max(others, key=lambda name: others[name], default=None)
    return Use(groups, foreign, busiest if busiest is not None and others[busiest] > 0 else None, end.at - start.at)


def _numbered(proc: Path) -> list[Path]:
    try:
        return [entry for entry in proc.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _process(entry: Path) -> Process | None:
    try:
        before, _, after = (entry / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = after.split()
    return Process(int(fields[2]), sum(map(int, fields[11:15])) / _ticks(), before.partition("(")[2])


def busy_seconds(cores: Iterable[int], proc: Path = PROC) -> float:
    """What all processes together have used of these cores since boot; 0 where nobody can say."""
    try:
        text = (proc / "stat").read_text()
    except OSError:
        return 0.0
    lines = [re.search(rf"^cpu{core} (\d+) (\d+) (\d+) ", text, re.MULTILINE) for core in set(cores)]
    return sum(int(ticks) for line in lines if line for ticks in line.groups()) / _ticks()


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def throttled() -> float:
    """Seconds for which the control groups have held this process and its neighbours back so far."""
    held = 0
    for group in control_groups():
        try:
            found = re.search(r"^throttled_usec (\d+)$", (group / "cpu.stat").read_text(), re.MULTILINE)
        except OSError:
            continue
        held = max(held, int(found[1]) if found else 0)
    return held / 1e6


def sync_ms(directory: Path) -> float:
    """How long it takes until a block written there is on the disk: the median of a few."""
    taken: list[float] = []
    fd = os.open(directory / "sync", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while len(taken) < SYNCS and sum(taken) < SYNC_SECONDS:
            os.write(fd, BLOCK)
            started = time.monotonic()
            os.fdatasync(fd)
            taken.append(time.monotonic() - started)
    finally:
        os.close(fd)
    return statistics.median(taken) * 1000


def debugging() -> list[str]:
    """What is switched on that is for developers, and slows Python down."""
    found = [f"${name}" for name in DEBUG_VARIABLES if os.environ.get(name)]
    if hasattr(sys, "gettotalrefcount"):
        found.append("a debug build of Python")
    return found

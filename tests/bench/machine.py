"""The machine: which core is whose, what processes cost in CPU, and what it all ran on. Linux only, for /proc."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("muxx", "aiohttp", "httptools", "orjson", "aiosqlite", "uvloop")
PROGRAMS = {"nginx": "-v", "litellm": "--version", "haproxy": "-v"}
"""Others that take part, and how each is asked for its version."""


def cores() -> tuple[int, int]:
    """The core of the gateways, and the other one, for upstream, load and this process. Equal where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


@contextmanager
def on_core(*cores: int) -> Iterator[None]:
    """Processes started in here, with all their threads and children, run on these alone, mostly a single one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its living descendants, threads included."""
    return sum(_own_seconds(member) for member in family(pid))


def family(pid: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        member = waiting.pop()
        found.append(member)
        waiting += children.get(member, [])
    return found


def children(pid: int) -> list[int]:
    """Its living children, the eldest first. Of muxx's supervisor those are the workers, the keeper and the recorder."""
    return sorted(member for member in family(pid) if member != pid and int(_stat(member)[1]) == pid)


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """Memory of one process, now, or at most so far with `VmHWM`."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def family_mib(pid: int) -> float:
    """Memory of a process and all its descendants, what they share counted once."""
    return sum(_proportional_kib(member) for member in family(pid)) / 1024


def _proportional_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def open_files() -> int:
    """As many files and sockets as this process and those it starts may open: the limit is raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _own_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold anything; the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def own_seconds() -> float:
    """What this process and those it has waited for have used."""
    return sum(os.times()[:4])


def facts() -> dict[str, Any]:
    """What somebody who compares figures needs to know."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "programs": {name: number for name, command in PROGRAMS.items() if (number := _program_version(name, command))},
    }


def _program_version(name: str, argument: str) -> str | None:
    """The first number with a dot that it says."""
    if shutil.which(name) is None:
        return None
    done = subprocess.run([name, argument], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d[\w.]*", done.stdout + done.stderr)
    return found[0] if found else None


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""Processes of this host, each as one word that no other process ever has: its number and the moment it began; and how many of
them have a core to run on; and how one ends that has not begun its work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a process that an interrupt ended, as a shell gives it."""

_MOMENT_BITS = 40


def _word_of(pid: int) -> int | None:
    """None where there is no such process, or only its remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else pid << _MOMENT_BITS | int(fields[19]) & (1 << _MOMENT_BITS) - 1


@cache
def _own(pid: int) -> int:
    try:
        return _word_of(pid) or pid << _MOMENT_BITS
    except OSError:
        return pid << _MOMENT_BITS


def this_process() -> int:
    """The process that calls."""
    return _own(os.getpid())


def lives(word: int) -> bool:
    """Whether the process of that word still runs. True where that cannot be found out now, as without a free file descriptor:
    what a living process holds is never given away."""
    try:
        return _word_of(word >> _MOMENT_BITS) == word
    except OSError:
        return True


@contextmanager
def interruptible_at_once() -> Iterator[None]:
    """Inside, an interrupt ends the process, without a word. For what opens nothing, imports modules and builds classes: where
    Python raises `KeyboardInterrupt` in there, others make errors of their own of it, and extensions may even crash."""
    asked = signal.getsignal(signal.SIGINT)
    if asked is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, asked)


GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores(groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """How many cores this process may keep busy: those it may run on, as far as its control groups give it their time."""
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota(groups, own)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def cpu_quota(groups: Path = GROUPS, own: Path = OWN_GROUP) -> float | None:
    """How many cores' time the control groups give this process; None where they do not limit it."""
    quotas = (_quota(directory / "cpu.max") for directory in control_groups(groups, own))
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(groups: Path = GROUPS, own: Path = OWN_GROUP) -> list[Path]:
    """The process's group and all it is part of. Nothing where there are none, or none of the second version."""
    try:
        path = next(line[3:].strip("/") for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = groups / path
    return [group, *(parent for parent in group.parents if parent.is_relative_to(groups))]


def _quota(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return None

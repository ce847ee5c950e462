"""Processes of this host, each as one word that no other process ever has: its number and the moment it began."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_MOMENT_BITS = 40


def _word_of(pid: int) -> int | None:
    """None where there is no such process, or only its remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else pid << _MOMENT_BITS | int(fields[19]) & (1 << _MOMENT_BITS) - 1


@cache
def _own(pid: int) -> int:
    return _word_of(pid) or pid << _MOMENT_BITS


def this_process() -> int:
    """The process that calls."""
    return _own(os.getpid())


def lives(word: int) -> bool:
    """Whether the process of that word still runs."""
    return _word_of(word >> _MOMENT_BITS) == word

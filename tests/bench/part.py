"""What the bench is made of: parts, each of which can be measured alone, shown, and held to what it promises."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .machine import cores
from .server import Upstream
from .tools import Tools

DOCS_PATH = "docs/performance.md"
DOCS = Path(__file__).parents[2] / DOCS_PATH


@dataclass(frozen=True)
class Table:
    """Rows under columns; all but the first are figures."""

    words: str
    """What it shows, in Markdown, to stand before it."""
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Claim:
    """What was promised, what came out, and whether that is enough."""

    promised: str
    measured: str
    held: bool

    def __str__(self) -> str:
        return f"{self.promised} {'holds' if self.held else 'DOES NOT HOLD'}: {self.measured}."


@dataclass(frozen=True)
class Stage:
    """Where parts are measured, and how thoroughly."""

    directory: Path
    tools: Tools
    loops: tuple[str, ...]
    """Event loops of muxx and the pass-through; parts that measure one only take the first."""
    rounds: int
    seconds: float
    """Load per measurement."""
    quick: bool
    """Whether it is enough to show that it works."""

    @property
    def tries(self) -> int:
        """How often a measurement is made at most, to find a moment when nothing else runs on the machine."""
        return 1 if self.quick else 3

    @contextmanager
    def upstream(self) -> Iterator[tuple[Path, Upstream]]:
        """A fresh directory and, on the core that is not the gateways', a provider."""
        _, other_core = cores()
        with (
            tempfile.TemporaryDirectory(dir=self.directory) as name,
            Upstream(Path(name), other_core, self.tools.upstream) as upstream,
        ):
            yield Path(name), upstream

    def each_round(self, directory: Path, title: str) -> Iterator[tuple[int, Path]]:
        """The number of each round from 0, with a directory of its own."""
        for number in range(self.rounds):
            say(f"{title}: round {number + 1} of {self.rounds}")
            with tempfile.TemporaryDirectory(dir=directory) as name:
                yield number, Path(name)


def say(text: str) -> None:
    """Progress, as it is made."""
    print(text, file=sys.stderr, flush=True)


class Part(Protocol):
    """A module of its own: see `PARTS`."""

    NAME: str
    TITLE: str
    WORDS: str
    """What is measured, and how, in Markdown."""

    def measured(self, stage: Stage) -> dict[str, Any]:
        """All of it, as plain data."""

    def tables(self, result: dict[str, Any]) -> list[Table]:
        """The figures."""

    def claims(self, result: dict[str, Any]) -> list[Claim]:
        """What they were held to."""

    def remarks(self, result: dict[str, Any]) -> list[str]:
        """What else is to be said of them."""

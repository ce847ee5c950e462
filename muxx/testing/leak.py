"""Finding secrets where they must not be: plant canaries, run the suite, then search everything it left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Leak:
    """One canary found at one place: a file's path, or `data[n]` for the n-th bytes or text searched."""

    canary: str
    place: str
    offset: int


def find(canaries: Iterable[str], *where: Path | bytes | str) -> list[Leak]:
    """Every occurrence's first offset per canary and place. Directories are searched whole, databases and journals included.

    A `str` is text to search, not a path. A file that vanishes during the search was not left behind, so it is passed over.
    """
    needles = [(canary, canary.encode()) for canary in canaries]
    if not all(needle for _, needle in needles):
        raise ValueError("an empty canary would be found everywhere")
    return [
        Leak(canary, place, data.index(needle))
        for place, data in _contents(where)
        for canary, needle in needles
        if needle in data
    ]


def _contents(where: Iterable[Path | bytes | str]) -> Iterator[tuple[str, bytes]]:
    for number, thing in enumerate(where):
        if isinstance(thing, Path):
            yield from _files(thing)
        else:
            yield f"data[{number}]", thing.encode("utf-8", "surrogatepass") if isinstance(thing, str) else thing


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.exists():
        raise FileNotFoundError(f"nothing to search at {path}")
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            if file.is_file():
                yield str(file), file.read_bytes()
        except FileNotFoundError:
            continue

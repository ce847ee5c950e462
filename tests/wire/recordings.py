"""Streams for the tests: small ones of our own making, and the recordings that MUXX_STREAMS points to."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

GOLDENS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "goldens").glob("*.sse"))}

_STREAMS = os.environ.get("MUXX_STREAMS", "")


def recordings(kind: str | None = "openai-chat") -> list[Path]:
    """The recordings of a kind, of all kinds for None; skips the test when there are none."""
    index = Path(_STREAMS) / "index.json"
    if not _STREAMS or not index.is_file():
        pytest.skip("MUXX_STREAMS does not name a directory of recorded streams")
    rows = json.loads(index.read_text())
    return [Path(_STREAMS) / row["file"] for row in rows if kind in (None, row["kind"])]


def cuts(data: bytes, seed: int) -> Iterator[bytes]:
    """`data` in pieces: one seed, one way of cutting, from single bytes to whole kilobytes."""
    dice = random.Random(seed)
    largest = dice.choice([1, 2, 7, 60, 1500, 20000])
    at = 0
    while at < len(data):
        size = dice.randint(1, largest)
        yield data[at : at + size]
        at += size

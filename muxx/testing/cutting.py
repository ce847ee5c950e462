"""Cutting bytes the way networks do: anywhere. What is cut is never changed: joined, the pieces are the data again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

SIZES = (1, 7, 64, 512, 4096, 65536)
"""Upper bounds of piece sizes, from byte by byte to larger than most events; the seed draws one of them per chunking."""


def cuts(data: bytes, seed: int, sizes: Sequence[int] = SIZES) -> Iterator[bytes]:
    """One chunking of `data`, the same for the same seed. Seeds differ in how large their pieces are, and in where they cut."""
    draw = random.Random(seed)
    largest = draw.choice(sizes)
    start = 0
    while start < len(data):
        end = start + draw.randint(1, largest)
        yield data[start:end]
        start = end


def every_cut(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`data` in two pieces, once for every position between two of its bytes."""
    for position in range(1, len(data)):
        yield data[:position], data[position:]

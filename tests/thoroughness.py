"""How much of what could be tried is tried: a share of it in `make test`, all of it in `make soak`.

A share is drawn by a fixed seed, so that what failed once fails again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

WHOLE = os.environ.get("MUXX_TESTS") == "whole"


def some(items: Iterable[T], share: float = 0.2, least: int = 20) -> list[T]:
    """A share of the items, in their order; `least` or more, where there are as many."""
    found = list(items)
    if WHOLE:
        return found
    count = min(len(found), max(least, round(len(found) * share)))
    return [found[at] for at in sorted(random.Random(count).sample(range(len(found)), count))]


def examples(count: int) -> int:
    """How many examples hypothesis makes up, of so many."""
    return count if WHOLE else max(5, count // 4)

"""The operator's own patterns and texts, checked before they ever see a request.

A pattern has to say how long its longest match is, because so much of an answer is held back for it; and it must not be able to
take long, because it runs on what anybody sends. Both are read off the parsed pattern. What is wrong is said without quoting it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .detectors import Detector
from .tails import Open, open_last, open_literal

LONGEST = 1000
"""Characters the longest match of a pattern may have, look-aheads included."""
BEHIND = 32
"""Characters that have left an answer and are still shown: as far as a `muxx.TextWindow` lets a look-behind see."""
MOST_STEPS = 20_000
"""What a pattern may have to try at one place of a text. Every detector of ours keeps to it too."""

_NO_END = 2**32 - 1
"""As many repeats or more are written as `*`, `+` or `{n,}`."""

_parser: Any = importlib.import_module("re._parser")


def checked_pattern(source: str) -> str:
    """`source`, when it may be used; `ValueError` says what to change."""
    try:
        re.compile(source)
        tree = _parser.parse(source)
    except (re.error, OverflowError, RecursionError) as error:
        where = f" at position {error.pos}" if isinstance(error, re.error) and error.pos is not None else ""
        raise ValueError(f"is no regular expression of Python's: something is wrong{where}") from None
    shortest, longest = tree.getwidth()
    if not shortest:
        raise ValueError("matches the empty text; it has to match at least one character")
    if longest >= _NO_END:
        raise ValueError("has no longest match: give every *, + and {n,} an upper end, e.g. {1,40}")
    if reach(source) > LONGEST:
        raise ValueError(f"matches up to {reach(source)} characters; an answer is held back for at most {LONGEST}")
    if max(_looks(tree, behind=True), default=0) > BEHIND:
        raise ValueError(f"looks back over more than {BEHIND} characters; of an answer those before have left by then")
    if steps(source) > MOST_STEPS:
        raise ValueError(
            f"may take more than {MOST_STEPS} steps at every place of a text: make its repeats shorter, or possessive ({{1,40}}+)"
        )
    return source


def reach(source: str) -> int:
    """How far from where a match begins the pattern may look: its length, its look-aheads, and one sign for `\\b` and `$`."""
    tree = _parser.parse(source)
    return int(tree.getwidth()[1]) + sum(_looks(tree, behind=False)) + 1


def _looks(node: Any, *, behind: bool) -> Iterator[int]:
    """How far each of the looks ahead, or behind, may see."""
    for op, value in node:
        if str(op) in ("ASSERT", "ASSERT_NOT") and (value[0] < 0) is behind:
            yield int(value[1].getwidth()[1])
        for child in _children(str(op), value):
            yield from _looks(child, behind=behind)


def _children(op: str, value: Any) -> Iterable[Any]:
    if op == "BRANCH":
        return list(value[1])
    if op == "ATOMIC_GROUP":
        return [value]
    if op == "GROUPREF_EXISTS":
        return [child for child in value[1:] if child is not None]
    nested = op in ("SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT", "ASSERT", "ASSERT_NOT")
    return [value[-1]] if nested else []


def steps(source: str) -> int:
    """More than the matcher can ever have to try from one place: repeats and alternatives multiply, possessive ones add up."""
    return _work(_parser.parse(source))[1]


def _work(node: Any) -> tuple[int, int]:
    """(ways, steps) of a sequence: in how many ways it can match from one place, and the steps it takes to try them all."""
    ways, total = 1, 0
    for op, value in node:
        item_ways, item_steps = _work_of_item(str(op), value)
        total = min(total + ways * item_steps, _NO_END)
        ways = min(ways * item_ways, _NO_END)
    return ways, total


def _work_of_item(op: str, value: Any) -> tuple[int, int]:
    works = [_work(child) for child in _children(op, value)]
    if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, _ = value
        return _work_of_repeat(int(least), int(most), *works[0], possessive=op == "POSSESSIVE_REPEAT")
    total = sum(work[1] for work in works) or 1
    if op in ("ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
        return 1, total
    return sum(work[0] for work in works) or 1, total


def _work_of_repeat(least: int, most: int, ways: int, total: int, *, possessive: bool) -> tuple[int, int]:
    if possessive or (ways == 1 and least == most):
        return 1, min(most * total, _NO_END)
    if ways == 1:
        return most - least + 1, min(most * total, _NO_END)
    every = ways ** min(most, 64)  # more than 64 repeats of something with two ways are more than anybody allows
    return min(every * 2, _NO_END), min(every * 2 * total, _NO_END)


def pattern_detector(name: str, source: str) -> Detector:
    """A detector of what the operator's pattern matches."""
    pattern, longest = re.compile(source), reach(source)
    return _own(name, pattern, open_last(longest), longest)


def literal_detector(name: str, literals: Iterable[str]) -> Detector:
    """A detector of some texts, the longest first where one begins with another."""
    texts = tuple(sorted(literals, key=len, reverse=True))
    pattern = re.compile("|".join(map(re.escape, texts)))
    longest = len(texts[0])
    return _own(name, pattern, open_literal(texts), longest)


def _own(name: str, pattern: re.Pattern[str], open_: Open, longest: int) -> Detector:
    return Detector(
        name, lambda text, start: (m.span() for m in pattern.finditer(text, start)), (open_,), longest, as_written=True
    )

"""Which names a row of the table stands for: a small rule language with no regular expressions in it.

Model names come from clients, so matching one must take time linear in its length whatever it holds. A rule is a JSON array:
`["is", …]`, `["starts", …]`, `["ends", …]` and `["has", …]` hold when any of their strings does; `["like", …]` is `is` with `#`
for one ASCII digit and a final `*` for anything; `["or", rule…]`, `["and", rule…]` and `["not", rule]` combine. Names are
compared in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

Matcher = Callable[[str], bool]

_COMPACT_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)(?=-|:|$)", re.ASCII)


def compile_rule(rule: Any) -> Matcher:
    """The rule as a predicate on a lower-case name; `ValueError` when it is no rule."""
    match rule:
        case ["is" | "starts" | "ends" | "has" | "like" as kind, *words] if words and all(isinstance(w, str) for w in words):
            return _leaf(kind, tuple(words))
        case ["or" | "and" as kind, *rules] if rules:
            parts = [compile_rule(r) for r in rules]
            joined = any if kind == "or" else all
            return lambda name: joined(part(name) for part in parts)
        case ["not", inner]:
            negated = compile_rule(inner)
            return lambda name: not negated(name)
    raise ValueError(f"not a matching rule: {rule!r}")


def _leaf(kind: str, words: tuple[str, ...]) -> Matcher:
    if kind == "is":
        return frozenset(words).__contains__
    if kind == "starts":
        return lambda name: name.startswith(words)
    if kind == "ends":
        return lambda name: name.endswith(words)
    if kind == "has":
        return lambda name: any(word in name for word in words)
    return lambda name: any(_is_like(word, name) for word in words)


def _is_like(template: str, name: str) -> bool:
    if template.endswith("*"):
        template = template[:-1]
        name = name[: len(template)]
    if len(template) != len(name):
        return False
    return all(c in "0123456789" if t == "#" else t == c for t, c in zip(template, name, strict=True))


def with_dashed_date(name: str) -> str:
    """`gpt-5.2-20251211` as `gpt-5.2-2025-12-11`, for routers that write dates without dashes."""
    return _COMPACT_DATE.sub(_dashed, name)


def _dashed(found: re.Match[str]) -> str:
    try:
        return f"-{date(*map(int, found.groups()))}"
    except ValueError:
        return found.group()


def glob(pattern: str) -> Matcher:
    """A name pattern of the configuration: `*` stands for anything, every other character for itself, case apart."""
    first, *rest = pattern.lower().split("*")
    if not rest:
        return lambda name: name == first
    *middle, last = rest

    def matches(name: str) -> bool:
        if not name.startswith(first):
            return False
        at = len(first)
        for piece in middle:
            found = name.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        return len(name) - at >= len(last) and name.endswith(last)

    return matches

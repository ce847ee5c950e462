"""genai-prices' matching clauses, turned into the rules of `match.py`.

Its few regular expressions are of two shapes: a name with dates or digits in it, and "not a speech model". They are translated
exactly; any other is refused, so that no expression from outside ever runs on a name that a client chose.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .source import SourceError

Rule = list[Any]

_LEAVES = {"equals": "is", "starts_with": "starts", "ends_with": "ends", "contains": "has"}
_WITHOUT = re.compile(r"\^\(\?!\.\*(?P<body>.+)\(\?:\$\|-\)\)")
_NAME = re.compile(r"\^(?P<body>.+?)(?P<end>\$?)")
_ATOM = re.compile(
    r"(?P<digit>\\d)(?:\{(?P<count>[1-9])\})?|\\(?P<escaped>[.\-/@])|\[(?P<set>[\w@-]+)\]|(?P<plain>[\w@:/-])", re.ASCII
)


def to_rule(clause: Any) -> Rule:
    """The clause as a rule; `SourceError` when it is of a kind that has no safe translation."""
    if not isinstance(clause, Mapping) or len(clause) != 1:
        raise SourceError(f"not a matching clause: {clause!r}")
    ((kind, value),) = clause.items()
    if kind in _LEAVES and isinstance(value, str):
        return [_LEAVES[kind], value.lower()]
    if kind == "regex" and isinstance(value, str):
        return _from_regex(value)
    if kind in ("or", "and") and isinstance(value, list | tuple) and value:
        rules = [to_rule(part) for part in value]
        return _any_of(rules) if kind == "or" else ["and", *rules]
    raise SourceError(f"not a matching clause: {clause!r}")


def _any_of(rules: Iterable[Rule]) -> Rule:
    """One rule for all, alternatives of a kind gathered into one leaf."""
    leaves: dict[str, list[str]] = {}
    others: list[Rule] = []
    for kind, *rest in rules:
        if kind in ("or", "and", "not"):
            others.append([kind, *rest])
        else:
            leaves.setdefault(kind, []).extend(rest)
    parts = [[kind, *dict.fromkeys(words)] for kind, words in leaves.items()] + others
    return parts[0] if len(parts) == 1 else ["or", *parts]


def _from_regex(regex: str) -> Rule:
    if found := _WITHOUT.fullmatch(regex):
        words = _spellings(found["body"], regex)
        return ["not", ["or", ["ends", *words], ["has", *(f"{word}-" for word in words)]]]
    if found := _NAME.fullmatch(regex):
        return ["like", *(name if found["end"] else f"{name}*" for name in _spellings(found["body"], regex))]
    raise SourceError(f"no safe translation for the regular expression {regex!r}")


def _spellings(body: str, regex: str) -> list[str]:
    """Every lower-case name the body stands for, `#` for a digit."""
    choices: list[list[str]] = []
    at = 0
    while at < len(body):
        atom = _ATOM.match(body, at)
        if atom is None or (atom["set"] and re.search(r".-.", atom["set"])):
            raise SourceError(f"no safe translation for the regular expression {regex!r}")
        if atom["digit"]:
            choices.append(["#" * int(atom["count"] or 1)])
        elif atom["set"]:
            choices.append(list(dict.fromkeys(atom["set"].lower())))
        else:
            choices.append([(atom["escaped"] or atom["plain"]).lower()])
        at = atom.end()
    return ["".join(parts) for parts in itertools.product(*choices)]

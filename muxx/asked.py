"""How much output a request asks for at most, in any format's words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, isfinite
from typing import Any, NamedTuple

LARGEST = 2**53
"""More than anybody asks for, in a number that is no integer."""

LONGEST_NUMBER = 4300
"""Digits that Python makes an integer of, and so those who serve open models."""

_MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_CHOICES = ("n", "best_of", "candidateCount", "candidate_count")
_INNER = ("generationConfig", "generation_config")


class AskedOutput(NamedTuple):
    """`tokens` of one answer, 0 where the request names no most; `choices`, how many answers it asks for, of all its prompts
    together. Never below zero."""

    tokens: int
    choices: int


def asked_output(body: Mapping[str, Any]) -> AskedOutput:
    """The most output that a request's body allows, whichever endpoint it is for."""
    inner = next((value for name in _INNER if isinstance(value := body.get(name), dict)), {})
    holders = (body, inner) if inner else (body,)
    most, choices = _numbers(holders, _MOST), _numbers(holders, _CHOICES)
    unbounded = min(most, default=0) < 0  # -1 is how those who serve open models say so
    answers = max([1, *choices]) * prompts(body.get("prompt"))  # servers of open models take more than OpenAI's 128
    return AskedOutput(0 if unbounded else max(most, default=0), answers)


def prompts(value: Any) -> int:
    """How many prompts a completion's `prompt` holds: each is answered by itself."""
    return len(value) if type(value) is list and value and type(value[0]) is not int else 1


def _numbers(holders: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> list[int]:
    """The values of these members, of those that there are."""
    found = [value for holder in holders for name in names if (value := holder.get(name)) is not None]
    return [value if type(value) is int else _read(value) for value in found]


def _read(value: Any) -> int:
    """A number in another form, as a lenient provider reads it: `8.0` and `"8"` are 8; 0 for what is none."""
    if type(value) is str and len(value) <= LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return 0
    return min(ceil(value), LARGEST) if type(value) is float and isfinite(value) else 0

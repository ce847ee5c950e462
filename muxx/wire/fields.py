"""What the requests of all formats are checked with, and how text is found in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from orjson import dumps

from ..errors import InvalidRequest
from ..request import Part

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""A control character, which no model's name holds."""
MAX_MODEL_LENGTH = 256


class Rule(NamedTuple):
    """What a field of a request may hold, and what the refusal tells the caller to send."""

    holds: Callable[[Any], bool]
    advice: str


def check(body: dict[str, Any], required: Mapping[str, Rule], optional: Mapping[str, Rule]) -> None:
    """Raise `InvalidRequest` naming a field that is missing or wrong: a required one first, then by name.

    An optional field may be null, which says the same as leaving it out.
    """
    for field, rule in required.items():
        if field not in body:
            raise InvalidRequest(f"'{field}' is missing. {rule.advice}", code="missing_field", param=field)
        if not rule.holds(body[field]):
            raise _wrong(field, rule)
    for field in sorted(optional.keys() & body.keys()):
        value = body[field]
        if value is not None and not optional[field].holds(value):
            raise _wrong(field, optional[field])


def _wrong(field: str, rule: Rule) -> InvalidRequest:
    return InvalidRequest(f"'{field}' has the wrong type or value. {rule.advice}", code="invalid_type", param=field)


def _is_model(value: Any) -> bool:
    fits = type(value) is str and 0 < len(value) <= MAX_MODEL_LENGTH
    return fits and (value.isprintable() or CONTROL.search(value) is None)


def is_string(value: Any) -> bool:
    return type(value) is str


def is_array(value: Any) -> bool:
    return type(value) is list


def at_least(least: int) -> Callable[[Any], bool]:
    """Holds for integers from `least` on; true and 1.0 are no integers."""
    return lambda value: type(value) is int and value >= least


MODEL = Rule(
    _is_model,
    f'Give a model name: a string of 1 to {MAX_MODEL_LENGTH} characters without control characters, e.g. "gpt-4o".',
)
TEMPERATURE = Rule(lambda value: type(value) in (int, float) and 0 <= value <= 2, "Give a number from 0 to 2, or leave it out.")
STREAM = Rule(lambda value: type(value) is bool, "Give true or false, or leave it out.")
TOOLS = Rule(is_array, "Give an array of tool definitions, or leave it out.")

Place = tuple[str, str, str, Any, Any]
"""role, kind, path, and the container and key under which the text stands."""


def part_at(place: Place) -> Part:
    role, kind, path, container, key = place
    return Part(role, kind, path, partial(container.__getitem__, key), partial(container.__setitem__, key))


def definition_bytes(body: dict[str, Any]) -> int:
    """Bytes of the definitions of tools."""
    return sum(len(dumps(body[field])) for field in ("tools", "functions") if body.get(field))

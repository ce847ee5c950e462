"""Signatures that muxx sealed for a client of another format, come back to a provider that never made them.

It happens where one conversation is answered by providers of two formats: by fallback, or because its user changes the model. The
other provider would refuse them. On the way to a provider of the client's own format they are the one thing that is taken out.
"""

from __future__ import annotations

import re
from typing import Any

from .prompt import is_sealed

_SEAL_MARK = re.compile(rb'"bXV4eD')
"""How a sealed value begins in JSON. In a long prompt `in` takes twice as long to look for it."""

_ITEMS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning.text", "reasoning.encrypted"})
"""Types of entries that are nothing without their signature."""


def may_hold_seals(payload: bytes) -> bool:
    """Whether it pays to look for seals in what this is the JSON of."""
    return _SEAL_MARK.search(payload) is not None


def without_seals(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy without sealed values, and the places they stood at. An entry that only its provider can read goes as a whole."""
    places: list[str] = []
    cleaned: dict[str, Any] = _cleaned(body, "", places)
    return cleaned, places


def _cleaned(value: Any, path: str, places: list[str]) -> Any:
    if type(value) is dict:
        kept = {}
        for name, member in value.items():
            place = f"{path}.{name}" if path else name
            if type(member) is str and is_sealed(member):
                places.append(place)
            else:
                kept[name] = _cleaned(member, place, places)
        return kept
    if type(value) is list:
        entries = []
        for number, entry in enumerate(value):
            place = f"{path}[{number}]"
            if type(entry) is dict and entry.get("type") in _ITEMS and _has_seal(entry):
                places.append(place)
            else:
                entries.append(_cleaned(entry, place, places))
        return entries
    return value


def _has_seal(entry: dict[str, Any]) -> bool:
    return any(type(member) is str and is_sealed(member) for member in entry.values())

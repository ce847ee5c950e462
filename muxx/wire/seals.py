"""Signatures that muxx seals for a client of another format, which come back with its next turn: opened for the provider they are
of, and taken out for one that never made them.

The latter happens where one conversation is answered by providers of two formats: by fallback, or because its user changes the
model. The other provider would refuse them. On the way to a provider of the client's own format they are the one thing that is
taken out.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from typing import Any

_SEAL = "muxx"
_SEALED = "bXV4eD"
"""The seal in base64, as far as it stands whatever follows."""


def sealed(format: str, signature: str) -> str:
    """A provider's signature for a client of another format, which sends it back without looking into it. It is base64, for some
    formats want bytes."""
    return b64encode(f"{_SEAL}:{format}:{signature}".encode()).decode()


def opened(format: str, signature: str | None) -> str | None:
    """The signature as its provider gave it, where that is one of this format; None for another's."""
    parts = _parts(signature) if signature is not None else None
    return parts[1] if parts is not None and parts[0] == format else None


def is_sealed(value: str) -> bool:
    """Whether a value is one that `sealed` made."""
    return value.startswith(_SEALED) and _parts(value) is not None


def _parts(signature: str) -> tuple[str, str] | None:
    """The format and the signature in a seal."""
    try:
        seal, made_by, value = b64decode(signature, validate=True).decode().split(":", 2)
    except (NotBase64, ValueError):
        return None
    return (made_by, value) if seal == _SEAL else None


_SEAL_MARK = re.compile(rb'"' + _SEALED.encode())
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

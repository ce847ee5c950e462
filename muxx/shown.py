"""Text of strangers, shown: whatever it is, it steers neither a terminal, a spreadsheet nor a header. Pure.

Control characters leave as escapes, C1 and bidirectional ones too, so that no value can move a cursor, forge a second line, or
reverse what stands around it.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_BIDI = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f" + _BIDI + "\ufeff\ud800-\udfff]")
_FORMULA = tuple("=+-@＝＋－＠")
"""The wide ones too, which spreadsheets take for the others where such are written."""


def printable(value: Any) -> str:
    """Text fit for a terminal: one line, with escapes for what is unsafe. None is a dash."""
    return "-" if value is None else _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))


def json_line(value: Any) -> str:
    """One line of JSON, fit for a terminal. Unsafe characters occur inside strings only, where their escapes mean the same."""
    return printable(orjson.dumps(value).decode())


def csv_cell(value: Any) -> str:
    """Text for a spreadsheet: JSON for what is not plain, nothing that a spreadsheet would run as a formula. None is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return json_line(value)
    text = printable(value)
    return "'" + text if text.startswith(_FORMULA) else text


MOST_OF_A_PLACE = 100
"""Characters of a place in the caller's request that are told: the names in it are the caller's, and of any length."""


def place_shown(place: str) -> str:
    """A place in the caller's request as messages, rows and headers may name it."""
    if len(place) > MOST_OF_A_PLACE:
        place = place[: MOST_OF_A_PLACE - 3] + "..."
    return place if place.isprintable() else "".join(c if c.isprintable() else "?" for c in place)

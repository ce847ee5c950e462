"""Halves of characters. JavaScript and Java count a character beyond 16 bits as two, and providers written in them cut a text
between the two: then one JSON string ends with the escape `\\ud83d`, and the next one begins with `\\ude00`. Each alone is no
character, and orjson refuses the string that holds it.

Here such JSON is read nevertheless. Only what orjson has refused is looked at, and orjson reads it again with other text in the
place of the halves: whatever else is wrong with it stays wrong.

Invariant: what `loads` and `dumps` return has whole characters only; a half that stands alone becomes U+FFFD.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

import orjson
from orjson import JSONDecodeError, JSONEncodeError

_FIRST, _SECOND = rb"[dD][89abAB][0-9a-fA-F]{2}", rb"[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = re.compile(rb"\\u(?:(%b)(?!\\u%b)|(?<!\\u%b\\u)(%b))" % (_FIRST, _SECOND, _FIRST, _SECOND))
"""The escape of a half without the other one beside it, where backslashes that stand for themselves have been taken out."""

_MAYBE = re.compile(rb"\\u[dD][89a-fA-F]")

_HALF = re.compile("[\ud800-\udfff]")

SPOKEN = frozenset({"delta", "choices", "candidates"})
"""The members of an event that hold pieces of texts, in whatever format."""

_LEVELS = 254
"""So deep orjson writes."""


def may_hold(data: bytes | memoryview) -> bool:
    """JSON that may hold half of a character. Most that does holds both."""
    return (type(data) is memoryview or b"\\u" in data) and _MAYBE.search(data) is not None


def loads(data: bytes | str) -> Any:
    """As `orjson.loads`, but that a half is U+FFFD."""
    try:
        return orjson.loads(data)
    except JSONDecodeError:
        whole_ones = _replaced(data.encode() if isinstance(data, str) else data, rb"\\ufffd")
        if whole_ones is None:
            raise
    return orjson.loads(whole_ones)


def dumps(value: Any) -> bytes:
    """As `orjson.dumps`, of a value of which texts may hold halves."""
    try:
        return orjson.dumps(value)
    except JSONEncodeError:
        return orjson.dumps(_whole_value(value, _LEVELS))


def whole_json(data: bytes) -> bytes:
    """JSON with U+FFFD in the place of halves; the same bytes where it holds none."""
    if not may_hold(data):
        return data
    return _replaced(data, rb"\\ufffd") or data


def whole(text: str) -> str:
    """A text with whole characters: of two halves beside each other the one they are, of any other U+FFFD."""
    if _HALF.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pieces(data: bytes | memoryview) -> dict[str, Any] | None:
    """The JSON of an event that holds halves, with those that begin or end a piece of what is spoken: the other one may be in
    another event. None for any other data."""
    name = secrets.token_hex(8)  # stands before a half while orjson reads: nobody can have said it before
    named = _replaced(bytes(data), name.encode() + rb"\g<1>\g<2>")
    if named is None:
        return None
    try:
        value = orjson.loads(named)
    except JSONDecodeError:
        return None
    if type(value) is not dict:
        return None
    halves = re.compile(f"{name}(.{{4}})")
    for holder, key, text, spoken in _texts(value):
        if name in text:
            text = halves.sub(lambda half: chr(int(half[1], 16)), text)
            holder[key] = _with_edges(text) if spoken else whole(text)
    return value


def begins_with_half(text: str) -> bool:
    """It begins with the second half of a character."""
    return "\udc00" <= text[:1] <= "\udfff"


def ends_with_half(text: str) -> bool:
    """It ends with the first half of a character."""
    return "\ud800" <= text[-1:] <= "\udbff"


def _replaced(data: bytes, by: bytes) -> bytes | None:
    """The JSON with something else in the place of each half; None where there is none."""
    if b"\0" in data:  # in no JSON
        return None
    replaced, count = _LONE.subn(by, data.replace(rb"\\", b"\0\0"))
    return replaced.replace(b"\0\0", rb"\\") if count else None


def _texts(value: dict[str, Any]) -> Iterator[tuple[Any, Any, str, bool]]:
    """Every text of an event: where it stands, and whether it is among what is spoken."""
    holders: list[tuple[Any, bool | None]] = [(value, None)]
    while holders:
        holder, spoken = holders.pop()
        for key, child in list(holder.items() if type(holder) is dict else enumerate(holder)):
            among = key in SPOKEN if spoken is None else spoken
            if type(child) is str:
                yield holder, key, child, among
            elif type(child) is dict or type(child) is list:
                holders.append((child, among))


def _with_edges(text: str) -> str:
    """A text in which halves only stand at the beginning and at the end."""
    start, end = int(begins_with_half(text)), len(text) - ends_with_half(text)
    return text[:start] + whole(text[start:end]) + text[end:]


def _whole_value(value: Any, levels: int) -> Any:
    if type(value) is str:
        return whole(value)
    if not levels:
        return value
    if type(value) is dict:
        return {_whole_value(key, 0): _whole_value(child, levels - 1) for key, child in value.items()}
    if type(value) is list:
        return [_whole_value(child, levels - 1) for child in value]
    return value

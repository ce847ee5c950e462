"""Request bodies: bytes to one JSON object, or a refusal that says what to change.

orjson is strict about syntax, but it makes floats of integers beyond 64 bits, and two million small arrays keep it busy
for the better part of a second. So tokens are counted before it parses, and large numbers are looked for after. Each check
begins with a bound that costs next to nothing and that nearly every body is under; only the others are looked at closely.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from orjson import JSONDecodeError, loads

from ..errors import InvalidRequest
from ..shown import place_shown

_LARGE = float(2**63)
"""orjson makes an integer outside 64 bits a float of at least this size."""

_SCALARS = {str, int, bool, type(None)}
"""What needs no second look."""

MANY = 32
"""Members from which on it pays to ask for all their types at once."""

SMALL = 4096
"""Bytes up to which it pays to look at all of a body for what would make a closer look necessary."""

_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_MANY_DIGITS = b"0" * 19
"""An integer outside 64 bits has at least so many digits."""
_STRIDE = 6
_SOME_DIGITS = b"0" * (len(_MANY_DIGITS) // _STRIDE)
"""So many of them in a row are there, where only every sixth byte is looked at."""

_SLICE = 65536
_PATH_LIMIT = 262144
"""A field's path is looked for in bodies up to this size; in larger ones the refusal does not name it."""


def parse_json_object(data: bytes, *, max_depth: int, max_tokens: int, counted: bool = False) -> dict[str, Any]:
    """Parse a request body. `counted` says that its tokens have been counted already.

    Of duplicate members the last one counts, here and so upstream too. Integers keep all of their 64 bits.
    """
    if not counted and len(data) > max_tokens:  # a token has at least one byte
        for _ in counting(data, max_tokens):
            pass
    try:
        value = loads(data)
    except JSONDecodeError as error:
        raise _refusal(data, error, max_depth) from None
    looks_harmless = len(data) <= SMALL and _brackets(data) <= max_depth and not _has_many_digits(data)
    if not looks_harmless and type(value) in (dict, list) and _survey(value, max_depth):
        _check_numbers(data)
    if type(value) is not dict:
        raise InvalidRequest("The request body must be a JSON object: {…}.", code="invalid_type")
    return value


def _brackets(data: bytes) -> int:
    """How many open, also in strings. (To leave them out takes a fraction of what `count` takes, which looks at each byte.)"""
    return 2 * len(data) - len(data.replace(b"{", b"")) - len(data.replace(b"[", b""))


def _has_many_digits(data: bytes) -> bool:
    """Whether any number may be outside 64 bits. Nearly every body is told by a part of its bytes."""
    return _SOME_DIGITS in data[_STRIDE - 1 :: _STRIDE].translate(_DIGITS) and _MANY_DIGITS in data.translate(_DIGITS)


class TokenMeter:
    """Counts the JSON tokens of a body that comes in pieces, and refuses it at the piece that takes it over the limit.

    A token is a bracket, comma, colon, string, number or literal; an empty container counts as if it held one.
    """

    __slots__ = ("_carry", "_in_string", "_limit", "count")

    def __init__(self, max_tokens: int) -> None:
        self._limit = max_tokens
        self._carry = b""
        self._in_string = False
        self.count = 1

    def feed(self, data: bytes) -> None:
        """Count one piece. The work is proportional to its length, about a nanosecond a byte."""
        data = self._carry + data
        # A backslash at the very end says something of the next piece's first byte, unless it is itself escaped.
        cut = len(data) - (len(data) - len(data.rstrip(b"\\"))) % 2
        self._carry = data[cut:]
        strings = data[:cut].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        self.count += _structure(b"".join(strings[self._in_string :: 2]))
        self._in_string ^= len(strings) % 2 == 0
        if self.count > self._limit:
            raise InvalidRequest(
                f"The request body has more than {self._limit} JSON tokens. Send fewer or shorter arrays.",
                code="json_too_complex",
            )


def _structure(data: bytes) -> int:
    """An upper bound of the tokens less one: every comma, colon and pair of brackets stands beside at most one scalar."""
    return 2 * (len(data) - len(data.translate(None, b",:[{")))


def counting(data: bytes, max_tokens: int) -> Iterator[None]:
    """Count the tokens of a body in steps of less than a millisecond, so that others may have their turn between them;
    `InvalidRequest` where there are too many."""
    most = 0
    for piece in _slices(data):
        most += _structure(piece)  # even with what stands in strings
        if most >= max_tokens:
            break
        yield
    else:
        return
    meter = TokenMeter(max_tokens)
    for piece in _slices(data):
        meter.feed(piece)
        yield


def _slices(data: bytes) -> Iterator[bytes]:
    """One at a time: many bodies are counted side by side, and none should be there twice for that."""
    for start in range(0, len(data), _SLICE):
        yield data[start : start + _SLICE]


def _survey(value: Any, max_depth: int) -> bool:
    """Refuse nesting beyond `max_depth`, level by level: the outermost object is level one. Whether any number is so large that
    it may have been an integer outside 64 bits.

    It looks at values, not at bytes: a prompt of any length is one.
    """
    large = False
    level = [value]
    for _ in range(max_depth):
        below: list[Any] = []
        for container in level:
            children = container.values() if type(container) is dict else container
            if len(container) > MANY and _SCALARS.issuperset(map(type, children)):
                continue
            for child in children:
                kind = type(child)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    below.append(child)
                elif kind is float and not -_LARGE < child < _LARGE:
                    large = True
        if not below:
            return large
        level = below
    raise _too_deep(max_depth)


def _refusal(data: bytes, error: JSONDecodeError, max_depth: int) -> InvalidRequest:
    """Why orjson did not parse: nested beyond its own limit, a number no double can hold, or simply no JSON."""
    if "depth limit" in error.msg or "ecursion limit" in error.msg:
        return _too_deep(max_depth)
    if "infinity" in error.msg:
        try:
            _check_numbers(data)
        except InvalidRequest as refusal:
            return refusal
        except (ValueError, RecursionError):
            pass  # there is such a number, and besides the rest is no JSON: say so
    return InvalidRequest(
        f"The request body is not valid JSON (line {error.lineno}, column {error.colno}). "
        "Send one JSON object as UTF-8, without a byte order mark.",
        code="invalid_json",
    )


def _too_deep(max_depth: int) -> InvalidRequest:
    return InvalidRequest(
        f"The request body is nested more than {max_depth} levels deep. Flatten it, or send the inner part as a string.",
        code="json_too_deep",
    )


_OUT_OF_RANGE = object()


def _check_numbers(data: bytes) -> None:
    """Refuse integers outside 64 bits and numbers too large for a double. Exact and slow: for bodies that look like it."""
    found = False

    def integer(text: str) -> object:
        nonlocal found
        if len(text) < 19 or (len(text) <= 20 and -(2**63) <= int(text) < 2**64):
            return None
        found = True
        return _OUT_OF_RANGE

    def real(text: str) -> object:
        nonlocal found
        if math.isfinite(float(text)):
            return None
        found = True
        return _OUT_OF_RANGE

    value = json.loads(data.decode(), parse_int=integer, parse_float=real)
    if found:
        path = _path_to(value, _OUT_OF_RANGE) if len(data) <= _PATH_LIMIT else None
        raise InvalidRequest(
            "A number in the request body is out of range: integers must fit in 64 bits. Send larger ones as strings.",
            code="invalid_type",
            param=place_shown(path) if path is not None else None,
        )


def _path_to(value: Any, wanted: object) -> str | None:
    """Where `wanted` stands in a JSON value, e.g. `messages[0].seed`; the outermost place when it stands in several."""
    queue = deque([("", value)])
    while queue:
        path, node = queue.popleft()
        if node is wanted:
            return path or None
        if type(node) is dict:
            queue.extend((f"{path}.{name}" if path else name, child) for name, child in node.items())
        elif type(node) is list:
            queue.extend((f"{path}[{number}]", child) for number, child in enumerate(node))
    return None

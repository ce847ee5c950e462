"""The JSON of an event that is many megabytes long, as images and files are: mostly one long string.

orjson reads a copy of what it is given, and makes its strings beside that: where such an event passes through, by far the most
memory that a stream ever takes. Here the long strings are taken out first, each made from its bytes where they lie, and orjson
reads the short rest.

Invariant: whatever `loads` would say of the same data, be it an error, is what comes of it here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

from orjson import JSONDecodeError
from orjson import loads as whole

LARGE = 1 << 20
"""Bytes of an event that is read like this. Nearly all are a thousandth of that."""

BLOCK = 1 << 16
"""Bytes that are looked at together: a string without an escape that fills a block is taken out."""

Data = bytes | memoryview
"""An event's data: of a large one a view of the event's bytes."""

_NOT_PLAIN = re.compile(rb'["\\\x00-\x1f]')
"""What ends a string, or does not stand for itself in one."""
_PLAIN = bytes(byte for byte in range(256) if not _NOT_PLAIN.match(bytes([byte])))


def loads(data: Data) -> Any:
    """As `orjson.loads`, in little more memory than what it returns."""
    name = secrets.token_hex(8)  # of a string while it is away: nobody can have said it before
    strings: dict[str, str] = {}
    rest: list[bytes | memoryview] = []
    at = 0
    try:
        for start, end in _long_strings(data):
            key = f"{name}{len(strings)}"
            strings[key] = str(data[start:end], "utf-8")
            rest += [data[at:start], key.encode()]
            at = end
        box = [whole(b"".join([*rest, data[at:]]))] if strings else []
    except (UnicodeDecodeError, JSONDecodeError):
        box = []  # broken in one way or another: orjson says which
    return box[0] if box and _put_back(box, strings) == len(strings) else whole(data)


def _long_strings(data: Data) -> Iterator[tuple[int, int]]:
    """Where the strings are that are taken out, without their quotes."""
    at = done = 0
    while at < len(data):
        block = bytes(data[at : at + BLOCK])
        if not _is_plain(block):
            at += BLOCK
            continue
        before = bytes(data[max(done, at - BLOCK) : at])
        begun = before[before.rfind(b'"') + 1 :]
        start = at - len(begun)
        while block and _is_plain(block):
            at += BLOCK
            block = bytes(data[at : at + BLOCK])
        stop = _NOT_PLAIN.search(block)
        done = at = at + (stop.start() if stop is not None else len(block))
        if len(begun) < len(before) and _is_plain(begun) and data[at : at + 1] == b'"':
            yield start, at


def _is_plain(text: bytes) -> bool:
    """Every byte stands for itself in a string."""
    return not text.translate(None, _PLAIN)


def _put_back(box: list[Any], strings: dict[str, str]) -> int:
    """Put each string where its name stands among the values in `box`; how many places there were."""
    found = 0
    holders: list[Any] = [box]
    while holders:
        holder = holders.pop()
        for key, value in holder.items() if type(holder) is dict else enumerate(holder):
            if type(value) is dict or type(value) is list:
                holders.append(value)
            elif type(value) is str and value in strings:
                holder[key] = strings[value]
                found += 1
    return found

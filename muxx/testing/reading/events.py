"""What any reading begins with: JSON objects, and the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson


class Unreadable(ValueError):
    """The answer is not what its endpoint answers, or does not end as it should. The message says where."""


class Event(NamedTuple):
    """The name and the data of an event. A comment has its text for data, and `:` for its name."""

    name: str
    data: bytes

    @property
    def is_comment(self) -> bool:
        return self.name == ":"


def object_of(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Unreadable(f"this is no JSON: {data[:100]!r}") from None
    if not isinstance(value, dict):
        raise Unreadable(f"this is no JSON object: {data[:100]!r}")
    return value


def list_of(data: bytes) -> list[dict[str, Any]]:
    """An array of objects."""
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Unreadable(f"this is no JSON: {data[:100]!r}") from None
    if not all(isinstance(value, dict) for value in values):
        raise Unreadable(f"these are not all JSON objects: {data[:100]!r}")
    objects: list[dict[str, Any]] = values
    return objects


def all_of(stream: bytes) -> list[Event]:
    """The events of a stream and its comments, in order; events without data are passed over."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if text and not text.endswith(b"\n\n"):
        raise Unreadable(f"the last event is not ended: {text[-100:]!r}")
    return [event for block in text.split(b"\n\n") for event in _of_block(block)]


def events_of(stream: bytes) -> list[Event]:
    """The events of a stream, without its comments."""
    return [event for event in all_of(stream) if not event.is_comment]


def _of_block(block: bytes) -> Iterator[Event]:
    lines = [line.partition(b":") for line in block.split(b"\n") if line]
    fields = [(name, value.removeprefix(b" ")) for name, _, value in lines]
    yield from (Event(":", value) for field, value in fields if not field)
    name = b"".join(value for field, value in fields if field == b"event")
    data = [value for field, value in fields if field == b"data"]
    if data:
        yield Event(name.decode(), b"\n".join(data))


def tokens(usage: Any, given: str, made: str, details: str = "", cached: str = "cached_tokens") -> dict[str, Any]:
    """The counts of an answer whose input holds what came from the provider's cache, as fields of `Said`."""
    told = usage if isinstance(usage, dict) else {}
    where = (told.get(details) or {}) if details else told
    return {"input_tokens": told.get(given), "output_tokens": told.get(made), "cached_tokens": where.get(cached) or 0}

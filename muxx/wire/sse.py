"""Server-sent events: cut a byte stream into events without changing a byte of it.

An event is the pair `(raw, data)`. `raw` is its exact bytes, terminator included. `data` is what a WHATWG parser would hand
to the application: the values of its `data` fields joined by LF, or None when it has no such field (a comment, a bare
`event:`, a blank line). Of an event of megabytes it may be a view of `raw`, for another copy would be the largest thing there is.
Events are plain tuples because one is made per token of every answer.

Every `raw` in order, then `tail`, is the input again, whatever the chunking. An event is out as soon as the last byte that
ends it has come: of a CRLF split between two reads the CR is enough, and the LF becomes the first byte of the next `raw`.
"""

from __future__ import annotations

import re

from ..errors import UpstreamEventTooLarge
from .large import LARGE, Data

Event = tuple[bytes, Data | None]

_BOM = b"\xef\xbb\xbf"
_END_OF_EVENT = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
"""Two line ends in a row. The look-ahead keeps a CRLF whole; a second line end may well be a CR whose LF has not come yet."""


def data_of(raw: bytes) -> bytes | None:
    """The data of one event: LF, CR and CRLF end lines, in any mix; one space after the colon is not part of the value."""
    return _parse(raw)[0]


def _parse(raw: bytes) -> tuple[bytes | None, bool]:
    """The data of one event, and whether it has an `id` field."""
    values = []
    has_id = False
    for line in raw.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value[1:] if value.startswith(b" ") else value)
        elif name == b"id":
            has_id = True
    return b"\n".join(values) if values else None, has_id


def is_done(data: Data | None) -> bool:
    """True for the `[DONE]` that ends streams of OpenAI's format, and means nothing in the others."""
    return type(data) is bytes and data.strip() == b"[DONE]"


def is_comment(raw: bytes) -> bool:
    """True when nothing but comments and blank lines stand in `raw`: no parser makes an event of it."""
    return all(not line or line.startswith(b":") for line in raw.removeprefix(_BOM).splitlines())


_TOO_LARGE = "The model provider sent an event larger than the gateway's limit. Ask for a shorter answer."


class EventSplitter:
    """Cuts what `feed` is given into events. It holds at most one unfinished event, of at most `max_event_bytes` and one read.

    A larger event raises `UpstreamEventTooLarge`, after every event before it has been handed out, whatever the chunking.
    """

    __slots__ = ("_begun", "_held", "_limit", "has_ids")

    def __init__(self, max_event_bytes: int) -> None:
        self._limit = max_event_bytes
        self._held = bytearray()
        self._begun = False
        self.has_ids = False
        """True once an event had an `id` field. From then on the OpenAI SDK makes an event of any blank line, and dies of it."""

    @property
    def between_events(self) -> bool:
        """No event has begun and not ended."""
        return not self._held

    @property
    def tail(self) -> bytes:
        """The bytes of the event that is not finished yet."""
        return bytes(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` finishes, in order."""
        # One read is mostly one event of one line, or of two where events have names: its own bytes are handed on, and only the
        # data is copied.
        if not self._held and len(data) <= self._limit:
            payload = None
            if data.startswith(b"data: "):
                payload = data[6:-2] if data.endswith(b"\n\n") else data[6:-4] if data.endswith(b"\r\n\r\n") else None
            elif data.startswith(b"event: ") and data.endswith(b"\n\n"):
                payload = _named(data[:-2])
            # LF and CR, as numbers: several times as fast a search.
            if payload is not None and 10 not in payload and 13 not in payload:
                self._begun = True
                return [(data, payload)]
        events = self._resume(data) if self._held else self._split(data)
        if not events and len(self._held) > self._limit:
            raise UpstreamEventTooLarge(_TOO_LARGE)
        return events

    def finish(self) -> Event | None:
        """The unfinished event, read as if the end of the input had finished it; None when there is nothing but line ends."""
        if len(self._held) > self._limit:
            raise UpstreamEventTooLarge(_TOO_LARGE)
        raw = bytes(self._held)
        return self._event(raw) if raw.strip(b"\r\n") else None

    def _split(self, data: bytes) -> list[Event]:
        """Split `data`, which begins a new event; what is left at its end is held."""
        end = _end_of_events(data)
        if end is None:
            events, rest = self._split_mixed(data)
        else:
            *blocks, rest = data.split(end)
            events = []
            for block in blocks:
                if block.startswith(b"data: ") and 10 not in block:
                    self._begun = True
                    events.append((block + end, block[6:]))
                else:
                    events.append(self._event(block + end))
        if len(data) > self._limit:
            events, rest = self._cut_at_limit(events, rest)
        self._held += rest
        return events

    def _split_mixed(self, data: bytes) -> tuple[list[Event], bytes]:
        """`_split` for lines that end in more than one way."""
        events = []
        start = 0
        for match in _END_OF_EVENT.finditer(data):
            events.append(self._event(data[start : match.end()]))
            start = match.end()
        return events, data[start:]

    def _resume(self, data: bytes) -> list[Event]:
        """Go on with the unfinished event. Only what is new is searched, so an event in many small reads costs no more."""
        held = self._held
        end = _end_in(bytes(held[-2:]), data)
        if not end or len(held) + end > self._limit:
            held += data
            return []
        held += data[:end]
        raw = bytes(held)
        held.clear()
        events = [self._event(raw)]
        if end < len(data):
            events += self._split(data[end:])
        return events

    def _cut_at_limit(self, events: list[Event], rest: bytes) -> tuple[list[Event], bytes]:
        """Put the first event that is too large, and all after it, back into `rest`: what is held then is over the limit."""
        for number, (raw, _) in enumerate(events):
            if len(raw) > self._limit:
                return events[:number], b"".join(raw for raw, _ in events[number:]) + rest
        return events, rest

    def _event(self, raw: bytes) -> Event:
        """Parse an event of any form; a byte order mark counts as one only at the very start of the stream."""
        if len(raw) > LARGE and (view := _view_of_data(raw)) is not None:
            self._begun = True
            return raw, view
        if raw.startswith(b"data: "):
            value = raw[6 : _end_of_lines(raw)]
            if 10 not in value and 13 not in value:  # one line, which nearly every event is
                self._begun = True
                return raw, value
        elif raw.startswith(b"event: "):
            named = _named(raw[: _end_of_lines(raw)])
            if named is not None and 10 not in named and 13 not in named:
                self._begun = True
                return raw, named
        data, has_id = _parse(raw if self._begun else raw.removeprefix(_BOM))
        self._begun = True
        self.has_ids = self.has_ids or has_id
        return raw, data


def _end_of_lines(raw: bytes) -> int:
    """Where the line ends behind an event begin. (To strip them would copy an event that may be the largest thing there is.)"""
    end = len(raw)
    while raw[end - 1] in b"\r\n":
        end -= 1
    return end


def _view_of_data(raw: bytes) -> memoryview | None:
    """The data of an event of one such line, and a name before it or none, as it lies there; None for any other."""
    line_end = raw.find(b"\ndata: ") if raw.startswith(b"event: ") else -1
    start, end = line_end + 7, _end_of_lines(raw)
    name = raw[: line_end + 1].rstrip(b"\n")
    if b"\n" in name or b"\r" in name or not raw.startswith(b"data: ", line_end + 1):
        return None
    return memoryview(raw)[start:end] if raw.find(b"\n", start, end) < 0 and raw.find(b"\r", start, end) < 0 else None


def _named(lines: bytes) -> bytes | None:
    """What follows the name and `data: ` in an event that begins so, without the line ends behind it; None for any other."""
    name, found, data = lines.partition(b"\ndata: ")
    return data if found and 10 not in name and 13 not in name else None


def _end_of_events(data: bytes) -> bytes | None:
    """What ends events when every line of `data` ends in LF, or every one in CRLF; None when it is not as simple as that."""
    if 13 not in data:
        return b"\n\n"
    pairs = data.count(b"\r\n")
    return b"\r\n\r\n" if pairs == data.count(b"\r") == data.count(b"\n") else None


def _end_in(before: bytes, data: bytes) -> int:
    """How many bytes of `data` end the event whose last two bytes so far are `before`; 0 when they do not end it."""
    window = before + data
    if 13 in window:
        match = _END_OF_EVENT.search(window)
        end = match.end() if match else 0
    else:
        end = window.find(b"\n\n") + 2
        end = 0 if end < 2 else end
    return max(end - len(before), 0)

"""The journal's files: how a line and a segment look, and how to read them, also while they are written.

A line is `length u32, crc32 u32, JSON`, little-endian, and the JSON is `{"t":KIND,"r":RECORD}`. KIND is `trace` (a request is
about to be sent to a provider), `final` (its row), `amend` (its row once more, changed) or `probe` (nothing).

Invariants:

- Segments are named `<writer>-<seq>.seg`. The writer part is unique to one `Journal` object for ever, so a name never comes back.
- A segment is locked (flock) from before its name exists until its writer leaves it; the kernel unlocks it when the writer dies.
  It is left only after its successor exists. So: successor there, or lock free and still no successor, means no byte will follow.
- A segment is never truncated nor written in the middle.
- Each `final` and `amend` holds the whole row: of a request's lines the last one counts alone.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import orjson

from .exchange import Record

Kind = Literal["trace", "final", "amend", "probe"]

READ_BYTES = 1024 * 1024

_HEADER = struct.Struct("<II")
_PREFIX: dict[Kind, bytes] = {
    "trace": b'{"t":"trace","r":', "final": b'{"t":"final","r":', "amend": b'{"t":"amend","r":', "probe": b'{"t":"probe","r":',
}  # fmt: skip
_KINDS: dict[bytes, Kind] = {prefix: kind for kind, prefix in _PREFIX.items()}
_PREFIX_BYTES = 17
_ID = b'{"request_id":"'
_ID_AT = len(_ID)


class Segment(NamedTuple):
    """One file of the journal. Sorting puts each writer's segments together, in the order they were written."""

    writer: str
    seq: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def successor(self) -> Path:
        return self.path.with_name(segment_name(self.writer, self.seq + 1))


class Line(NamedTuple):
    """One line as read: `raw` is the record's JSON, not parsed, and `end` the offset behind the line.

    A record whose JSON holds no id goes by its place in the journal.
    """

    kind: Kind
    request_id: str
    raw: bytes
    end: int


def segment_name(writer: str, seq: int) -> str:
    return f"{writer}-{seq:08d}.seg"


def _plain(value: Any) -> Any:
    """`value` with what JSON cannot hold replaced by text: a row with one odd attribute is better than no row."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, float, orjson.Fragment)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    return str(value).encode("utf-8", "replace").decode()


def encode(kind: Kind, record: Mapping[str, Any]) -> bytes:
    try:
        body = orjson.dumps(record)
    except TypeError:
        body = orjson.dumps(_plain(record))
    payload = _PREFIX[kind] + body + b"}"
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def segments(directory: str | Path) -> list[Segment]:
    """Every segment in the directory, each writer's in the order written."""
    found = []
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    for name in names:
        writer, _, seq = name.removesuffix(".seg").rpartition("-")
        if name.endswith(".seg") and writer and seq.isdigit():
            found.append(Segment(writer, int(seq), Path(directory, name)))
    found.sort()
    return found


def is_left(segment: Segment) -> bool:
    """True when no byte will follow in this segment: its writer has gone on to the next one, closed, or died."""
    try:
        fd = os.open(segment.path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return segment.successor.exists()
    finally:
        os.close(fd)
    return True


def read_segment(path: str | Path, offset: int, max_lines: int = 2**31) -> tuple[list[Line], int]:
    """The whole lines that stand at `offset`, and the offset behind them.

    Reads about 1 MiB, or one line if that is longer. Stops before a line that is incomplete or fails its checksum: in a segment
    that is still written its rest is on the way; in one that is left it is a torn tail, or damage (see `next_line`). Probes are
    skipped.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset + _HEADER.size > size:
            return [], offset
        file.seek(offset)
        data = file.read(min(size - offset, READ_BYTES))
        first = _HEADER.size + _HEADER.unpack_from(data)[0]
        if len(data) < first <= size - offset:
            data += file.read(first - len(data))
    lines: list[Line] = []
    end = 0
    for kind, body, end in _frames(data):
        if kind != "probe":
            raw = data[body : end - 1]
            lines.append(Line(kind, _request_id(raw) or f"{Path(path).name}@{offset + end}", raw, offset + end))
            if len(lines) == max_lines:
                break
    return lines, offset + end


def _frames(data: bytes, start: int = 0) -> Iterator[tuple[Kind, int, int]]:
    """Of each whole line from `start` on: its kind, where its record begins, and its end (one byte behind the record's)."""
    view, size = memoryview(data), len(data)
    while start + _HEADER.size <= size:
        length, checksum = _HEADER.unpack_from(data, start)
        payload = start + _HEADER.size
        body, end = payload + _PREFIX_BYTES, payload + length
        kind = _KINDS.get(data[payload:body])
        if end > size or kind is None or zlib.crc32(view[payload:end]) != checksum:
            return
        yield kind, body, end
        start = end


def _request_id(raw: bytes) -> str:
    """The record's id, without parsing the record when the id stands first, as it does in every row muxx writes."""
    if raw.startswith(_ID):
        return raw[_ID_AT : raw.index(b'"', _ID_AT)].decode()
    try:
        return str(orjson.loads(raw)["request_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def next_line(path: str | Path, offset: int) -> int | None:
    """Where the next whole line begins behind the damage at `offset`, or None: what stands there is a torn tail."""
    data = Path(path).read_bytes()
    found = data.find(b'{"t":"', offset + _HEADER.size)
    while found >= 0:
        start = found - _HEADER.size
        if start > offset and next(_frames(data, start), None):
            return start
        found = data.find(b'{"t":"', found + 1)
    return None


def find_record(directory: str | Path, request_id: str) -> Record | None:
    """The request's row as the journal knows it now, amendments included; None when it holds none or the request has not ended.

    Reads every segment: call it off the event loop. A segment that disappears meanwhile has been stored, so a caller that looked
    into the database first and finds nothing here looks there once more.
    """
    wanted = request_id.encode()
    raw: bytes | None = None
    for segment in segments(directory):
        try:
            data = segment.path.read_bytes()
        except FileNotFoundError:
            continue
        if wanted in data:
            raw = _last_row(data, request_id) or raw
    return cast(Record, orjson.loads(raw)) if raw is not None else None


def _last_row(data: bytes, request_id: str) -> bytes | None:
    found = None
    for kind, body, end in _frames(data):
        if kind in ("final", "amend"):
            raw = data[body : end - 1]
            if _request_id(raw) == request_id:
                found = raw
    return found

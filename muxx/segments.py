"""The journal's files: how a line and a segment look, and how to read them, also while they are written.

A line is a header and three JSON texts: the record, what was sent, and what was delivered; of the last two either may be empty.
The header is `mark, three lengths u32, crc32 u32` of the texts, little-endian. The mark says what the line is: `trace` (a request
is about to be sent to a provider), `final` (its row), `amend` (its row once more, changed) or `probe` (nothing).

Invariants:

- Segments are named `<writer>-<seq>.seg`. The writer part is unique to one `Journal` object for ever, so a name never comes back.
- A segment is locked (flock) from before its name exists until its writer leaves it; the kernel unlocks it when the writer dies.
  It is left only after its successor exists. So: successor there, or lock free and still no successor, means no byte will follow.
- A segment is never truncated nor written in the middle.
- Each `final` and `amend` holds the whole row, and its texts: of a request's lines the last one counts alone.
- What was sent and delivered is carried and never parsed.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from zlib import crc32

import orjson

from .row import Record

Kind = Literal["trace", "final", "amend", "probe"]

READ_BYTES = 1024 * 1024

TRACE, FINAL, AMEND, PROBE = b"\x1eTRC", b"\x1eFIN", b"\x1eAMD", b"\x1ePRB"
"""Marks begin with a byte that no JSON text holds, so that content is not taken for a line where damage is read over."""
_KINDS: dict[bytes, Kind] = {TRACE: "trace", FINAL: "final", AMEND: "amend", PROBE: "probe"}
_HEADER = struct.Struct("<4sIIII")
pack_header = _HEADER.pack
_ID = b'{"request_id":"'
_ID_AT = len(_ID)


class Segment(NamedTuple):
    """One file of the journal. Sorting puts each writer's segments together, in the order they were written."""

    writer: str
    seq: int
    name: str
    path: Path

    @property
    def has_successor(self) -> bool:
        return os.path.exists(f"{os.fspath(self.path)[: -len(self.name)]}{segment_name(self.writer, self.seq + 1)}")


class Line(NamedTuple):
    """One line as read: `raw` is the record's JSON, not parsed, and `end` the offset behind the line.

    A record whose JSON holds no id goes by its place in the journal.
    """

    kind: Kind
    request_id: str
    raw: bytes
    sent: bytes | None
    delivered: bytes | None
    end: int


_new_line: Callable[[tuple[Kind, str, bytes, bytes | None, bytes | None, int]], Line] = partial(tuple.__new__, Line)
"""`Line` itself takes three times as long."""


def segment_name(writer: str, seq: int) -> str:
    return f"{writer}-{seq:08d}.seg"


MOST_DEPTH = 64
"""Levels of a value in a record; orjson writes no more than 254, and a value may hold itself."""


def plain(value: Any, depth: int = MOST_DEPTH) -> Any:
    """`value` with what JSON cannot hold replaced by text: a row with one odd attribute is better than no row."""
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        if depth == 0:
            return "…"
        if isinstance(value, Mapping):
            return {plain(str(key)): plain(item, depth - 1) for key, item in value.items()}
        return [plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, (bool, float, orjson.Fragment)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    return str(value).encode("utf-8", "replace").decode()


def line_of(mark: bytes, record: bytes, sent: bytes = b"", delivered: bytes = b"") -> bytes:
    texts = record + sent + delivered
    return pack_header(mark, len(record), len(sent), len(delivered), crc32(texts)) + texts


def segments(directory: str | Path) -> list[Segment]:
    """Every segment in the directory, each writer's in the order written."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(segment for name in names if (segment := _segment(directory, name)) is not None)


@lru_cache(maxsize=256)
def _segment(directory: str | Path, name: str) -> Segment | None:
    """What the name of a file says of it: that never changes, and it is asked at each look into the journal."""
    writer, _, seq = name.removesuffix(".seg").rpartition("-")
    if name.endswith(".seg") and writer and seq.isdigit():
        return Segment(writer, int(seq), name, Path(directory, name))
    return None


def is_left(segment: Segment) -> bool:
    """True when no byte will follow in this segment: its writer has gone on to the next one, closed, or died."""
    try:
        fd = os.open(segment.path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return segment.has_successor
    finally:
        os.close(fd)
    return True


def read_segment(path: str | Path, offset: int, max_lines: int = 2**31) -> tuple[list[Line], int]:
    """The whole lines that stand at `offset`, and the offset behind them.

    Reads about 1 MiB, or one line if that is longer. Stops before a line that is incomplete or fails its checksum: in a segment
    that is still written its rest is on the way; in one that is left it is a torn tail, or damage (see `next_line`). Probes are
    skipped.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        there = os.fstat(fd).st_size - offset
        data = os.pread(fd, min(there, READ_BYTES), offset) if there > 0 else b""
        if len(data) >= _HEADER.size and len(data) < (first := _length(data)) <= there:
            data = os.pread(fd, first, offset)
    finally:
        os.close(fd)
    return _lines(data, offset, max_lines, os.path.basename(path))


def _length(data: bytes) -> int:
    """Of the line that `data` begins with."""
    _, record, sent, delivered, _ = _HEADER.unpack_from(data)
    return _HEADER.size + int(record + sent + delivered)


def _lines(data: bytes, offset: int = 0, max_lines: int = 2**31, name: str = "", at: int = 0) -> tuple[list[Line], int]:
    """The whole lines that stand at `at` in what was read from `offset` on, and the offset behind them. One loop, for speed."""
    lines: list[Line] = []
    add, kind_of, unpack = lines.append, _KINDS.get, _HEADER.unpack_from
    header, size = _HEADER.size, len(data)
    last = size - header
    while at <= last and len(lines) < max_lines:
        mark, record, sent, delivered, checksum = unpack(data, at)
        start = at + header
        end = start + record + sent + delivered
        raw, kind = data[start:end], kind_of(mark)
        if kind is None or end > size or crc32(raw) != checksum:
            break
        at = end
        if kind == "probe":
            continue
        asked = answered = None
        if sent or delivered:
            asked, answered, raw = raw[record : record + sent] or None, raw[record + sent :] or None, raw[:record]
        if raw[:_ID_AT] == _ID:
            request_id = raw[_ID_AT : raw.index(b'"', _ID_AT)].decode()
        else:
            request_id = _searched_id(raw) or f"{name}@{offset + end}"
        add(_new_line((kind, request_id, raw, asked, answered, offset + end)))
    return lines, offset + at


def _searched_id(raw: bytes) -> str:
    """The id of a record in which it does not stand first, as it does in every row muxx writes."""
    try:
        return str(orjson.loads(raw)["request_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def next_line(path: str | Path, offset: int) -> int | None:
    """Where the next whole line begins behind the damage at `offset`, or None: what stands there is a torn tail."""
    data = Path(path).read_bytes()
    found = data.find(b"\x1e", offset + 1)
    while found >= 0:
        if _lines(data, max_lines=1, at=found)[1] > found:
            return found
        found = data.find(b"\x1e", found + 1)
    return None


def find_record(directory: str | Path, request_id: str) -> Record | None:
    """The request's row as the journal knows it now, amendments included; None when it holds none or the request has not ended.

    Reads every segment: call it off the event loop. A segment that disappears meanwhile has been stored, so a caller that looked
    into the database first and finds nothing here looks there once more.
    """
    wanted = request_id.encode()
    found: Record | None = None
    for segment in segments(directory):
        try:
            data = segment.path.read_bytes()
        except FileNotFoundError:
            continue
        if wanted in data:
            found = _last_row(data, request_id) or found
    return found


def journalled(directory: str | Path) -> dict[str, Record]:
    """What the journal knows now of every request it holds, by id: its row, or the trace of one that has not ended (a row without
    `status`), without what was asked and answered.

    Reads every segment: call it off the event loop. A segment that disappears meanwhile has been stored: look into the database
    afterwards, and each request is found here, there, or in both.
    """
    found: dict[str, Record] = {}
    for segment in segments(directory):
        try:
            data = segment.path.read_bytes()
        except FileNotFoundError:
            continue
        for line in _lines(data)[0]:
            if line.kind != "trace" or line.request_id not in found:
                with suppress(orjson.JSONDecodeError):
                    found[line.request_id] = orjson.loads(line.raw)
    return found


def _last_row(data: bytes, request_id: str) -> Record | None:
    lines = [line for line in _lines(data)[0] if line.request_id == request_id and line.kind != "trace"]
    return row_in(lines[-1]) if lines else None


def row_in(line: Line) -> Record:
    """A line's row. `orjson.JSONDecodeError` when its record is no JSON."""
    row = orjson.loads(line.raw)
    row["input"], row["output"] = line.sent, line.delivered
    return cast(Record, row)

"""Reads the journal behind its writers: what is new, how far it goes, and which requests are open. No database here.

Invariants:

- A writer's segments are read in order, and none before the one ahead of it has been read to its end.
- A `Tail` runs ahead of what is stored by at most the batch it gave last. Whoever cannot store that batch throws the `Tail`
  away and makes a new one from what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from .segments import Line, Segment, is_left, next_line, read_segment, segments

MAX_LINES = 1000
"""Lines of one batch, shared by the writers. A request usually leaves two, its trace and its row."""


@dataclass
class Batch:
    """What one transaction stores."""

    rows: dict[str, Line] = field(default_factory=dict)
    """The line of the last row of each request, by its id."""
    positions: dict[str, int] = field(default_factory=dict)
    """How far each segment has been read, by its name."""
    stored: list[Segment] = field(default_factory=list)
    """Segments of which nothing is left to store."""
    opened: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(request id, writer, JSON) of traces whose segment is in `stored`."""
    closed: list[str] = field(default_factory=list)
    """Ids of requests that were opened by an earlier batch and have their row in this one."""
    rejected: list[tuple[Line, str]] = field(default_factory=list)
    """(line, error) of rows that no hook can store."""
    dead: list[str] = field(default_factory=list)
    """Writers that will never write again, whose last segment is in `stored`."""
    more: bool = False
    """True when the journal held more than the batch could take."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.positions or self.stored)


class Tail:
    """`positions` and `stored` are what the database says of each segment; `moved` are the ids it holds as open requests."""

    def __init__(
        self,
        directory: Path,
        positions: dict[str, int],
        stored: set[str],
        moved: set[str],
        log: logging.Logger,
        told: set[tuple[str, int]] | None = None,
    ) -> None:
        """`told` outlives a `Tail`: the damage, by segment and offset, that the log has been told of."""
        self._told = set() if told is None else told
        self._directory = directory
        self._positions = positions
        self._stored = stored
        self._moved: set[str] = set()
        self._log = log
        self._open: dict[str, tuple[str, bytes]] = {}
        """Traces without a row: the segment's name and the JSON, by request id."""
        for segment in self.waiting():
            for lines in self._seen(segment):
                self._take(segment, lines, Batch())
        self._moved = moved

    def waiting(self) -> list[Segment]:
        """The segments that are not stored whole."""
        return [segment for segment in segments(self._directory) if segment.name not in self._stored]

    def stored(self) -> list[Segment]:
        """The segments that are stored whole but still there."""
        return [segment for segment in segments(self._directory) if segment.name in self._stored]

    def _seen(self, segment: Segment) -> Iterator[list[Line]]:
        """The lines before the position: read once more, for the open requests among them are stored nowhere else."""
        reached, offset = self._positions.get(segment.name, 0), 0
        while offset < reached:
            lines, end = read_segment(segment.path, offset)
            yield [line for line in lines if line.end <= reached]
            offset = end if end > offset else next_line(segment.path, offset) or reached

    def next_batch(self) -> Batch:
        """Everything new, up to a limit that the writers share."""
        batch = Batch()
        writers = [list(group) for _, group in groupby(self.waiting(), key=lambda segment: segment.writer)]
        for waiting in writers:
            self._read_writer(waiting, batch, max(1, MAX_LINES // len(writers)))
        return batch

    def _read_writer(self, waiting: list[Segment], batch: Batch, room: int) -> None:
        """Take one writer's lines until there are none, `room` is used up, or a segment is not at its end."""
        for segment in waiting:
            last = segment is waiting[-1]
            taken, at_end = self._read(segment, batch, room)
            if last and not taken:
                if not is_left(segment):
                    return
                taken, at_end = self._read(segment, batch, room)  # what came before it was left; no byte follows that
            room -= taken
            if not at_end or room <= 0:
                batch.more = True
                return
            if (last and taken) or not self._skip_damage(segment, batch):
                return
            self._end(segment, batch)
            if last and not segment.has_successor:
                batch.dead.append(segment.writer)

    def _read(self, segment: Segment, batch: Batch, room: int) -> tuple[int, bool]:
        """Take up to `room` lines; also whether all whole lines were taken that the segment had just now."""
        offset, size = self._positions.get(segment.name, 0), segment.path.stat().st_size
        if size == offset:
            return 0, True
        lines, end = read_segment(segment.path, offset, room)
        self._take(segment, lines, batch)
        if end > offset:
            self._move(segment, end, batch)
        return len(lines), end == offset or end >= size

    def _move(self, segment: Segment, offset: int, batch: Batch) -> None:
        self._positions[segment.name] = batch.positions[segment.name] = offset

    def _take(self, segment: Segment, lines: list[Line], batch: Batch) -> None:
        """The last row of a request is the one that counts, and a row ends its open request."""
        rows, name, still_open, moved = batch.rows, segment.name, self._open, self._moved
        for line in lines:
            kind, request_id, raw = line[:3]
            if kind == "trace":
                still_open[request_id] = name, raw
                continue
            still_open.pop(request_id, None)
            rows[request_id] = line
            if request_id in moved:
                moved.discard(request_id)
                batch.closed.append(request_id)

    def _skip_damage(self, segment: Segment, batch: Batch) -> bool:
        """At the end of what can be read of a segment nobody writes any more: True when nothing whole follows, else go there."""
        offset = self._positions.get(segment.name, 0)
        if offset == segment.path.stat().st_size:
            return True
        following = next_line(segment.path, offset)
        if following is None:
            self._tell(segment, offset, logging.INFO, f"ignored a torn line at {offset}; it was never acknowledged")
            return True
        self._tell(segment, offset, logging.ERROR, f"damaged from {offset} to {following}, and what stood there is lost")
        self._move(segment, following, batch)
        batch.more = True
        return False

    def _tell(self, segment: Segment, offset: int, level: int, text: str) -> None:
        if (segment.name, offset) not in self._told:
            self._told.add((segment.name, offset))
            self._log.log(level, "%s: %s", segment.name, text)

    def _end(self, segment: Segment, batch: Batch) -> None:
        """The segment can go; the requests still open in it are handed to the database."""
        batch.stored.append(segment)
        self._stored.add(segment.name)
        for request_id in [request_id for request_id, (name, _) in self._open.items() if name == segment.name]:
            _, raw = self._open.pop(request_id)
            batch.opened.append((request_id, segment.writer, raw))
            self._moved.add(request_id)

    def forget(self, segment: Segment) -> None:
        """The segment is gone, and its name never comes back."""
        self._stored.discard(segment.name)
        self._positions.pop(segment.name, None)

"""The writing end of the journal: append-only files of what must not be lost.

Invariants, beside those of a line and a segment in `muxx.segments`:

- A line that `trace`, `final` or `amend` returned from is in the kernel's hands: `kill -9` cannot lose it; where lines are
  gathered, once `flush` has returned, and nothing that waits for the line leaves before. After `sync` a power cut cannot lose it
  either, when durability is "power".
- Each line is one write, or part of the one write of its turn (see `gather`). A writer that got a short one goes on in a new
  segment, so a torn line is the last of its segment.
- All lines of a request come from one writer, in order.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from orjson import dumps

from .errors import LogUnavailable, StartError
from .outbox import Outbox
from .owner import give_to_owner_of
from .segments import AMEND, FINAL, PROBE, TRACE, line_of, pack_header, plain, segment_name

Durability = Literal["crash", "power"]

BALLAST = "ballast"
BALLAST_BYTES = 16 * 1024 * 1024
_PROBE_TEXT = b" " * 4096
"""A file system's usual block: a probe must not fit into what is left of one on a full disk."""
_PROBE_LINE = (line_of(PROBE, _PROBE_TEXT),)

Pieces = Sequence[bytes]
"""A line, to be written one piece behind the other: the texts of a large one are never copied."""
COPIED = 8192
"""Bytes of a row's texts up to which copying them costs less than pieces do."""
MOST_PIECES = os.sysconf("SC_IOV_MAX")
"""Of one write."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def _sync_and_close(fds: list[int]) -> bool:
    """Bring the files to the disk; False when that failed for any of them. Runs in a thread."""
    synced = True
    for fd in fds:
        try:
            os.fsync(fd)
        except OSError:
            synced = False
        finally:
            os.close(fd)
    return synced


def _dumped(record: Mapping[str, Any]) -> bytes:
    """As JSON; what that cannot hold, as text."""
    try:
        return dumps(record)
    except TypeError:
        return dumps(plain(record))


def _size(pieces: Pieces) -> int:
    return sum(map(len, pieces))


class Journal:
    """One writer's end of the journal. Belongs to one thread, and is opened after any fork: a child would share its lock.

    `healthy` is False from a line that could not be written until one can be.
    """

    def __init__(
        self,
        directory: str | Path,
        writer_name: str,
        *,
        durability: Durability = "crash",
        segment_bytes: int = 8 * 1024 * 1024,
        segment_seconds: float = 1.0,
    ) -> None:
        self.healthy = True
        self._directory = Path(directory)
        self._writer = f"{writer_name}.{time.time_ns():x}{secrets.token_hex(4)}"
        self._power = durability == "power"
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._fd = -1
        """Where the next line goes; -1 when it needs a new segment, because the present one ends in a torn line."""
        self._locked_fd = -1
        """The present segment."""
        self._seq = 0
        self._whole_room = -1 if self._power else segment_bytes
        self._room = self._whole_room
        """Bytes until the segment is full; below zero when a line needs more than its write, as each does in "power"."""
        self._opened = 0.0
        self._left: list[int] = []
        """Segments left but not yet synced (durability "power" only)."""
        self._unsynced: dict[str, Pieces] = {}
        """Last line of each request since the last sync (durability "power" only): what a failed fsync may have lost."""
        self._rewrite = False
        self._written = 0
        self._synced = 0
        self._group: asyncio.Future[bool] | None = None
        self.gathers = False
        self._held: list[tuple[Pieces, Mapping[str, Any]]] = []
        self.outbox = Outbox(self)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._open_segment()
        except OSError as error:
            raise StartError(f"{self._directory}: cannot write the journal there: {error.strerror}", 3) from error

    def gather(self) -> None:
        """From now on keep the lines of a turn of the event loop together until `flush`, which `outbox` calls.

        Whoever notes a line then hands to the outbox what is to leave behind it. With durability "power" nothing is gathered:
        there each answer waits for the disk anyway.
        """
        self.gathers = not self._power

    def flush(self) -> None:
        """Write the lines that were gathered. Raises `LogUnavailable` when any of them cannot be written, after trying all."""
        held, self._held = self._held, []
        if not held:
            return
        pieces = [piece for line, _ in held for piece in line]
        if len(pieces) > MOST_PIECES:
            pieces = [b"".join(pieces)]
        failure: OSError | None = None
        try:
            written = os.writev(self._fd, pieces)
        except OSError as error:
            written, failure = 0, error
        self._room -= written
        if written != _size(pieces):
            self._flush_rest(held, written, failure)
        elif self._room < 0:
            self._rotate()

    def _flush_rest(self, held: list[tuple[Pieces, Mapping[str, Any]]], written: int, failure: OSError | None) -> None:
        """The lines a short or failed write left out, the torn one first."""
        unavailable: LogUnavailable | None = None
        for line, record in held:
            size = _size(line)
            begun = min(written, size)
            written -= begun
            try:
                if begun == 0:
                    self._put(line, record, failure)
                elif begun < size:
                    self._after(line, begun, record)
            except LogUnavailable as error:
                unavailable = error
            if begun < size:
                failure = None
        if unavailable is not None:
            raise unavailable

    def trace(self, trace: Mapping[str, Any]) -> None:
        """Note a request that is about to be sent to a provider. Raises `LogUnavailable` when that cannot be noted."""
        self._note((line_of(TRACE, _dumped(trace)),), trace)

    def final(
        self, row: Mapping[str, Any], sent: bytes | None = None, delivered: bytes | None = None, *, mark: bytes = FINAL
    ) -> None:
        """Note a request's row, and the JSON of what was sent and delivered, which goes into the line as it is.

        When this returned, its answer may be acknowledged (gathered: through the `outbox`; durability "power": after `sync`).
        `mark` is for `amend`.
        """
        record, sent, delivered = _dumped(row), sent or b"", delivered or b""
        if len(sent) + len(delivered) > COPIED:
            checksum = crc32(delivered, crc32(sent, crc32(record)))
            header = pack_header(mark, len(record), len(sent), len(delivered), checksum)
            self._note((header, record, sent, delivered), row)
        else:
            self._note((line_of(mark, record, sent, delivered),), row)

    def amend(self, row: Mapping[str, Any], sent: bytes | None = None, delivered: bytes | None = None) -> None:
        """Note the row of an earlier `final` as it is now, with its texts: who reads this line needs no other."""
        self.final(row, sent, delivered, mark=AMEND)

    def _note(self, line: Pieces, record: Mapping[str, Any]) -> None:
        if self.gathers:
            self._held.append((line, record))
            self.outbox.schedule()
        else:
            self._put(line, record)

    def _put(self, line: Pieces, record: Mapping[str, Any] | None = None, failure: OSError | None = None) -> None:
        """Write a line by itself: the news of a `record`, or none's. `failure` is what a first try came to."""
        written = self._write(line) if failure is None else self._write_elsewhere(line, failure)
        self._room -= written
        self._after(line, written, record)

    def _after(self, line: Pieces, written: int, record: Mapping[str, Any] | None) -> None:
        """What a line may need beyond its write.

        A second one when that was short, a new segment behind it when this one is full, and to be kept until the sync.
        """
        if written != _size(line):
            self._room -= self._write_elsewhere(line, None)
        if self._filled > self._segment_bytes:
            self._rotate()
        if self._power and record is not None:
            self._written += 1
            self._unsynced[record["request_id"]] = line

    @property
    def _filled(self) -> int:
        """Bytes in the present segment."""
        return self._whole_room - self._room

    def _write(self, line: Pieces) -> int:
        try:
            return os.writev(self._fd, line)
        except OSError as error:
            return self._write_elsewhere(line, error)

    def _write_elsewhere(self, line: Pieces, failure: OSError | None) -> int:
        """The second and last try: without the ballast, and in a new segment when the old one is torn or refuses writes.

        `failure` is None after a short write, which tears the segment and counts as a full disk.
        """
        self.healthy = False
        drop_ballast(self._directory)
        if failure is None:
            self._fd = -1
        try:
            if failure is None or failure.errno not in _FULL:
                self._open_segment()
            written = os.writev(self._fd, line)
        except OSError as error:
            raise LogUnavailable from error
        if written != _size(line):
            self._fd = -1
            raise LogUnavailable
        self.healthy = True
        return written

    def _open_segment(self) -> None:
        """Make the next segment and leave the present one.

        The lock is taken before the name exists, so no reader sees it unlocked.
        """
        path = self._directory / segment_name(self._writer, self._seq + 1)
        unnamed = path.with_suffix(".tmp")
        fd = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            give_to_owner_of(self._directory, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
        except OSError:
            os.close(fd)
            unnamed.unlink(missing_ok=True)
            raise
        self._leave_segment()
        self._fd = self._locked_fd = fd
        self._seq, self._room = self._seq + 1, self._whole_room
        self._opened = time.monotonic()

    def _leave_segment(self) -> None:
        if self._locked_fd < 0:
            return
        if self._power:
            self._left.append(self._locked_fd)
        else:
            os.close(self._locked_fd)
        self._fd = self._locked_fd = -1

    def _rotate(self) -> None:
        """Go on in a new segment; where none can be made, in the old one."""
        try:
            self._open_segment()
        except OSError:
            self._opened = time.monotonic()

    def rotate_if_due(self) -> None:
        """Call about once a second. Ends a segment that is old and not empty, so that it can be stored and removed.

        While unhealthy it tries a line of its own: readiness comes back without a request having to fail first.
        """
        if not self.healthy:
            try:
                self._put(_PROBE_LINE)
                self.healthy = True
            except LogUnavailable:
                return
        if self._filled and time.monotonic() - self._opened >= self._segment_seconds:
            self._rotate()

    async def sync(self) -> None:
        """Return when every line written so far survives a power cut; at once when durability is "crash".

        Waiters share one fsync. A failed fsync may have dropped the pages and the next one would not say so: what was not
        synced is written again from memory, in a new segment, and synced there. When that fails too: `LogUnavailable`.
        """
        target, failures = self._written, 0
        while self._synced < target:
            group = self._group = self._group or self._start_group()
            if group.done():  # its end is noted in the next turn of the loop, for which nobody else would wait here
                await asyncio.sleep(0)
            elif not await asyncio.shield(group):
                failures += 1
                if failures == 2:
                    raise LogUnavailable

    def _start_group(self) -> asyncio.Future[bool]:
        if self._rewrite:
            self._write_again()
        try:
            names = os.open(self._directory, os.O_RDONLY)
            try:
                fds = [*self._left, os.dup(self._locked_fd), names]
            except OSError:
                os.close(names)
                raise
        except OSError as error:
            raise LogUnavailable from error
        batch, self._left, self._unsynced = self._unsynced, [], {}
        group = asyncio.get_running_loop().run_in_executor(None, _sync_and_close, fds)
        group.add_done_callback(partial(self._end_group, self._written, batch))
        return group

    def _end_group(self, upto: int, batch: dict[str, Pieces], group: asyncio.Future[bool]) -> None:
        """Runs before any waiter resumes: callbacks are called in the order they were added."""
        self._group = None
        if not group.cancelled() and group.exception() is None and group.result():
            self._synced = upto
            return
        self._unsynced = {**batch, **self._unsynced}
        self._rewrite = True
        self.healthy = False

    def _write_again(self) -> None:
        """Only the last line of each request is repeated: repeating an older one could undo what a reader already knows."""
        try:
            self._open_segment()
        except OSError as error:
            raise LogUnavailable from error
        for line in self._unsynced.values():
            self._put(line)
        self._rewrite, self.healthy = False, True

    def close(self) -> None:
        """Write what was gathered and leave the last segment. From here on this writer counts as gone. Idempotent."""
        try:
            self.flush()
        except LogUnavailable:
            pass  # nothing that waited for these lines has left
        self._leave_segment()
        for fd in self._left:
            os.close(fd)
        self._left = []


def keep_ballast(directory: str | Path) -> None:
    """Have a file in reserve whose removal makes room on a full disk: an eighth of what is free, at most 16 MiB. It is its
    owner's alone, as every file of muxx's, though nothing is ever in it."""
    ballast = Path(directory, BALLAST)
    if ballast.exists():
        return
    free = os.statvfs(directory)
    size = min(BALLAST_BYTES, free.f_bavail * free.f_frsize // 8)
    unnamed = ballast.with_suffix(".tmp")
    try:
        unnamed.unlink(missing_ok=True)  # of a process that died at it, or a link that leads to somebody's file
        with open(os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        unnamed.rename(ballast)
    except OSError:
        unnamed.unlink(missing_ok=True)


def drop_ballast(directory: str | Path) -> None:
    try:
        Path(directory, BALLAST).unlink(missing_ok=True)
    except OSError:
        pass

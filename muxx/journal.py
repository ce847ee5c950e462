"""The writing end of the journal: append-only files of what must not be lost.

Invariants, beside those of a line and a segment in `muxx.segments`:

- A line that `trace`, `final` or `amend` returned from is in the kernel's hands: `kill -9` cannot lose it. After `sync` a power
  cut cannot either, when durability is "power".
- Each line is one write. A writer that got a short one goes on in a new segment, so a torn line is the last of its segment.
- All lines of a request come from one writer, in order.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .errors import LogUnavailable, StartError
from .exchange import Record
from .segments import Kind, encode, segment_name
from .segments import find_record as find_record

Durability = Literal["crash", "power"]

BALLAST = "ballast"
BALLAST_BYTES = 16 * 1024 * 1024
PROBE_BYTES = 4096
"""A file system's usual block: a probe must not fit into what is left of one on a full disk."""

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
        self._seq = 0
        self._size = 0
        self._opened = 0.0
        self._torn = False
        self._left: list[int] = []
        """Segments left but not yet synced (durability "power" only)."""
        self._unsynced: dict[str, bytes] = {}
        """Last line of each request since the last sync (durability "power" only): what a failed fsync may have lost."""
        self._rewrite = False
        self._written = 0
        self._synced = 0
        self._group: asyncio.Future[bool] | None = None
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._open_segment()
        except OSError as error:
            raise StartError(f"{self._directory}: cannot write the journal there: {error.strerror}", 3) from error

    def trace(self, record: Record | dict[str, Any]) -> None:
        """Note a request that is about to be sent to a provider. Raises `LogUnavailable` when that cannot be noted."""
        self._put("trace", record)

    def final(self, record: Record | dict[str, Any]) -> None:
        """Note a request's row. When this returned, its answer may be acknowledged (durability "power": after `sync`)."""
        self._put("final", record)

    def amend(self, record: Record | dict[str, Any], changes: Mapping[str, Any]) -> None:
        """Note the row of an earlier `final` again, with `changes`.

        The line holds the whole row, so whoever reads it needs no other.
        """
        self._put("amend", {**record, **changes})

    def _put(self, kind: Kind, record: Mapping[str, Any]) -> None:
        line = encode(kind, record)
        if self._size >= self._segment_bytes:
            self._rotate()
        self._append(line)
        if self._power:
            self._written += 1
            self._unsynced[record["request_id"]] = line

    def _append(self, line: bytes) -> None:
        """Write `line` whole, once, or raise `LogUnavailable`."""
        if self._torn:
            self._append_again(line, 0)
        elif failure := self._write(line):
            self._append_again(line, failure)

    def _write(self, line: bytes) -> int:
        """One write. 0, or the errno of its failure; a short write tears the segment and counts as a full disk."""
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            return error.errno or errno.EIO
        self._size += written
        if written == len(line):
            return 0
        self._torn = written > 0
        return errno.ENOSPC

    def _append_again(self, line: bytes, failure: int) -> None:
        """The second and last try: without the ballast, and in a new segment when the old one is torn or refuses writes."""
        self.healthy = False
        drop_ballast(self._directory)
        try:
            if self._torn or failure not in _FULL:
                self._open_segment()
        except OSError as error:
            raise LogUnavailable from error
        if self._write(line):
            raise LogUnavailable
        self.healthy = True

    def _open_segment(self) -> None:
        """Make the next segment and leave the present one.

        The lock is taken before the name exists, so no reader sees it unlocked.
        """
        path = self._directory / segment_name(self._writer, self._seq + 1)
        unnamed = path.with_suffix(".tmp")
        fd = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
        except OSError:
            os.close(fd)
            unnamed.unlink(missing_ok=True)
            raise
        self._leave_segment()
        self._fd, self._seq, self._size, self._torn = fd, self._seq + 1, 0, False
        self._opened = time.monotonic()

    def _leave_segment(self) -> None:
        if self._fd < 0:
            return
        if self._power:
            self._left.append(self._fd)
        else:
            os.close(self._fd)
        self._fd = -1

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
                self._append(encode("probe", {"pad": " " * PROBE_BYTES}))
                self.healthy = True
            except LogUnavailable:
                return
        if self._size and time.monotonic() - self._opened >= self._segment_seconds:
            self._rotate()

    async def sync(self) -> None:
        """Return when every line written so far survives a power cut; at once when durability is "crash".

        Waiters share one fsync. A failed fsync may have dropped the pages and the next one would not say so: what was not
        synced is written again from memory, in a new segment, and synced there. When that fails too: `LogUnavailable`.
        """
        target, failures = self._written, 0
        while self._synced < target:
            if self._group is None:
                self._group = self._start_group()
            if not await asyncio.shield(self._group):
                failures += 1
                if failures == 2:
                    raise LogUnavailable

    def _start_group(self) -> asyncio.Future[bool]:
        if self._rewrite:
            self._write_again()
        try:
            names = os.open(self._directory, os.O_RDONLY)
            try:
                fds = [*self._left, os.dup(self._fd), names]
            except OSError:
                os.close(names)
                raise
        except OSError as error:
            raise LogUnavailable from error
        batch, self._left, self._unsynced = self._unsynced, [], {}
        group = asyncio.get_running_loop().run_in_executor(None, _sync_and_close, fds)
        group.add_done_callback(partial(self._end_group, self._written, batch))
        return group

    def _end_group(self, upto: int, batch: dict[str, bytes], group: asyncio.Future[bool]) -> None:
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
            self._append(line)
        self._rewrite, self.healthy = False, True

    def close(self) -> None:
        """Leave the last segment. From here on this writer counts as gone. Idempotent."""
        self._leave_segment()
        for fd in self._left:
            os.close(fd)
        self._left = []


def keep_ballast(directory: str | Path) -> None:
    """Have a file in reserve whose removal makes room on a full disk: a quarter of what is free, at most 16 MiB."""
    ballast = Path(directory, BALLAST)
    if ballast.exists():
        return
    free = os.statvfs(directory)
    size = min(BALLAST_BYTES, free.f_bavail * free.f_frsize // 4)
    unnamed = ballast.with_suffix(".tmp")
    try:
        with open(unnamed, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        unnamed.rename(ballast)
    except OSError:
        unnamed.unlink(missing_ok=True)


def drop_ballast(directory: str | Path) -> None:
    try:
        Path(directory, BALLAST).unlink(missing_ok=True)
    except OSError:
        pass

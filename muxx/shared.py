"""Numbers every process of this host sees at once: one small file, mapped into memory.

Layout, little words of 8 bytes in the machine's own byte order (the file never leaves its host):

    0     magic, "muxxshm" and the layout's version as one byte
    64    version of table "keys"
    72    version of table "projects"
    80    504 - 2 versions of what plugins name, each at the place its name's CRC-32 gives; two names may have one place
    4096  directory of tables: 128 entries of 16 bytes of the name's and layout's hash, 8 of where it begins, 8 of its size
    8192  the tables (`muxx.counters`), each on a page of its own

Invariants: a version only grows. A reader needs no lock, because an aligned word is read and written whole. Writers hold a
byte-range lock on their word, and the kernel releases it when its holder dies. The file is never deleted while a process has it
open.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from .counters import Counters, grow, table_bytes
from .errors import StartError

MAGIC = b"muxxshm\x01"
SIZE = 4096
TABLES = {"keys": 64 // 8, "projects": 72 // 8}
FIRST_NAMED = 80 // 8
NAMED = SIZE // 8 - FIRST_NAMED
DIRECTORY = SIZE
TABLES_AT = 8192


@lru_cache(maxsize=1024)
def _word(name: str) -> int:
    """Where a name's version stands."""
    return TABLES.get(name) or FIRST_NAMED + crc32(name.encode()) % NAMED


_FLOCK = struct.Struct("@hhqqi4x")
_ENTRY = struct.Struct("=16sQQ")
_fcntl, _SETLKW = fcntl.fcntl, fcntl.F_OFD_SETLKW


class Holding:
    """Holds places of the file while its block runs, as often as it is used. (A generator would take twice as long.)"""

    __slots__ = ("_fd", "_locks", "_thread_lock", "_unlocks")

    def __init__(self, fd: int, thread_lock: threading.RLock, places: Sequence[int]) -> None:
        self._fd = fd
        self._thread_lock = thread_lock
        self._locks = [_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 8, 0) for place in places]
        self._unlocks = [_FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, place, 8, 0) for place in places]

    def __enter__(self) -> None:
        self._thread_lock.acquire()
        try:
            for lock in self._locks:
                _fcntl(self._fd, _SETLKW, lock)
        except BaseException:
            self._let_go()
            raise

    def __exit__(self, *exception: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        try:
            for unlock in self._unlocks:
                _fcntl(self._fd, _SETLKW, unlock)
        finally:
            self._thread_lock.release()


class Shared:
    """The mapped file. Any number of objects and processes may have it open; safe between threads."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.made = False
        """It was not there, or empty: this is the first to use it."""
        self._thread_lock = threading.RLock()
        self._counters: dict[str, Counters] = {}
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StartError(f"{path}: cannot open it: {error.strerror}. Check its owner and permissions.", 3) from error
        try:
            with self._locked(0):
                self._initialise()
            self._map = mmap.mmap(self._fd, SIZE)
        except OSError as error:
            os.close(self._fd)
            raise StartError(f"{path}: cannot be used: {error.strerror}", 3) from error
        except BaseException:
            os.close(self._fd)
            raise
        self._words = memoryview(self._map).cast("Q")

    def _initialise(self) -> None:
        """Give a new file its size, then its magic; a process that dies in between leaves a file that is still new. A file that
        is not ours stays as it is."""
        magic = os.pread(self._fd, len(MAGIC), 0)
        if any(magic) and magic != MAGIC:
            raise StartError(f"{self._path}: not written by this version of muxx. Stop every muxx here, then delete it.", 3)
        if os.fstat(self._fd).st_size < SIZE:
            os.ftruncate(self._fd, SIZE)
        if not any(magic):
            os.pwrite(self._fd, MAGIC, 0)
            self.made = True

    @property
    def is_lost(self) -> bool:
        """The file has been deleted or replaced: who opens it from now on sees other numbers. (Some file systems give a file
        another number each time it is opened, so it is not told by that.)"""
        return os.fstat(self._fd).st_nlink == 0 or not os.path.exists(self._path)

    def version(self, name: str) -> int:
        """The version of a table, or of whatever a plugin gives a name: it differs from an earlier answer when some process has
        bumped it since. It may differ without that, for names can share a place."""
        return self._words[_word(name)]

    def bump(self, name: str) -> int:
        """Tell every process that it has changed; call it after the change is committed. Returns the new version."""
        word = _word(name)
        with self._locked(word * 8):
            self._words[word] += 1
            return self._words[word]

    def counters(self, name: str, records: int, words: int) -> Counters:
        """The table of that name, with room for about so many records of so many words each; made, empty, where it is not there.

        It outlives the processes, but not the host: after a boot it is empty again. Everybody has to ask for the same layout, and
        another layout is another table. `StartError` when there is no room on the disk.
        """
        table = self._counters.get(name)
        if table is None:
            try:
                key = blake2b(f"{name}/{records}/{words}".encode(), digest_size=16).digest()
                with self._locked(DIRECTORY):
                    offset = self._find_table(key, records, words)
                    table = Counters(self._fd, offset, records, words)
            except OSError as error:
                size = table_bytes(records, words) // 1024
                text = f"{self._path}: no room for the counters of {name}, {size} KiB: {error.strerror}. Make room there."
                raise StartError(text, 3) from error
            with self._locked(table.head):
                table.begin()
            self._counters[name] = table
        return table

    def _find_table(self, key: bytes, records: int, words: int) -> int:
        """Where a table begins. Its entry is written last: a process that dies before leaves room nobody uses."""
        size, end = table_bytes(records, words), TABLES_AT
        for at in range(DIRECTORY, TABLES_AT, _ENTRY.size):
            entry = os.pread(self._fd, _ENTRY.size, at)
            known, offset, its_size = _ENTRY.unpack(entry) if len(entry) == _ENTRY.size else (b"", 0, 0)
            if known == key:
                return int(offset)
            if not its_size:
                grow(self._fd, DIRECTORY, end + size - DIRECTORY)
                os.pwrite(self._fd, _ENTRY.pack(key, end, size), at)
                return end
            end = offset + its_size
        raise StartError(f"{self._path}: holds too many tables. Stop every muxx here, then delete it.", 3)

    def holding(self, places: Sequence[int]) -> Holding:
        """Hold these places of tables (`Counters.place`) against every other process, object and thread.

        Give them sorted, or two holders of several may wait for one another for ever. Who holds the head of a table may hold
        places besides, never the other way round. Wait for nothing meanwhile. Who holds the same places again and again keeps the
        answer, which costs less.
        """
        return Holding(self._fd, self._thread_lock, places)

    @contextmanager
    def _locked(self, offset: int) -> Iterator[None]:
        """Hold the 8 bytes at `offset` against every other process, object and thread.

        Linux's open-file-description locks belong to this object; classic fcntl locks belong to the process, and would vanish as
        soon as any other object of it closed the file.
        """
        with self._thread_lock:
            self._lock(fcntl.F_WRLCK, offset)
            try:
                yield
            finally:
                self._lock(fcntl.F_UNLCK, offset)

    def _lock(self, kind: int, offset: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(kind, os.SEEK_SET, offset, 8, 0))

    def close(self) -> None:
        """Unmap the file. Idempotent."""
        if self._fd >= 0:
            for table in self._counters.values():
                table.close()
            self._words.release()
            self._map.close()
            os.close(self._fd)
            self._fd = -1

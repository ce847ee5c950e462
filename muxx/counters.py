"""A table of small records in the host's shared file, found by key: what every process counts in.

Layout of a table, which begins on a page of its own, in words of 8 bytes in the machine's own byte order:

    0     CRC-32 of the boot it was written in: the monotonic clock starts anew with the host, and so does the table
    8     1 when its owner has filled it since (`filled`)
    4096  the sets: each 16 keys of 16 bytes, then the 16 records that belong to them

A key's CRC-32 names its set, and it stands nowhere else: whoever holds the set's lock may look for it, make it a record and
change that. The file keeps its size, however many keys there are. A record's first word says until when it has to be kept, in
milliseconds of the monotonic clock; later its place may go to another key.

Invariants: a record is zeroed before a key gets it, so a process that dies in between leaves a record that says nothing. Words
are written whole. A lock falls with its holder.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

KEY_BYTES = 16
SET_RECORDS = 16
HEADER = 4096
MOST_SEEN = 4096
"""Keys that a process remembers the places of."""
_KEYS = SET_RECORDS * KEY_BYTES
_NO_KEY = bytes(KEY_BYTES)


@cache
def boot() -> int:
    """What tells this boot of the host from every other; 0 where nothing does."""
    try:
        return crc32(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    except OSError:
        return 0


def table_bytes(records: int, words: int) -> int:
    """Bytes of a table with room for so many records, rounded up to whole sets and pages."""
    sets = -(-records // SET_RECORDS)
    return HEADER + -(-sets * (_KEYS + SET_RECORDS * words * 8) // mmap.PAGESIZE) * mmap.PAGESIZE


class Counters:
    """Records of `words` unsigned 64-bit words; `table[i]` is a word, `find` gives a record's first.

    Made by `shared.counters`. Look and change only while `shared.holding` holds the key's place.
    """

    def __init__(self, fd: int, offset: int, records: int, words: int) -> None:
        """`offset` is where the table begins in the file: it has to be there already, as long as `table_bytes` says."""
        self._map = mmap.mmap(fd, table_bytes(records, words), offset=offset)
        self.table = memoryview(self._map).cast("Q")
        self._offset = offset
        self._sets = -(-records // SET_RECORDS)
        self._set_bytes = _KEYS + SET_RECORDS * words * 8
        self._words = words
        self._seen: dict[bytes, tuple[int, int]] = {}
        """Where a key and its record stood when they were last found; its place may be another key's by now."""

    def begin(self) -> None:
        """Empty a table of another boot. Call it while its first word is held."""
        if self.table[0] != boot():
            if self.table[0]:  # a new one is empty, and takes no memory before it is used
                self._map[8:] = bytes(len(self._map) - 8)
            self.table[0] = boot()

    @property
    def filled(self) -> bool:
        """Whether its owner has filled it since it was last empty; for the owner to set, while `head` is held."""
        return self.table[1] == 1

    @filled.setter
    def filled(self, value: bool) -> None:
        self.table[1] = int(value)

    @property
    def head(self) -> int:
        """The place that stands for the whole table's beginning, for `shared.holding`."""
        return self._offset

    def place(self, key: bytes) -> int:
        """Where in the file the lock of this key's set lies, for `shared.holding`. Keys may share one."""
        return self._offset + HEADER + crc32(key) % self._sets * self._set_bytes

    def peek(self, key: bytes) -> int | None:
        """The index in `table` of the key's record; None where it has none."""
        seen = self._seen.get(key)
        if seen is not None and self._map[seen[0] : seen[0] + KEY_BYTES] == key:
            return seen[1]
        start = self.place(key) - self._offset
        at = self._map.find(key, start, start + _KEYS)
        while at >= 0 and (at - start) % KEY_BYTES:
            at = self._map.find(key, at + 1, start + _KEYS)
        if at < 0:
            return None
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen[key] = at, self._record(start, (at - start) // KEY_BYTES)
        return self._seen[key][1]

    def records(self) -> Iterator[int]:
        """The index of every record that a key has, also of those nobody needs any more. Look closer while its place is held."""
        for number in range(self._sets):
            start = HEADER + number * self._set_bytes
            keys = self._map[start : start + _KEYS]
            if any(keys):
                for place in range(SET_RECORDS):
                    if keys[place * KEY_BYTES : (place + 1) * KEY_BYTES] != _NO_KEY:
                        yield self._record(start, place)

    def find(self, key: bytes, now: int, owner_bytes: int = 0) -> int | None:
        """As `peek`; a key without a record gets one, all zero, in a place nobody uses or needs any more at `now` (milliseconds).

        None when there is no such place. With `owner_bytes`, so many of a key's first name its owner, and none is shut out by
        another: where a set is full, whoever has most of it gives up what was longest unused to one who has less.
        """
        found = self.peek(key)
        return self._make(key, now, owner_bytes) if found is None else found

    def _make(self, key: bytes, now: int, owner_bytes: int) -> int | None:
        start, kept, chosen = self.place(key) - self._offset, now + 1, None
        for number in range(SET_RECORDS):
            at = start + number * KEY_BYTES
            until = self.table[self._record(start, number)]
            if self._map[at : at + KEY_BYTES] == _NO_KEY:
                until = 0
            if until < kept:
                kept, chosen = until, number
        if chosen is None and owner_bytes:
            chosen = self._given_up(start, key[:owner_bytes])
        if chosen is None:
            return None
        at, record = start + chosen * KEY_BYTES, self._record(start, chosen)
        self._map[at : at + KEY_BYTES] = _NO_KEY
        self._map[record * 8 : (record + self._words) * 8] = bytes(self._words * 8)
        self._map[at : at + KEY_BYTES] = key
        return record

    def _given_up(self, start: int, owner: bytes) -> int | None:
        """The place that a full set has for that owner; None where no other has more than it would have then."""
        owners = [bytes(self._map[at : at + len(owner)]) for at in range(start, start + _KEYS, KEY_BYTES)]
        has = Counter(owners)
        most = max(has.values())
        if most < has[owner] + 2:
            return None
        places = [number for number, name in enumerate(owners) if has[name] == most]
        return min(places, key=lambda number: self.table[self._record(start, number)])

    def _record(self, start: int, number: int) -> int:
        return (start + _KEYS) // 8 + number * self._words

    def close(self) -> None:
        """Unmap it."""
        self.table.release()
        self._map.close()


def grow(fd: int, offset: int, size: int) -> None:
    """Have the file's blocks there before they are mapped: on a full disk a page without one kills whoever touches it."""
    os.posix_fallocate(fd, offset, size)

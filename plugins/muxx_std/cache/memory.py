"""The answers, in this worker's memory: at most so many bytes of them, the least recently used leaving first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cachetools import Cache, LRUCache

from muxx import WholeAnswer

OVERHEAD = 1024
"""Bytes an entry takes beside its answer's own: key, values and their places. Measured, and rounded up."""


class Entry(NamedTuple):
    """A stored answer. Its times are monotonic seconds: no clock that is set makes an answer younger or older."""

    answer: WholeAnswer
    project: str
    stored_at: float
    expires_at: float


def _size(entry: Entry) -> int:
    return len(entry.answer.body) + OVERHEAD


class Memory:
    """Keys to entries. Every step takes the same time, however many there are, but for `drop` and `drop_expired`."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[bytes, Entry] = LRUCache(max_bytes, getsizeof=_size)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes the entries take, their overhead included."""
        return int(self._entries.currsize)

    def get(self, key: bytes) -> Entry | None:
        entry: Entry | None = self._entries.get(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Store an entry, in the place of older ones where there is no room; whether it fits at all."""
        if _size(entry) > self._entries.maxsize:
            return False
        self._entries[key] = entry
        return True

    def drop(self, project: str) -> None:
        """Forget a project's entries."""
        for key in [key for key in self._entries if self._peek(key).project == project]:
            del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()

    def keys(self) -> list[bytes]:
        return list(self._entries)

    def drop_expired(self, keys: Iterable[bytes], now: float) -> None:
        """Forget those of `keys` whose time is over."""
        for key in keys:
            if key in self._entries and self._peek(key).expires_at <= now:
                del self._entries[key]

    def _peek(self, key: bytes) -> Entry:
        """An entry, without this being a use of it."""
        entry: Entry = Cache.__getitem__(self._entries, key)
        return entry

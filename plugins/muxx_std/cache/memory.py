"""The answers, in this worker's memory: at most so many bytes of them, the least recently used leaving first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from muxx import WholeAnswer

OVERHEAD = 1200
"""Bytes an entry takes beside its answer's own: key, values and their places. Measured, and rounded up."""


class Entry(NamedTuple):
    """A stored answer. Its times are monotonic seconds: no clock that is set makes an answer younger or older."""

    answer: WholeAnswer
    project: str
    expires_at: float
    request_id: str
    """Whose answer it is."""


def _size(entry: Entry) -> int:
    """With room for what the kernel keeps of an answer it has given again, which is less than a quarter of a stream."""
    size = len(entry.answer.body)
    return (size + size // 4 if entry.answer.is_stream else size) + OVERHEAD


class Memory:
    """Keys to entries, the least recently used first. Every step takes the same time, however many there are, but for `drop` and
    `drop_expired`."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._max_bytes = max_bytes
        self.size = 0
        """Bytes the entries take, their overhead included."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry, which is used thereby."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Store an entry, in the place of the least recently used ones where there is no room; whether it fits at all."""
        size = _size(entry)
        if size > self._max_bytes:
            return False
        if key in self._entries:
            self._forget(key)
        while self.size + size > self._max_bytes:
            self._forget(next(iter(self._entries)))
        self._entries[key] = entry
        self.size += size
        return True

    def _forget(self, key: bytes) -> None:
        self.size -= _size(self._entries.pop(key))

    def drop(self, project: str) -> None:
        """Forget a project's entries."""
        for key in [key for key, entry in self._entries.items() if entry.project == project]:
            self._forget(key)

    def keys(self) -> list[bytes]:
        return list(self._entries)

    def drop_expired(self, keys: Iterable[bytes], now: float) -> None:
        """Forget those of `keys` whose time is over."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.expires_at <= now:
                self._forget(key)

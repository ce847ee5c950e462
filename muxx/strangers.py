"""Whoever asks without a key that works is held to so many answers a minute, by its address.

Of their refusals so many rows a second are kept, and the rest are only counted: nobody unknown may own our disk.

Only a request that has failed to say who it is comes here, so all others cost nothing, and a key that works is let in from any
address: users behind one router do not shut one another out. All workers of a host count in the same table. Its size is fixed;
an address that finds no room in it is refused until there is some.

A record of a table holds two words: until when its time runs, and how often its key came in it.
"""

from __future__ import annotations

import time
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from .counters import KEY_BYTES
from .errors import AuthenticationError, StrangerLimited

if TYPE_CHECKING:
    from .counters import Counters
    from .shared import Shared

RECORDS = 32_768
"""Addresses that can be counted in one minute: 1 MiB of the shared file."""
WORDS = 2
MINUTE = 60_000
"""Milliseconds."""
SECOND = 1_000
NO_ROOM_WAIT = 1_000
ROWS_PER_SECOND = 100
"""Kept of requests without a valid key, on the whole host."""

_UNTIL, _COUNT = range(WORDS)
_NETWORK_BYTES = 8
_ANYBODY = b"?".ljust(KEY_BYTES)


class Window:
    """Lets each key pass so often in a time that begins with its first. Any number of these, in any number of processes of the
    host, count together."""

    def __init__(self, shared: Shared, name: str, records: int, most: int, milliseconds: int) -> None:
        self._shared = shared
        self._name = name
        self._records = records
        self._most = most
        self._milliseconds = milliseconds

    @cached_property
    def table(self) -> Counters:
        return self._shared.counters(self._name, self._records, WORDS)

    def open(self) -> None:
        """Have the table there: a request is no time to find that there is no room on the disk. Raises `StartError`."""
        _ = self.table

    def wait(self, key: bytes) -> int:
        """Count one more, or say in how many milliseconds there may be one."""
        words = self.table.table
        with self._shared.holding((self.table.place(key),)):
            now = time.monotonic_ns() // 1_000_000
            at = self.table.find(key, now)
            if at is None:
                return NO_ROOM_WAIT
            if words[at + _UNTIL] <= now:
                words[at + _COUNT] = 0
                words[at + _UNTIL] = now + self._milliseconds
            if words[at + _COUNT] >= self._most:
                return words[at + _UNTIL] - now
            words[at + _COUNT] += 1
            return 0


class Strangers:
    """The addresses of this host's callers without a key, and the rows that are kept of them."""

    def __init__(self, shared: Shared, per_minute: int) -> None:
        """`per_minute`: refusals of an address, in a minute that begins with the first; 0: any number."""
        self._per_minute = per_minute
        self.addresses = Window(shared, "strangers", RECORDS, per_minute, MINUTE)
        self._rows = Window(shared, "strangers.rows", 1, ROWS_PER_SECOND, SECOND)

    def open(self) -> None:
        """Have the tables there."""
        self._rows.open()
        if self._per_minute:
            self.addresses.open()

    def keeps_row(self) -> bool:
        """Whether the row of one more of them is kept."""
        return not self._rows.wait(_ANYBODY)

    def told(self, refusal: AuthenticationError, remote: str | None) -> AuthenticationError | StrangerLimited:
        """What that address is told: its 401, or a 429 once it was told so too often."""
        wait = self.addresses.wait(key_of(remote)) if self._per_minute else 0
        return StrangerLimited(self._per_minute, wait / 1000) if wait else refusal


def key_of(remote: str | None) -> bytes:
    """What an address is counted as. Of IPv6 a caller mostly has a whole /64, and an IPv4 address inside one is that address.
    Callers without an address, as those of a socket in the file system, are counted together."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return _ANYBODY
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return (b"6" + address.packed[:_NETWORK_BYTES]).ljust(KEY_BYTES)
        address = address.ipv4_mapped
    return (b"4" + address.packed).ljust(KEY_BYTES)

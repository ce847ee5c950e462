"""How many requests every worker of the host has under way, told to all of them through the host's shared memory."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muxx import Gateway, Shared

EVERY_SECONDS = 1.0
KEPT_MS = 10_000
"""After so long without a word from a worker it counts as gone."""
WORKERS = 1_024
WORDS = 2
"""Of a record: until when it holds, and how many requests run."""


class Running(NamedTuple):
    workers: int
    requests: int


def tell(gateway: Gateway) -> None:
    """Say how many requests this worker has under way."""
    shared = gateway.shared
    table = shared.counters("metrics.running", WORKERS, WORDS)
    key, now = blake2b(b"%d" % gateway.worker, digest_size=16).digest(), _now()
    with shared.holding([table.place(key)]):
        at = table.find(key, now)
        if at is not None:
            table.table[at] = now + KEPT_MS
            table.table[at + 1] = len(gateway.calls)


def read(shared: Shared) -> Running:
    """What the workers have said."""
    table, now = shared.counters("metrics.running", WORKERS, WORDS), _now()
    said = [table.table[at + 1] for at in table.records() if table.table[at] > now]
    return Running(len(said), sum(said))


def _now() -> int:
    return time.monotonic_ns() // 1_000_000

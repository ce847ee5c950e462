"""What makes two requests the same: a SHA-256 over everything that may change the answer.

Never anything shorter or faster that somebody could aim at: a collision would show one caller another's answer. Each field goes
in with its length before it, so that no two lists of fields read as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from orjson import OPT_SORT_KEYS, dumps

NOT_COUNTED = frozenset({"stream", "stream_options", "user", "metadata", "store"})
"""Members of a body that leave the answer as it is."""

STORED = ("background", "conversation", "previous_response_id", "thread")
"""Members by which an answer goes on from what the provider has stored, or is stored by it to be gone on from."""

SPECIAL = NOT_COUNTED.union(STORED)
"""Members for which a body has to be looked at more closely."""


def prefix(fields: Iterable[str]) -> bytes:
    """The part of a key that a connection's requests share, to be `finish`ed: 32 bytes."""
    digest = sha256()
    for field in fields:
        data = field.encode("utf-8", "surrogateescape")
        digest.update(b"%d:%b" % (len(data), data))
    return digest.digest()


def finish(prefix: bytes, body: Mapping[str, Any]) -> bytes | None:
    """The key of a request with this body; None where its answer is not to be kept. The order of its members and white space do
    not count."""
    if not SPECIAL.isdisjoint(body):
        if not _is_cacheable(body):
            return None
        body = {name: value for name, value in body.items() if name not in NOT_COUNTED}
    return sha256(prefix + dumps(body, option=OPT_SORT_KEYS)).digest()


def _is_cacheable(body: Mapping[str, Any]) -> bool:
    """False where the answer is more than its text: one the provider is to store, or one that goes on from what it has stored."""
    return body.get("store") is not True and not any(body.get(name) for name in STORED)

"""The program of a process that reads the log for a worker: started by `muxx.scanning`, by its path, so that it imports nothing
of muxx and takes a few megabytes.

python -I -S scanprocess.py DATABASE NICENESS BUSY_MS

A message is four bytes of length and JSON, in which an object `{"$bytes": hex}` stands for bytes. Asked `[sql, params, seconds or
null]`, it answers any number of `["more", [name, …], [[value, …], …]]`, then one such `["last", …]`; or in its place `["late"]`,
or `["error", class, text]`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any, BinaryIO
from urllib.parse import quote

ROWS_A_MESSAGE = 100
"""So that whoever takes them is never busy for long."""
STEPS_A_LOOK = 2000
"""Steps of SQLite's machine between two looks at the clock: about a tenth of a millisecond."""
LENGTH_BYTES = 4
_BYTES = "$bytes"


def main(path: str, niceness: str, busy_ms: str) -> None:
    """Answer what comes on the standard input until it ends, as it does when the worker does."""
    os.nice(int(niceness))
    db = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, isolation_level=None)
    db.execute(f"PRAGMA busy_timeout = {int(busy_ms):d}")
    db.execute("PRAGMA query_only = ON")
    while (head := sys.stdin.buffer.read(LENGTH_BYTES)) and len(head) == LENGTH_BYTES:
        sql, params, seconds = decoded(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        _answer(db, sys.stdout.buffer, sql, params, seconds)


def _answer(
    db: sqlite3.Connection, out: BinaryIO, sql: str, params: Sequence[Any] | dict[str, Any], seconds: float | None
) -> None:
    ends = None if seconds is None else time.monotonic() + seconds
    db.set_progress_handler(None if ends is None else lambda: time.monotonic() > ends, STEPS_A_LOOK)
    try:
        cursor = db.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        while len(rows := cursor.fetchmany(ROWS_A_MESSAGE)) == ROWS_A_MESSAGE:
            _say(out, "more", names, rows)
        _say(out, "last", names, rows)
    except sqlite3.Error as error:
        late = ends is not None and time.monotonic() > ends
        _say(out, *(("late",) if late else ("error", type(error).__name__, str(error))))
    out.flush()


def _say(out: BinaryIO, *message: Any) -> None:
    out.write(message_of(message))


def message_of(value: Any) -> bytes:
    data = json.dumps(value, separators=(",", ":"), default=_tagged).encode()
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def decoded(data: bytes) -> Any:
    """What `message_of` said, lists for tuples, from what follows its length."""
    return json.loads(data, object_hook=_untagged)


def _tagged(value: Any) -> dict[str, str]:
    return {_BYTES: bytes(value).hex()}


def _untagged(found: dict[str, Any]) -> Any:
    return bytes.fromhex(found[_BYTES]) if found.keys() == {_BYTES} else found


if __name__ == "__main__":
    main(*sys.argv[1:])

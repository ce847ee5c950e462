"""Reading many rows of the log beside requests: in processes apart, which leave the core to the worker they read for.

A thread would do it in the worker's own time: it takes the interpreter's lock for every row, and the core's caches. A process is
started when first something is read, and ends when nothing has been for a while.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import scanprocess
from .scanprocess import LENGTH_BYTES, decoded, message_of

IDLE_SECONDS = 60.0
"""How long a process is kept that nobody asks."""
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR", "SQLITE_TMPDIR")
"""What a Python program may need to start and SQLite to sort. The other variables hold the gateway's secrets."""


class ScannedRow:
    """Values by their place or their column's name, as in a `sqlite3.Row`, which nothing but SQLite can make."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Sequence[Any]) -> None:
        self._places = places
        self._values = values

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._places[key] if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> list[str]:
        return list(self._places)


class ScanProcesses:
    """At most `size` processes that read the file at `path`, each nicer by `niceness` than its worker."""

    def __init__(self, path: Path, size: int, *, niceness: int, busy_ms: int) -> None:
        self._command = (sys.executable, "-I", "-S", scanprocess.__file__, str(path.absolute()), str(niceness), str(busy_ms))
        self._free = asyncio.Semaphore(size)
        self._idle: list[Process] = []
        self._retiring: asyncio.TimerHandle | None = None

    async def rows(
        self, sql: str, params: Sequence[Any] | dict[str, Any] = (), seconds: float | None = None
    ) -> list[ScannedRow]:
        """As `db.Readers.rows`."""
        async with self._free:
            self._stay()
            process = self._waiting() or await self._started()
            try:
                rows = await self._asked(process, (sql, params if isinstance(params, dict) else tuple(params), seconds))
            except (TimeoutError, sqlite3.Error):
                self._idle.append(process)
                raise
            except BaseException as error:
                await _ended(process)
                if isinstance(error, OSError | EOFError):
                    raise sqlite3.OperationalError("the process that reads the log has ended") from error
                raise
            else:
                self._idle.append(process)
                return rows
            finally:
                self._stay()
                self._retiring = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire)

    def _waiting(self) -> Process | None:
        """One that lives as far as is known."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return None

    async def _started(self) -> Process:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        return await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment)

    async def _asked(self, process: Process, question: tuple[Any, ...]) -> list[ScannedRow]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(message_of(question))
        await process.stdin.drain()
        rows: list[ScannedRow] = []
        while True:
            length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
            kind, *said = decoded(await process.stdout.readexactly(length))
            match kind:
                case "more" | "last":
                    places = {name: place for place, name in enumerate(said[0])}
                    rows += [ScannedRow(places, row) for row in said[1]]
                    if kind == "last":
                        return rows
                case "late":
                    raise TimeoutError
                case _:
                    raise getattr(sqlite3, said[0], sqlite3.OperationalError)(said[1])

    def _stay(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
            self._retiring = None

    def _retire(self) -> None:
        for process in self._idle:
            assert process.stdin is not None
            process.stdin.close()
        self._idle.clear()

    async def close(self) -> None:
        """End every process. Idempotent."""
        self._stay()
        while self._idle:
            await _ended(self._idle.pop())


async def _ended(process: Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass
    await process.wait()

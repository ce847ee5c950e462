"""SQLite through aiosqlite: one connection, one that writes for everybody, several that read.

Invariants:

- One task owns each writing connection. A caller that is cancelled takes its answer with it, never the transaction.
- Readers cannot write (`PRAGMA query_only`), and no connection creates a file by opening it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from .crashes import is_database_fault
from .errors import StartError
from .journal import Durability

Row = aiosqlite.Row
T = TypeVar("T")

BUSY_MS = 5000
BACKGROUND = 10
"""How much nicer threads and processes are whose work can wait for that of others."""
ROWS_FETCHED = 64
"""At a time, where rows are iterated over: aiosqlite's own number."""
WAL_LIMIT = 64 * 1024 * 1024
"""Size to which SQLite cuts its write-ahead log back once it has been checkpointed."""

# Python looks for an adapter of each None and bool it binds, and finding none takes it many times as long as calling one that
# changes nothing. A row of the log holds half a dozen.
_no_change: Callable[[Any], None] = dict[Any, None]().get
aiosqlite.register_adapter(type(None), _no_change)
aiosqlite.register_adapter(bool, int)


@contextmanager
def needing_the_database() -> Iterator[None]:
    """Inside, a database fault is a `StartError` with exit code 3."""
    try:
        yield
    except sqlite3.Error as error:
        if not is_database_fault(error):
            raise
        hint = " End what holds it, or try again." if "locked" in str(error) else ""
        raise StartError(f"the database cannot be used now: {error}.{hint}", 3) from error


async def connect(
    path: Path,
    *,
    durability: Durability = "crash",
    busy_ms: int = BUSY_MS,
    query_only: bool = False,
    changes_nothing: bool = False,
    inline: bool = False,
) -> Connection:
    """A connection to an existing file, in autocommit: transactions are begun and ended in words. `inline`: see `_Inline`.

    One that is `query_only` brings the write-ahead log into the file when it is the last to close; one that `changes_nothing`
    leaves the file as it is.
    """
    settings = (
        f"busy_timeout = {busy_ms:d}",
        f"synchronous = {'FULL' if durability == 'power' else 'NORMAL'}",
        "foreign_keys = ON",
        f"journal_size_limit = {WAL_LIMIT:d}",
        f"temp_store = {'MEMORY' if inline else 'DEFAULT'}",  # or each insert of many rows copies the pages it changes to a file
        f"query_only = {'ON' if query_only else 'OFF'}",
    )
    mode = "ro" if changes_nothing else "rw"
    connection = await connect_with(f"file:{quote(str(path.absolute()))}?mode={mode}", settings, uri=True, inline=inline)
    connection.row_factory = aiosqlite.Row
    return connection


class Connection(aiosqlite.Connection):
    """aiosqlite's. Each of its methods is a way to the connection's thread and back, which costs as much as ten rows."""

    opened: Sequence[sqlite3.Connection] = ()
    """What its thread has opened. aiosqlite forgets it where whoever wanted it was cancelled before it came."""

    stopped: asyncio.Future[Any] | None = None
    """Done when the thread has ended; None until it is told to."""

    def stop(self) -> asyncio.Future[Any] | None:
        self._tx.put_nowait((None, self._close_opened))
        self.stopped = super().stop()
        return self.stopped

    def _close_opened(self) -> None:
        for connection in self.opened:
            connection.close()

    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """What `fn` returns, called with the connection itself in its thread: for many statements on one way. All of aiosqlite's
        methods go through `_execute`."""
        return cast(T, await self._execute(fn, self._conn))  # type: ignore[no-untyped-call]


class _Inline(Connection):
    """A connection whose statements run in its caller's own thread, and hold up the event loop: for one with nothing else to do,
    as a batch goes the way to a thread and back half a dozen times."""

    def __await__(self) -> Generator[Any, None, Connection]:
        return self._connect().__await__()

    async def _connect(self) -> Connection:
        self._connection = self._connector()
        return self

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


async def connect_with(database: str | Path, settings: Iterable[str], *, uri: bool = False, inline: bool = False) -> Connection:
    """A connection with these pragmas, run where it is made: each by itself would be a way to its thread and back."""
    problems: list[sqlite3.Error] = []
    opened: list[sqlite3.Connection] = []

    def made(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.Connection(*arguments, **options)
        opened.append(connection)
        try:
            for setting in settings:
                connection.execute("PRAGMA " + setting)
        except sqlite3.Error as problem:
            problems.append(problem)
        return connection

    kind = _Inline if inline else Connection
    connection = kind(partial(made, database, uri=uri, isolation_level=None), ROWS_FETCHED)
    connection.opened = opened
    try:
        await connection
    except asyncio.CancelledError:
        if connection.stopped is not None:  # its thread tells this loop what it does, and fails where that is closed by then
            await connection.stopped
        raise
    if problems:  # told here, for aiosqlite lets nobody wait for the thread of a connection that was not made
        await connection.close()
        raise problems[0]
    return connection


class Writer:
    """Runs functions one after another, each in a transaction of its own, on a connection nobody else has.

    `inline`: see `_Inline`.
    """

    def __init__(
        self, path: Path, *, durability: Durability = "crash", busy_ms: int = BUSY_MS, inline: bool = False
    ) -> None:
        self._inline = inline
        self._path = path
        self._durability: Durability = durability
        self._busy_ms = busy_ms
        self._connection: Connection | None = None
        self._jobs: asyncio.Queue[tuple[Callable[[Connection], Awaitable[Any]], asyncio.Future[Any]] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def run(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """What `fn(connection)` returns, after its transaction was committed. Its error, or SQLite's, after it was rolled back.

        A caller cancelled before `fn` begins leaves nothing behind; afterwards the transaction is finished without it.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._serve(), name=f"write {self._path.name}")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((fn, answer))
        return await answer

    async def _serve(self) -> None:
        while (job := await self._jobs.get()) is not None:
            fn, answer = job
            if answer.done():
                continue
            try:
                result = await self._transaction(fn)
            except asyncio.CancelledError:
                answer.cancel()
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # else it is of the function's own making, and ends nobody else's write
            except BaseException as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

    async def _transaction(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """A fault of the database costs the connection: the next transaction begins on a fresh one."""
        try:
            if self._connection is None:
                self._connection = await connect(
                    self._path, durability=self._durability, busy_ms=self._busy_ms, inline=self._inline
                )
            await self._connection.execute("BEGIN IMMEDIATE")
            result = await fn(self._connection)
            await self._connection.execute("COMMIT")
        except BaseException as error:
            await self._roll_back(drop=is_database_fault(error))
            raise
        return result

    async def _roll_back(self, drop: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.rollback()
        except sqlite3.Error:
            drop = True
        if drop:
            self._connection = None
            await connection.close()

    async def close(self) -> None:
        """Finish what was handed over, then close the connection. Idempotent."""
        if self._task is not None and not self._task.done():
            self._jobs.put_nowait(None)
            await self._task
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


class Readers:
    """At most `size` connections that only read, opened when first needed. In the `background` they leave the core to others."""

    def __init__(self, path: Path, size: int, *, background: bool = False) -> None:
        self._path = path
        self._background = background
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def rows(self, sql: str, params: Sequence[Any] | dict[str, Any] = (), seconds: float | None = None) -> list[Row]:
        """Raises `TimeoutError` after `seconds`. Neither then nor when its caller is cancelled does a statement run on."""
        async with self._free:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                async with asyncio.timeout(seconds):
                    return list(await connection.execute_fetchall(sql, params))
            except (TimeoutError, asyncio.CancelledError):
                await _stop(connection)
                raise
            finally:
                self._idle.append(connection)

    async def _connect(self) -> Connection:
        connection = await connect(self._path, query_only=True)
        if self._background:
            try:
                await connection.create_function("stand_back", 0, _stand_back)
                await connection.execute_fetchall("SELECT stand_back()")
            except BaseException:
                await connection.close()
                raise
        return connection

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


async def _stop(connection: Connection) -> None:
    """End what it is at. A statement that its thread has not begun yet is none that could be interrupted: so that is done until
    the thread is seen to be free."""
    while True:
        await connection.interrupt()
        try:
            async with asyncio.timeout(0.01):
                await connection.execute_fetchall("SELECT 1")
        except TimeoutError:
            continue
        except sqlite3.Error:
            pass  # it was interrupted itself
        return


def _stand_back() -> None:
    """Only Linux has a niceness for each thread. A function of SQL is what a connection's own thread can be made to call."""
    if sys.platform == "linux":
        os.nice(BACKGROUND)

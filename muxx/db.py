"""SQLite through aiosqlite: two files, one writer each, readers apart.

`muxx.db` holds what is configured (projects, keys, settings), `muxx-logs.db` what has happened; pruning one never locks the
other.

Invariants:

- One task owns each writing connection. A caller that is cancelled takes its answer with it, never the transaction.
- Readers cannot write (`PRAGMA query_only`), and no connection creates a file by opening it.
- A file that is empty, damaged or another program's is refused and left as it is; nothing is recreated over it or instead of it.
- A migration is applied once, in the order its plugin lists it; those that a file lacks of a plugin, in one transaction.
- A `Database` belongs to the event loop it was opened in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote

import aiosqlite

from .errors import StartError
from .journal import Durability
from .scanning import ScanProcesses

Connection = aiosqlite.Connection
Row = aiosqlite.Row
File = Literal["main", "logs"]
T = TypeVar("T")

APPLICATION_ID = 0x6D757878
""" "muxx" in ASCII: a database that does not carry it is somebody else's."""

BUSY_MS = 5000
BACKGROUND = 10
"""How much nicer threads and processes are whose work can wait for that of others."""
SCANNERS = 2
"""Reads of many rows at a time."""
ROWS_FETCHED = 64
"""At a time, where rows are iterated over: aiosqlite's own number."""
WAL_LIMIT = 64 * 1024 * 1024
"""Size to which SQLite cuts its write-ahead log back once it has been checkpointed."""
PAGE_BYTES: dict[File, int] = {"main": 4096, "logs": 8192}
"""Of a new file. A row of the log with its request and its answer fills much of a small page, and what is left is wasted."""

_log = logging.getLogger("muxx.db")

# Python looks for an adapter of each None and bool it binds, and finding none takes it many times as long as calling one that
# changes nothing. A row of the log holds half a dozen.
_no_change: Callable[[Any], None] = dict[Any, None]().get
aiosqlite.register_adapter(type(None), _no_change)
aiosqlite.register_adapter(bool, int)

_MIGRATIONS_TABLE = """CREATE TABLE schema_migrations (
    plugin TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (plugin, number)
) STRICT"""


@dataclass(frozen=True)
class Migration:
    """SQL statements that change a file's schema once. A plugin's list of them only ever grows at its end."""

    file: File
    sql: str


def logs_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-logs.db")


def is_database_fault(error: BaseException) -> bool:
    """True when the database could not do its work (locked, full, damaged); False when it was asked for something wrong."""
    return isinstance(error, (sqlite3.OperationalError, sqlite3.InternalError)) or type(error) is sqlite3.DatabaseError


async def connect(
    path: Path, *, durability: Durability = "crash", busy_ms: int = BUSY_MS, query_only: bool = False, inline: bool = False
) -> Connection:
    """A connection to an existing file, in autocommit: transactions are begun and ended in words. `inline`: see `_Inline`."""
    settings = (
        f"busy_timeout = {busy_ms:d}",
        f"synchronous = {'FULL' if durability == 'power' else 'NORMAL'}",
        "foreign_keys = ON",
        f"journal_size_limit = {WAL_LIMIT:d}",
        f"temp_store = {'MEMORY' if inline else 'DEFAULT'}",  # or each insert of many rows copies the pages it changes to a file
        f"query_only = {'ON' if query_only else 'OFF'}",
    )
    connection = await _connect(f"file:{quote(str(path.absolute()))}?mode=rw", settings, uri=True, inline=inline)
    connection.row_factory = aiosqlite.Row
    return connection


class _Inline(aiosqlite.Connection):
    """A connection whose statements run in its caller's own thread, and hold up the event loop: for one with nothing else to do.

    The way to a thread and back costs as much as ten rows, and a batch goes it half a dozen times. All of aiosqlite's methods
    go through `_execute`.
    """

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


async def _connect(database: str | Path, settings: Iterable[str], *, uri: bool = False, inline: bool = False) -> Connection:
    """The pragmas are run where the connection is made: each by itself would be a way to its thread and back."""
    problems: list[sqlite3.Error] = []

    def made(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.Connection(*arguments, **options)
        try:
            for setting in settings:
                connection.execute("PRAGMA " + setting)
        except sqlite3.Error as problem:
            problems.append(problem)
        return connection

    if inline:
        connection: Connection = await _Inline(partial(made, database, uri=uri, isolation_level=None), ROWS_FETCHED)
    else:
        connection = await aiosqlite.connect(database, uri=uri, isolation_level=None, factory=made)
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
                raise
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


class Database:
    """Both files. `open` makes them on the first run and raises `StartError` (exit code 3) when one cannot be used."""

    def __init__(self, path: str | Path, *, durability: Durability = "crash", scans_apart: bool = False) -> None:
        """`scans_apart`: what looks at many rows is read in a process apart, for one that answers requests meanwhile."""
        self.path = Path(path)
        self.logs = logs_path(self.path)
        self._durability: Durability = durability
        self._writers = {file: Writer(self._file(file), durability=durability) for file in ("main", "logs")}
        self._readers = {"main": Readers(self.path, 1), "logs": Readers(self.logs, 2)}
        self._scanners: Readers | ScanProcesses = (
            ScanProcesses(self.logs, SCANNERS, niceness=BACKGROUND, busy_ms=BUSY_MS)
            if scans_apart
            else Readers(self.logs, SCANNERS, background=True)
        )

    def _file(self, file: str) -> Path:
        return self.path if file == "main" else self.logs

    async def open(self) -> None:
        if not self.path.exists():
            _refuse_leftovers(self.path, self.logs, self.path.with_name(self.path.name + "-wal"))
            await _create(self.path, PAGE_BYTES["main"])
        if not self.logs.exists():
            _refuse_leftovers(self.logs, self.logs.with_name(self.logs.name + "-wal"))
            await _create(self.logs, PAGE_BYTES["logs"])
        await _verify(self.path, thorough=True)
        await _verify(self.logs, thorough=False)

    async def migrate(self, plugin: str, migrations: Sequence[Migration]) -> None:
        """Apply the plugin's migrations that have not been applied yet."""
        for file in ("main", "logs"):
            numbered = [(number, migration.sql) for number, migration in enumerate(migrations) if migration.file == file]
            if numbered:
                path = self._file(file)
                try:
                    await migrate(self._writers[file], self._readers[file], path, plugin, numbered)
                except sqlite3.Error as error:
                    raise StartError(f"{path}: the tables of plugin '{plugin}' cannot be made: {_reason(error)}.", 3) from error

    async def write(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `fn` in a transaction on the main file; see `Writer.run`."""
        return await self._writers["main"].run(fn)

    async def write_logs(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """The same on the log file, beside the recorder: for pruning, in short transactions, never for records."""
        return await self._writers["logs"].run(fn)

    async def read(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        return await self._readers["main"].rows(sql, params)

    async def read_logs(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        return await self._readers["logs"].rows(sql, params)

    async def scan_logs(
        self, sql: str, params: Sequence[Any] | dict[str, Any] = (), *, seconds: float | None = None
    ) -> list[Row]:
        """As `read_logs`, for what looks at many rows: on connections apart, so that nobody's single row waits behind it, and in
        threads or, beside requests, processes that leave the core to others.

        Raises `TimeoutError` when it takes longer than `seconds`, waiting for a connection not counted.
        """
        return cast(list[Row], await self._scanners.rows(sql, params, seconds))

    async def close(self) -> None:
        """Finish the writes handed over, then close every connection. Idempotent."""
        for writer in self._writers.values():
            await writer.close()
        for readers in (*self._readers.values(), self._scanners):
            await readers.close()


async def migrate(writer: Writer, readers: Readers, path: Path, plugin: str, migrations: Sequence[tuple[int, str]]) -> None:
    """Apply those of the (number, SQL) pairs that one file lacks, together; without its write lock where it lacks none."""
    rows = await readers.rows("SELECT number FROM schema_migrations WHERE plugin = ?", (plugin,))
    applied = {row["number"] for row in rows}
    if applied - {number for number, _ in migrations}:
        raise StartError(f"{path}: was used by a newer version of plugin '{plugin}'. Install that version again.", 3)
    if any(number not in applied for number, _ in migrations):
        await writer.run(partial(_apply, plugin, migrations))


async def _apply(plugin: str, migrations: Sequence[tuple[int, str]], connection: Connection) -> None:
    """Another process may have been quicker: what is applied is looked for again under the write lock."""
    rows = await connection.execute_fetchall("SELECT number FROM schema_migrations WHERE plugin = ?", (plugin,))
    applied = {row["number"] for row in rows}
    for number, sql in migrations:
        if number not in applied:
            for statement in statements(sql):
                await connection.execute(statement)
    lacking = [(plugin, number) for number, _ in migrations if number not in applied]
    await connection.executemany("INSERT INTO schema_migrations VALUES (?, ?)", lacking)


def statements(sql: str) -> Iterator[str]:
    """The single statements of a script. `executescript` will not do: it commits the open transaction first."""
    statement = ""
    for part in sql.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \t\r\n;"):
                yield statement
            statement = ""
    if statement.strip(" \t\r\n;"):
        yield statement


def _refuse_leftovers(missing: Path, *leftovers: Path) -> None:
    for leftover in leftovers:
        if leftover.exists() and not missing.exists():  # another process may be making both just now
            raise StartError(
                f"{missing}: is missing, though {leftover.name} is there. Restore it, or move that file away too.", 3
            )


async def _create(path: Path, page_bytes: int) -> None:
    """A new file appears under its name only when it is whole, and never replaces one that another process just made."""
    unnamed = path.with_name(f".{path.name}.{os.getpid()}.{id(path):x}.new")
    try:
        os.close(os.open(unnamed, os.O_CREAT | os.O_EXCL, 0o600))
        try:
            settings = (
                f"page_size = {page_bytes:d}",  # first: what writes a page settles its size
                "auto_vacuum = INCREMENTAL",  # so that it can be made smaller bit by bit
                f"application_id = {APPLICATION_ID:d}",
                "journal_mode = WAL",
            )
            connection = await _connect(unnamed, settings)
            try:
                await connection.execute(_MIGRATIONS_TABLE)
            finally:
                await connection.close()
            os.link(unnamed, path)
        except FileExistsError:
            pass
        finally:
            unnamed.unlink()
    except (OSError, sqlite3.Error) as error:
        raise StartError(f"{path}: cannot be created: {_reason(error)}. Check the directory and its permissions.", 3) from error
    _log.info("created %s", path)


async def _verify(path: Path, thorough: bool) -> None:
    """Refuse what is not ours, not whole or not writable. `thorough` reads every page: for the small file only."""
    if not path.is_file() or path.stat().st_size == 0:
        raise _refusal(path, "is empty or not a file")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StartError(f"{path}: cannot be written. Check the permissions of the file and its directory.", 3)
    try:
        connection = await connect(path)
        try:
            application = await _value(connection, "PRAGMA application_id")
            await connection.execute_fetchall("SELECT count(*) FROM sqlite_master")
            verdict = await _value(connection, "PRAGMA quick_check(1)") if thorough else "ok"
        finally:
            await connection.close()
    except sqlite3.Error as error:
        raise _refusal(path, _reason(error)) from error
    if application != APPLICATION_ID:
        raise _refusal(path, "is a database of another program")
    if verdict != "ok":
        raise _refusal(path, "is damaged")


async def _value(connection: Connection, sql: str) -> Any:
    [row] = await connection.execute_fetchall(sql)
    return row[0]


def _refusal(path: Path, reason: str) -> StartError:
    return StartError(f"{path}: {reason}. It is left as it is: restore it from a backup, or move it away to start afresh.", 3)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())

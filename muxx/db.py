"""The database: two files of SQLite, one writer each, readers apart.

`muxx.db` holds what is configured (projects, keys, settings), `muxx-logs.db` what has happened; pruning one never locks the
other.

Invariants:

- A file that is empty, damaged or another program's is refused and left as it is; nothing is recreated over it or instead of it.
- A migration is applied once, in the order its plugin lists it; those that a file lacks of a plugin, in one transaction.
- A `Database` belongs to the event loop it was opened in.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from .discovery import GROUP, STANDARD_DISTRIBUTION
from .errors import PluginLoadError, StartError
from .journal import Durability
from .scanning import ScanProcesses
from .sqlite import BACKGROUND, BUSY_MS, Connection, Readers, Row, Writer, connect, connect_with
from .version import __version__

File = Literal["main", "logs"]
T = TypeVar("T")

APPLICATION_ID = 0x6D757878
""" "muxx" in ASCII: a database that does not carry it is somebody else's."""

KERNEL = frozenset({"projects", "recorder", "secret"})
"""Under these names the kernel keeps which of its own migrations have been applied."""

SCANNERS = 2
"""Reads of many rows at a time."""
PAGE_BYTES: dict[File, int] = {"main": 4096, "logs": 8192}
"""Of a new file. A row of the log with its request and its answer fills much of a small page, and what is left is wasted."""

_log = logging.getLogger("muxx.db")

ROOM_BYTES = 64 * 1024
"""What SQLite has to find on the disk before anything else: it shares 32 KiB for each database with other processes."""

_MIGRATIONS_TABLE = """CREATE TABLE schema_migrations (
    plugin TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (plugin, number)
) STRICT"""


@dataclass(frozen=True)
class Migration:
    """SQL statements that change a file's schema once. A plugin's list of them only ever grows at its end."""

    file: File
    sql: str


_INSTEAD: dict[File, str] = {
    "main": "move it away to start afresh",
    "logs": "begin a new one: `muxx serve --new-log` (spend and limits are then counted from that)",
}
"""What can be done where a file is damaged and there is no backup."""


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def logs_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}-logs.db")


class Database:
    """Both files. `open` makes them on the first run and raises `StartError` (exit code 3) when one cannot be used."""

    def __init__(self, path: str | Path, *, durability: Durability = "crash", scans_apart: bool = False) -> None:
        """`scans_apart`: what looks at many rows is read in a process apart, for one that answers requests meanwhile."""
        self.path = Path(path)
        self.logs = logs_path(self.path)
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
            _refuse_leftovers(self.path, self.logs, beside(self.path, "-wal"), instead="move that file away too")
            await _create(self.path, PAGE_BYTES["main"])
        await _verify(self.path, thorough=True, instead=_INSTEAD["main"])
        if not self.logs.exists():
            _refuse_leftovers(self.logs, beside(self.logs, "-wal"), instead=_INSTEAD["logs"])
            if await self.read("SELECT 1 FROM schema_migrations LIMIT 1"):  # whoever made tables here had made the log before
                raise StartError(f"{self.logs}: is missing. Restore it from a backup, or {_INSTEAD['logs']}.", 3)
            await _create(self.logs, PAGE_BYTES["logs"])
        await _verify(self.logs, thorough=False, instead=_INSTEAD["logs"])

    async def migrate(self, plugin: str, migrations: Sequence[Migration]) -> None:
        """Apply the plugin's migrations that have not been applied yet."""
        known = get_args(File)
        if not (isinstance(migrations, tuple | list) and all(isinstance(m, Migration) and m.file in known for m in migrations)):
            text = "its migrations cannot be read; give a tuple of muxx.Migration(file, sql), each file \"main\" or \"logs\""
            raise PluginLoadError(plugin, text)
        for file in ("main", "logs"):
            numbered = [(number, migration.sql) for number, migration in enumerate(migrations) if migration.file == file]
            if numbered:
                path = self._file(file)
                try:
                    await migrate(self._writers[file], self._readers[file], path, plugin, numbered)
                except sqlite3.Error as error:
                    if type(error) is sqlite3.DatabaseError:
                        raise _refusal(path, _reason(error, path), _INSTEAD[file]) from error
                    text = f"{path}: the tables of plugin '{plugin}' cannot be made: {_reason(error, path)}."
                    raise StartError(text, 3) from error

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

    async def has_table(self, file: File, name: str) -> bool:
        """Whether the file has a table of that name: that of another plugin may not be there, or not yet."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(await self._readers[file].rows(sql, (name,)))

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
        raise StartError(f"{path}: was used by a newer version of {_owner(plugin)}. Install that version again.", 3)
    if any(number not in applied for number, _ in migrations):
        await writer.run(lambda connection: connection.run(partial(_apply, plugin, migrations)))


def _owner(plugin: str) -> str:
    """Whose version it is that has to be installed again: the standard plugins, and the kernel's own tables, come with muxx."""
    named = metadata.distribution(STANDARD_DISTRIBUTION).entry_points.select(group=GROUP, name=plugin)
    return f"muxx than {__version__}" if named or plugin in KERNEL else f"plugin '{plugin}'"


def _apply(plugin: str, migrations: Sequence[tuple[int, str]], connection: sqlite3.Connection) -> None:
    """Another process may have been quicker: what is applied is looked for again under the write lock."""
    rows = connection.execute("SELECT number FROM schema_migrations WHERE plugin = ?", (plugin,))
    applied = {number for (number,) in rows}
    for number, sql in migrations:
        if number not in applied:
            for statement in statements(sql):
                connection.execute(statement)
    lacking = [(plugin, number) for number, _ in migrations if number not in applied]
    connection.executemany("INSERT INTO schema_migrations VALUES (?, ?)", lacking)


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


async def begin_log_anew(path: Path) -> None:
    """Put a log that is damaged out of the way, and make a new one in place of one that is not there. A whole one stays.

    For who has the lock of the database at `path`; nothing may have the log open. A first start finds nothing to do.
    """
    logs = logs_path(path)
    if not path.exists():
        return
    fault: str | None = "is missing"
    if logs.exists():
        _log.info("looking through %s", logs)
        fault = await _fault(logs, thorough=True)
    if fault is None:
        _log.info("%s is whole: it stays, and no new log is begun", logs)
        return
    kept = _put_aside(logs)
    await _create(logs, PAGE_BYTES["logs"])
    _log.warning("%s %s: a new log begins, and spend and limits are counted from it", logs, fault)
    if kept is not None:
        _log.warning("what there was of the old log is %s", kept)


def _put_aside(logs: Path) -> Path | None:
    """Rename it, and then what SQLite has beside it; the new name, or None where there was nothing."""
    name = datetime.now(UTC).strftime(f"{logs.stem}.%Y%m%dT%H%M%SZ{logs.suffix}")
    found = [suffix for suffix in ("", "-wal", "-shm") if beside(logs, suffix).exists()]
    for suffix in found:
        beside(logs, suffix).rename(logs.with_name(name + suffix))
    return logs.with_name(name) if found else None


def _refuse_leftovers(missing: Path, *leftovers: Path, instead: str) -> None:
    for leftover in leftovers:
        if leftover.exists() and not missing.exists():  # another process may be making both just now
            raise StartError(f"{missing}: is missing, though {leftover.name} is there. Restore it, or {instead}.", 3)


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
            connection = await connect_with(unnamed, settings)
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
        text = f"{path}: cannot be created: {_reason(error, path)}. Check the directory and its permissions."
        raise StartError(text, 3) from error
    _log.info("created %s", path)


async def _verify(path: Path, *, thorough: bool, instead: str) -> None:
    """Refuse what is not ours, not whole or not writable. `thorough` reads every page: for the small file only."""
    fault = await _fault(path, thorough)
    if fault is not None:
        raise _refusal(path, fault, instead)


def _refusal(path: Path, fault: str, instead: str) -> StartError:
    return StartError(f"{path}: {fault}. It is left as it is: restore it from a backup, or {instead}.", 3)


async def _fault(path: Path, thorough: bool) -> str | None:
    """What makes a file useless, in words; `StartError` where it only cannot be read or written now. It changes nothing."""
    if not path.is_file() or path.stat().st_size == 0:
        return "is empty or not a file"
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StartError(f"{path}: cannot be written. Check the permissions of the file and its directory.", 3)
    try:
        connection = await connect(path, changes_nothing=True)
        try:
            application, verdict = await connection.run(partial(_looked_through, thorough))
        finally:
            await connection.close()
    except sqlite3.Error as error:
        if type(error) is sqlite3.DatabaseError:
            return _reason(error, path)
        advice = "Make room there" if _lacks_room(path, error) else "Check the file and its directory"
        raise StartError(f"{path}: cannot be read: {_reason(error, path)}. {advice}.", 3) from error
    if application != APPLICATION_ID:
        return "is a database of another program"
    return None if verdict == "ok" else "is damaged"


def _looked_through(thorough: bool, connection: sqlite3.Connection) -> tuple[int, str]:
    """Whose the file says it is, and what SQLite thinks of it."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone() if thorough else ("ok",)
    return application, verdict


def _lacks_room(path: Path, error: Exception) -> bool:
    """Whether SQLite failed for want of room beside the file. Of what it needs there even to read, it does not say so itself."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL):
        return False
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < ROOM_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


def _reason(error: Exception, path: Path) -> str:
    if _lacks_room(path, error):
        return "its disk is full"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())

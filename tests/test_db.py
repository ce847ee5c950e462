"""Two files, one writer each, readers apart; what is damaged is refused and left as it is."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from journal_kit import kill, spawn
from process_kit import alive, children

import muxx.db as db_module
from muxx import __version__, projectstore, recorder, scanning, secret
from muxx.db import Database, Migration, begin_log_anew, statements
from muxx.errors import StartError
from muxx.sqlite import Connection, Writer, connect
from muxx.testing import eventually

TABLE = Migration("main", "CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX by_name ON things (name);")
LOGS = Migration("logs", "CREATE TABLE events (id INTEGER PRIMARY KEY)")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(tmp_path / "muxx.db")
    await db.open()
    await db.migrate("things", (TABLE, LOGS))
    yield db
    await db.close()


@pytest.fixture(params=[False, True], ids=["in threads", "apart"])
async def scanned(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database of either kind; where reads of many rows are done is all that differs."""
    db = Database(tmp_path / "muxx.db", scans_apart=request.param)
    await db.open()
    await db.migrate("things", (TABLE, LOGS))
    yield db
    await db.close()


async def names(db: Database) -> list[str]:
    return [row["name"] for row in await db.read("SELECT name FROM things ORDER BY id")]


async def add(connection: Connection, name: str) -> None:
    await connection.execute("INSERT INTO things (name) VALUES (?)", (name,))


COUNTING = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT count(*) FROM n"


class TestWriting:
    async def test_a_write_is_read_back_and_returns_its_value(self, db: Database) -> None:
        async def two(connection: Connection) -> int:
            await add(connection, "a")
            await add(connection, "b")
            return 2

        assert await db.write(two) == 2
        assert await names(db) == ["a", "b"]

    async def test_a_write_that_cancels_itself_ends_no_other(self, db: Database) -> None:
        async def gives_up(connection: Connection) -> None:
            await add(connection, "a")
            raise asyncio.CancelledError

        gone, *others = [db.write(fn) for fn in (gives_up, partial(add, name="b"), partial(add, name="c"))]
        async with asyncio.timeout(5.0):
            found = await asyncio.gather(gone, *others, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [None, None]
        assert await names(db) == ["b", "c"]

    async def test_a_write_that_raises_leaves_nothing(self, db: Database) -> None:
        async def broken(connection: Connection) -> None:
            await add(connection, "a")
            raise LookupError("no")

        with pytest.raises(LookupError):
            await db.write(broken)
        await db.write(lambda connection: add(connection, "b"))
        assert await names(db) == ["b"]

    async def test_writes_run_one_after_another(self, db: Database) -> None:
        await asyncio.gather(*(db.write(lambda c, n=n: add(c, str(n))) for n in range(20)))
        assert await names(db) == [str(n) for n in range(20)]

    @pytest.mark.parametrize("steps", range(12))
    async def test_a_cancelled_caller_never_leaves_a_transaction_open(self, db: Database, steps: int) -> None:
        """Cancelled at every await: the two rows are there together or not at all, and the next write works."""

        async def pair(connection: Connection) -> None:
            await add(connection, "a")
            await add(connection, "b")

        task = asyncio.ensure_future(db.write(pair))
        for _ in range(steps):
            await asyncio.sleep(0)
            await asyncio.sleep(0.001 if steps > 6 else 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await db.write(lambda connection: add(connection, "c"))
        assert await names(db) in (["c"], ["a", "b", "c"])

    async def test_a_connection_whose_caller_is_cancelled_before_it_comes_is_closed(
        self, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever holds one keeps the write-ahead log from being brought into the file. And its caller outlasts its thread, which
        could tell nothing to a loop that is closed."""
        opening, go_on, closed = threading.Event(), threading.Event(), threading.Event()

        class Slow(sqlite3.Connection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                opening.set()
                go_on.wait(10)
                super().__init__(*arguments, **options)

            def close(self) -> None:
                super().close()
                closed.set()

        monkeypatch.setattr("muxx.sqlite.sqlite3.Connection", Slow)
        task = asyncio.ensure_future(connect(tmp_path / "muxx.db"))
        await eventually(opening.is_set)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)
        assert (task.cancelled(), closed.is_set()) == (True, True)

    async def test_a_write_that_cancels_itself_does_not_stop_the_next(self, db: Database) -> None:
        async def cancelled(connection: Connection) -> None:
            await add(connection, "a")
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await db.write(cancelled)
        await db.write(lambda connection: add(connection, "b"))
        assert await names(db) == ["b"]

    async def test_a_locked_database_refuses_the_write_and_takes_the_next(self, db: Database) -> None:
        db._writers["main"]._busy_ms = 1
        with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError):
                await db.write(lambda connection: add(connection, "a"))
            other.execute("ROLLBACK")
        await db.write(lambda connection: add(connection, "b"))
        assert await names(db) == ["b"]

    async def test_close_finishes_what_was_handed_over(self, tmp_path: Path, db: Database) -> None:
        task = asyncio.ensure_future(db.write(lambda connection: add(connection, "a")))
        await asyncio.sleep(0)
        await db.close()
        await task
        await db.close()
        again = Database(db.path)
        await again.open()
        assert await names(again) == ["a"]
        await again.close()

    async def test_a_long_write_on_the_logs_does_not_lock_the_main_file(self, db: Database) -> None:
        async def slow(connection: Connection) -> None:
            await connection.execute("INSERT INTO events VALUES (1)")
            await db.write(lambda main: add(main, "meanwhile"))

        await db.write_logs(slow)
        assert await names(db) == ["meanwhile"]
        assert len(await db.read_logs("SELECT * FROM events")) == 1


    async def test_an_inline_writer_runs_its_statements_in_the_callers_thread(self, db: Database) -> None:
        """So it does not go to a thread and back for each, and a fault costs it the connection as it does any other."""
        writer = Writer(db.path, inline=True)
        threads: list[int] = []

        async def note(connection: Connection) -> None:
            await connection.create_function("note", 0, lambda: threads.append(threading.get_ident()))
            await connection.executemany("INSERT INTO things (name) VALUES (coalesce(note(), ?))", [("a",), ("b",)])

        async def broken(connection: Connection) -> None:
            await add(connection, "c")
            await connection.execute("SELECT * FROM nothing")

        await writer.run(note)
        with pytest.raises(sqlite3.OperationalError):
            await writer.run(broken)
        async def counted(connection: Connection) -> int:
            async with connection.execute(COUNTING.replace("count(*)", "i"), (100,)) as cursor:
                return len([row async for row in cursor])

        await writer.run(partial(add, name="d"))
        assert await writer.run(counted) == 100
        await writer.close()
        assert threads == [threading.get_ident()] * 2
        assert await names(db) == ["a", "b", "d"]

    async def test_an_inline_writer_refuses_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path / "none.db", inline=True)
        with pytest.raises(sqlite3.OperationalError):
            await writer.run(partial(add, name="a"))
        await writer.close()


class TestReading:
    async def test_readers_cannot_write(self, db: Database) -> None:
        with pytest.raises(sqlite3.OperationalError):
            await db.read("INSERT INTO things (name) VALUES ('a')")

    async def test_readers_are_not_held_up_by_a_writer(self, db: Database) -> None:
        async def watched(connection: Connection) -> list[str]:
            await add(connection, "a")
            return await names(db)

        assert await db.write(watched) == []

    async def test_many_reads_at_once_share_few_connections(self, db: Database) -> None:
        await asyncio.gather(*(db.read_logs("SELECT count(*) FROM events") for _ in range(20)))
        assert len(db._readers["logs"]._idle) == 2

    async def test_a_single_row_waits_behind_no_long_read(self, scanned: Database) -> None:
        db = scanned
        scans = [asyncio.ensure_future(db.scan_logs(COUNTING, (1_000_000,))) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert [row[0] for row in await db.read_logs("SELECT count(*) FROM events")] == [0]
        assert not all(scan.done() for scan in scans)
        assert [row[0] for [row] in await asyncio.gather(*scans)] == [1_000_000] * 4

    async def test_a_read_whose_time_is_over_or_whose_caller_left_does_not_run_on(self, scanned: Database) -> None:
        db = scanned
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await db.scan_logs(COUNTING, (2**40,), seconds=0.02)
        left = asyncio.ensure_future(db.scan_logs(COUNTING, (2**40,)))
        await asyncio.sleep(0.02)
        left.cancel()
        await asyncio.wait([left])
        counts = await asyncio.gather(*(db.scan_logs(COUNTING, (number,), seconds=5) for number in (1, 2, 3)))
        assert [row[0] for [row] in counts] == [1, 2, 3]
        assert time.monotonic() - begun < 30

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness for each thread")
    async def test_scans_leave_the_core_to_others(self, db: Database) -> None:
        await db.read_logs("SELECT 1")
        before = nice_threads()
        await db.scan_logs("SELECT 1")
        assert nice_threads() - before == Counter({os.getpriority(os.PRIO_PROCESS, 0) + 10: 1})

    async def test_what_is_read_is_the_same_wherever_it_is_read(self, scanned: Database) -> None:
        await scanned.write_logs(lambda db: db.executemany("INSERT INTO events VALUES (?)", [(number,) for number in range(250)]))
        rows = await scanned.scan_logs("SELECT id, id * 0.5 AS half FROM events WHERE id >= :least ORDER BY id", {"least": 5})
        assert [(row["id"], row["half"]) for row in rows] == [(number, number / 2) for number in range(5, 250)]
        assert dict(rows[0]) == {"id": 5, "half": 2.5}
        [row] = await scanned.scan_logs('SELECT ? AS "a ""b""", ? AS b, ? AS c, NULL AS none', ("\u20ac", b"\0", 2**63 - 1))
        assert tuple(row) == ("\u20ac", b"\0", 2**63 - 1, None)
        assert row.keys() == ['a "b"', "b", "c", "none"]
        assert await scanned.scan_logs("SELECT id FROM events WHERE id < 0") == []

    async def test_a_scan_that_cannot_be_is_sqlites_error_and_the_next_one_works(self, scanned: Database) -> None:
        with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
            await scanned.scan_logs("SELECT * FROM nowhere")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await scanned.scan_logs("DELETE FROM events")
        assert [row[0] for row in await scanned.scan_logs("SELECT 1")] == [1]

    async def test_two_databases_are_apart(self, tmp_path: Path, db: Database) -> None:
        other = Database(tmp_path / "other.db")
        await other.open()
        await other.migrate("things", (TABLE,))
        await other.write(lambda connection: add(connection, "a"))
        assert await names(db) == []
        await other.close()


class TestScanningApart:
    """What is left to tell of the processes that `scanned` uses."""

    @pytest.fixture
    async def apart(self, tmp_path: Path) -> AsyncIterator[Database]:
        db = Database(tmp_path / "muxx.db", scans_apart=True)
        await db.open()
        yield db
        await db.close()

    async def test_they_come_with_the_first_scan_stand_back_and_end_with_the_database(
        self, apart: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        before = set(children(os.getpid()))
        await apart.read_logs("SELECT 1")
        assert set(children(os.getpid())) == before
        await asyncio.gather(*(apart.scan_logs("SELECT 1") for _ in range(5)))
        scanners = set(children(os.getpid())) - before
        assert len(scanners) == 2
        for pid in scanners:
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
            assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        await apart.close()
        assert not any(map(alive, scanners))

    async def test_one_that_is_killed_is_told_of_and_replaced(self, apart: Database) -> None:
        before = set(children(os.getpid()))
        scan = asyncio.ensure_future(apart.scan_logs(COUNTING, (2**40,)))
        await eventually(lambda: set(children(os.getpid())) - before)
        for pid in set(children(os.getpid())) - before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(sqlite3.OperationalError, match="has ended"):
            await scan
        assert [row[0] for row in await apart.scan_logs("SELECT 1")] == [1]

    async def test_one_that_nobody_asks_ends(self, apart: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scanning, "IDLE_SECONDS", 0.05)
        before = set(children(os.getpid()))
        await apart.scan_logs("SELECT 1")
        await eventually(lambda: set(children(os.getpid())) == before)
        assert [row[0] for row in await apart.scan_logs("SELECT 1")] == [1]


def nice_threads() -> Counter[int]:
    """How many threads of this process have which niceness."""
    return Counter(os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir("/proc/self/task"))


class TestMigrations:
    async def test_each_is_applied_once_in_order(self, db: Database) -> None:
        more = (TABLE, LOGS, Migration("main", "ALTER TABLE things ADD COLUMN size INTEGER"))
        await db.migrate("things", more)
        await db.migrate("things", more)
        assert [row["name"] for row in await db.read("PRAGMA table_info(things)")] == ["id", "name", "size"]

    async def test_a_broken_one_leaves_nothing_and_stops_the_start(self, db: Database) -> None:
        with pytest.raises(StartError) as caught:
            await db.migrate("other", (Migration("main", "CREATE TABLE half (id); CREATE TABLE half (id);"),))
        assert caught.value.exit_code == 3
        assert "'other'" in str(caught.value)
        assert not await db.read("SELECT 1 FROM sqlite_master WHERE name = 'half'")

    async def test_two_processes_may_migrate_at_once(self, tmp_path: Path) -> None:
        databases = [Database(tmp_path / "muxx.db") for _ in range(4)]
        for database in databases:
            await database.open()
        await asyncio.gather(*(database.migrate("things", (TABLE, LOGS)) for database in databases))
        for database in databases:
            await database.close()

    async def test_a_database_from_a_newer_plugin_is_refused(self, db: Database) -> None:
        with pytest.raises(StartError, match="newer version of plugin 'things'"):
            await db.migrate("things", (LOGS,))

    def test_the_kernels_own_tables_are_known_by_their_names(self) -> None:
        assert {projectstore.NAME, recorder.NAME, secret.NAME} == db_module.KERNEL

    @pytest.mark.parametrize("name", ["keys", *sorted(db_module.KERNEL)])
    async def test_of_what_comes_with_muxx_it_is_muxx_that_is_newer(self, db: Database, name: str) -> None:
        await db.migrate(name, (Migration("main", "CREATE TABLE newer (id)"),))
        with pytest.raises(StartError, match=rf"newer version of muxx than {__version__}\. Install that"):
            await db.migrate(name, (LOGS, TABLE))

    def test_a_script_is_cut_at_statements_only(self) -> None:
        trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END;"
        script = f"CREATE TABLE a (x TEXT DEFAULT ';'); -- a; comment\n {trigger}\n;; SELECT 1"
        assert [statement.strip()[:14] for statement in statements(script)] == ["CREATE TABLE a", "-- a; comment\n", "SELECT 1;"]


async def opened(path: Path) -> bool:
    db = Database(path)
    await db.open()
    await db.close()
    return True


async def refused(path: Path) -> str:
    """The one line with which opening is refused; both files stay as they are."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    db = Database(path)
    with pytest.raises(StartError) as caught:
        await db.open()
    await db.close()
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name in before}
    assert after == before
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_it_tells_which_tables_there_are(db: Database) -> None:
    await db.migrate("things", (TABLE, LOGS))
    assert [await db.has_table(file, name) for file in ("main", "logs") for name in ("things", "events")] == [True, False, False, True]


class TestWhatIsRefused:
    @pytest.fixture
    async def path(self, tmp_path: Path) -> Path:
        db = Database(tmp_path / "muxx.db")
        await db.open()
        await db.migrate("things", (TABLE, LOGS))
        for number in range(500):
            await db.write(lambda connection, number=number: add(connection, f"{number}" * 20))
        await db.close()
        return db.path

    @pytest.mark.parametrize("name", ["muxx.db", "muxx-logs.db"])
    @pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 8192])
    async def test_a_file_that_is_no_database(self, path: Path, name: str, content: bytes) -> None:
        path.with_name(name).write_bytes(content)
        assert name in await refused(path)

    @pytest.mark.parametrize("offset", [0, 5, 16, 20])
    async def test_a_flipped_header(self, path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 0xFF
        path.write_bytes(data)
        assert "muxx.db" in await refused(path)

    async def test_a_flipped_page(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-4096 : -4096 + 200] = b"\xff" * 200
        path.write_bytes(data)
        assert "damaged" in await refused(path)

    async def test_a_file_cut_short(self, path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)
        await refused(path)

    async def test_another_programs_database(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "muxx.db")) as other:
            other.execute("CREATE TABLE theirs (id)")
        assert "another program" in await refused(tmp_path / "muxx.db")

    async def test_a_main_file_that_vanished_is_not_made_anew(self, path: Path) -> None:
        path.unlink()
        assert "is missing" in await refused(path)
        assert not path.exists()

    async def test_a_log_file_that_vanished_is_made_anew_only_where_that_is_asked_for(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Spend and limits are counted from it: that they begin at nothing must be somebody's will."""
        logs = path.with_name("muxx-logs.db")
        logs.unlink()
        assert "muxx serve --new-log" in await refused(path)
        assert not logs.exists()
        await begin_log_anew(path)
        assert await opened(path)
        [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
        assert "muxx-logs.db is missing: a new log begins" in warning.getMessage()

    @pytest.mark.parametrize("damage", ["header", "page", "cut short", "empty", "another program's"])
    async def test_a_damaged_log_is_put_aside_as_it_is_where_that_is_asked_for(
        self, path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        logs = path.with_name("muxx-logs.db")
        content = bytearray(logs.read_bytes())
        if damage == "header":
            content[0] ^= 0xFF
        elif damage == "page":
            content[-8192:] = b"\xff" * 8192
        elif damage == "another program's":
            content[68:72] = b"\0\0\0\1"
        del content[{"cut short": len(content) // 2, "empty": 0}.get(damage, len(content)) :]
        logs.write_bytes(content)
        await begin_log_anew(path)
        assert await opened(path)
        [aside] = path.parent.glob("muxx-logs.2*Z.db")
        assert aside.read_bytes() == content
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any(str(aside) in warning for warning in warnings)

    async def test_a_whole_log_stays_whatever_is_asked_for(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        before = path.with_name("muxx-logs.db").read_bytes()
        await begin_log_anew(path)
        assert path.with_name("muxx-logs.db").read_bytes() == before
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []

    async def test_there_is_nothing_to_begin_anew_at_a_first_start(self, tmp_path: Path) -> None:
        await begin_log_anew(tmp_path / "first.db")
        assert list(tmp_path.iterdir()) == []

    async def test_a_first_start_warns_of_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        db = Database(tmp_path / "first.db")
        await db.open()
        await db.close()
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []

    async def test_a_log_file_that_left_its_write_ahead_log_is_not_made_anew(self, path: Path) -> None:
        logs = path.with_name("muxx-logs.db")
        logs.rename(path.with_name("muxx-logs.db-wal"))
        assert "is missing" in await refused(path)
        assert not logs.exists()
        await begin_log_anew(path)
        assert await opened(path)
        assert len(list(path.parent.glob("muxx-logs.2*Z.db-wal"))) == 1

    async def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        db = Database(tmp_path / "missing" / "muxx.db")
        with pytest.raises(StartError) as caught:
            await db.open()
        assert caught.value.exit_code == 3

    async def test_a_file_that_may_not_be_written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert "permissions" in await refused(path)

    @pytest.mark.parametrize(("blocks", "files"), [(1, 1000), (1_000_000, 0)])
    async def test_a_full_disk_is_told_as_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int
    ) -> None:
        """Where SQLite only says that it cannot open what it needs beside the database, even to read."""
        path.with_name("muxx.db-wal").mkdir()
        assert "unable to open database file. Check the file" in await refused(path)
        room = os.statvfs_result((4096, 4096, 1_000_000, blocks, blocks, 1000, files, files, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: room)
        assert await refused(path) == f"{path}: cannot be read: its disk is full. Make room there."


async def test_a_new_log_file_has_the_larger_pages_and_an_older_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def page_bytes() -> list[int]:
        db = Database(tmp_path / "muxx.db")
        await db.open()
        [main], [logs] = await db.read("PRAGMA page_size"), await db.read_logs("PRAGMA page_size")
        await db.close()
        return [main[0], logs[0]]

    assert await page_bytes() == [4096, 8192]
    monkeypatch.setattr(db_module, "PAGE_BYTES", {"main": 8192, "logs": 4096})
    assert await page_bytes() == [4096, 8192]


@pytest.mark.parametrize(("value", "stored"), [(None, None), (True, 1), (False, 0)])
async def test_values_are_bound_as_they_are(db: Database, value: bool | None, stored: int | None) -> None:
    """Those for which Python is given an adapter, so that it need not look for one."""
    await db.write(lambda connection: connection.execute("INSERT INTO things (name) VALUES (?)", (value,)))
    [row] = await db.read("SELECT CAST(name AS INTEGER) AS name FROM things")
    assert row["name"] == stored


async def test_the_files_are_for_their_owner_only(db: Database) -> None:
    for path in (db.path, db.logs):
        assert path.stat().st_mode & 0o077 == 0


async def test_a_first_run_cut_short_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files appear whole: dying before that leaves nothing a next start would stumble over."""

    def dies(*_: object, **__: object) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", dies)
        db = Database(tmp_path / "muxx.db")
        with pytest.raises(StartError):
            await db.open()
    assert list(tmp_path.iterdir()) == []
    await db.open()
    await db.close()


async def test_several_processes_may_begin_at_once(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from muxx.db import Database
async def main():
    db = Database(Path(sys.argv[1]))
    await db.open()
    await db.close()
    print("ok")
asyncio.run(main())
"""
    processes = [spawn(script, tmp_path / "muxx.db") for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ["ok\n"] * 4


COMMITTER = """
import asyncio, sys
from pathlib import Path
from muxx.db import Database
async def main():
    db = Database(Path(sys.argv[1]))
    await db.open()
    number = 0
    while True:
        await db.write(lambda c: c.execute("INSERT INTO things (name) VALUES (?)", (str(number),)))
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


async def test_a_killed_process_loses_no_committed_write(db: Database) -> None:
    process = spawn(COMMITTER, db.path)
    assert process.stdout is not None
    said = "".join([process.stdout.readline() for _ in range(50)])
    said += kill(process)
    told = said.split("\n")[:-1]
    assert set(told) <= set(await names(db))
    assert [row[0] for row in await db.read("PRAGMA integrity_check")] == ["ok"]


async def test_power_durability_syncs_every_commit(tmp_path: Path) -> None:
    for durability, expected in (("crash", 1), ("power", 2)):
        db = Database(tmp_path / "muxx.db", durability=durability)  # type: ignore[arg-type]
        await db.open()

        async def synchronous(connection: aiosqlite.Connection) -> int:
            [row] = await connection.execute_fetchall("PRAGMA synchronous")
            return int(row[0])

        assert await db.write(synchronous) == expected
        await db.close()

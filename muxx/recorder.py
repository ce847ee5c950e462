"""The recorder: moves the journal into the database. One per host; nobody else writes records.

Invariants:

- Rows, the position reached in each segment, and the fate of open requests are committed in one transaction. Whatever goes
  wrong, what is remembered is thrown away and read anew from the last commit; what is then repeated, the hooks repeat
  idempotently by `request_id`.
- A segment is marked as stored in the transaction that stores its last line, and removed only afterwards. A segment so marked is
  never read again, whether or not its removal happened.
- A trace without a row is remembered; when its segment is stored it goes to the table `open_requests`, and leaves that table in
  the transaction that stores its row. When its writer is dead, that row says that the process died: once per request.
- A fault of the database (locked, full), and a hook that is late, are tried again for ever. A record that a hook fails on three
  times by itself is put aside in the table `rejected_records`, in the transaction that moves on behind it, and the other hooks
  have stored it before.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from .chains import named_when_late
from .crashes import describe_crash, is_database_fault
from .db import Migration, migrate
from .host import Host
from .journal import keep_ballast
from .money import Usage
from .plugins import Chain, Step
from .row import Record
from .segments import Line, Segment, row_in, segments
from .sqlite import Connection, Readers, Row, Writer, connect
from .tail import Batch, Tail
from .targets import Target

HOOK_RECORDS = 500
POLL_S = 0.07
"""Lists follow an answer within 100 ms: one pause and one transaction. What a transaction costs by itself, its rows share."""
HOOK_SECONDS = 30.0
"""How long a plugin may wait for something with a batch. The transaction is open meanwhile, and nobody else's rows are stored."""
BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
BALLAST_EVERY_S = 5.0
BUSY_MS = 1000
"""Shorter than elsewhere, so that a recorder that is told to stop does so; it comes back anyway."""
WAL_LIMIT = 256 * 1024 * 1024
UNNAMED_S = 60.0
"""Age at which a segment that never got its name is a dead writer's."""

MIGRATIONS = (
    Migration(
        "logs",
        """
        CREATE TABLE journal_positions (
            segment TEXT PRIMARY KEY, offset INTEGER NOT NULL, stored INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE open_requests (request_id TEXT PRIMARY KEY, writer TEXT NOT NULL, record BLOB NOT NULL) STRICT;
        CREATE INDEX open_requests_by_writer ON open_requests (writer);
        CREATE TABLE rejected_records (
            request_id TEXT NOT NULL, record BLOB NOT NULL, error TEXT NOT NULL, rejected_at REAL NOT NULL,
            UNIQUE (request_id, record)
        ) STRICT;
        """,
    ),
    Migration(
        "logs",
        "ALTER TABLE rejected_records ADD COLUMN sent BLOB; ALTER TABLE rejected_records ADD COLUMN delivered BLOB;",
    ),
)
"""The recorder's own tables in the log database."""
NAME = "recorder"

_ABSENT: dict[str, Any] = {
    **dict.fromkeys(Record.__annotations__),
    **dict.fromkeys(("duration_ms", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"), 0),
    "finish_reasons": [],
    "attributes": {},
}
"""What a trace does not hold of a row."""
_DIED = {"status": 500, "ended_by": "muxx", "error_code": "process_died"}


class HookFailed(Exception):
    """A `record` hook failed on its records, not on the database. The message names plugin, kind of error and place, no value."""

    def __init__(self, message: str, step: Step | None = None) -> None:
        super().__init__(message)
        self.step = step
        """Whose it is; None: no hook could read the record."""


class Recorder:
    """Stores what the journal holds, through the `record` hooks. Belongs to one event loop; `stop` may come from any thread.

    `healthy` is False while nothing can be stored; the journal keeps everything meanwhile.
    """

    def __init__(self, host: Host, chain: Chain, log: logging.Logger, gateway: Any = None) -> None:
        self.healthy = True
        self._paths = host.paths
        self._durability = host.config.database.durability
        self._chain = chain
        self._log = log
        self._gateway = gateway
        self._turn = asyncio.Lock()
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._delay = BACKOFF_S
        self._ballast_due = 0.0
        self._lock = -1
        self._writer: Writer | None = None
        self._tail: Tail | None = None
        self._gone: list[str] = []
        """Names of removed segments; their positions go with the next transaction."""
        self._damage: set[tuple[str, int]] = set()
        """What the log has been told is damaged: what could not be stored is read again and again."""

    async def run(self) -> None:
        """Store what comes, until `stop`; then store what there still is, unless the database refuses, and return."""
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopped:
                if not await self._attempt():
                    await self._pause(POLL_S)
            await self.drain()
        except Exception as error:
            if not self._stopped:
                raise
            self._log.warning("stopped before everything was stored; the journal keeps the rest (%s)", _words(error))
        finally:
            self._loop = None
            await self.close()

    def stop(self) -> None:
        """Let `run` end: with everything stored, or at once when the database refuses work. Safe from any thread."""
        self._stopped = True
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:
                pass  # the loop has been closed meanwhile: `run` has ended

    async def drain(self) -> None:
        """Return when all that was in the journal is stored. Works beside `run` in the same event loop, and without it."""
        while await self._attempt(idle=False):
            pass

    async def close(self) -> None:
        """Let go of the database and the journal. Idempotent; `run` does it by itself."""
        async with self._turn:
            await self._forget()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _attempt(self, idle: bool = True) -> bool:
        """One step.

        True when the next should follow at once; with `idle`, a batch that was not full may wait for more to come.
        """
        try:
            async with self._turn:
                batch = await self._step()
        except Exception as error:
            self._failed(error)
            if self._stopped:
                raise
            await self._pause(self._delay)
            self._delay = min(2 * self._delay, MAX_BACKOFF_S)
            return True
        self.healthy, self._delay = True, BACKOFF_S
        return batch.more or (bool(batch) and not idle)

    def _failed(self, error: Exception) -> None:
        """Say it once per trouble.

        An unknown error comes with its traceback; a plugin's does not, for it might quote a prompt.
        """
        if self.healthy:
            unknown = not isinstance(error, (sqlite3.Error, OSError, HookFailed))
            self._log.warning("records wait in the journal: %s", _words(error), exc_info=error if unknown else None)
        self.healthy = False

    async def _step(self) -> Batch:
        """Store one batch. If that fails or is cancelled, memory may be ahead of the database, so it is thrown away."""
        try:
            tail = self._tail or await self._begin()
            self._keep_ballast()
            batch = tail.next_batch()
            if batch:
                await self._store(batch)
                self._remove(tail, batch.stored)
            for writer in batch.dead:
                await self._close_requests(writer)
        except BaseException:
            await self._forget()
            raise
        return batch

    async def _forget(self) -> None:
        writer, self._writer, self._tail, self._gone = self._writer, None, None, []
        if writer is not None:
            await writer.close()

    def _keep_ballast(self) -> None:
        if time.monotonic() >= self._ballast_due:
            self._ballast_due = time.monotonic() + BALLAST_EVERY_S
            keep_ballast(self._paths.journal)

    # ── beginning ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> Tail:
        """Pick up where the last commit was: remove what is stored, and close the requests of writers that died since."""
        self._take_lock()
        self._writer = Writer(self._paths.logs, durability=self._durability, busy_ms=BUSY_MS, inline=True)
        readers = Readers(self._paths.logs, 1)
        try:
            numbered = [(number, migration.sql) for number, migration in enumerate(MIGRATIONS)]
            await migrate(self._writer, readers, self._paths.logs, NAME, numbered)
            rows = await readers.rows("SELECT segment, offset, stored FROM journal_positions")
            moved = await readers.rows("SELECT request_id, writer FROM open_requests")
        finally:
            await readers.close()
        reached = {row["segment"]: row["offset"] for row in rows if not row["stored"]}
        stored = {row["segment"] for row in rows if row["stored"]}
        ids = {row["request_id"] for row in moved}
        tail = Tail(self._paths.journal, reached, stored, ids, self._log, self._damage)
        self._remove(tail, tail.stored())
        present = {segment.name for segment in segments(self._paths.journal)}
        self._gone = [row["segment"] for row in rows if row["segment"] not in present]
        writers = {segment.writer for segment in tail.waiting()}
        for writer in {row["writer"] for row in moved} - writers:
            await self._close_requests(writer)
        self._tail = tail
        return tail

    def _take_lock(self) -> None:
        """A second recorder would remove segments under the first one's feet. Then tidy up after writers that died very young."""
        if self._lock >= 0:
            return
        self._paths.journal.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self._paths.journal / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise BlockingIOError(error.errno, "another recorder is at work on this journal") from error
        self._lock = fd
        for unnamed in self._paths.journal.glob("*.tmp"):
            with suppress(FileNotFoundError):  # a writer that has just begun gives it its name
                if time.time() - unnamed.stat().st_mtime > UNNAMED_S:
                    unnamed.unlink()

    # ── storing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _store(self, batch: Batch) -> None:
        """Store the batch; when a hook fails twice on it, find the records it fails on and put those aside."""
        for _ in range(2):
            try:
                await self._commit(batch)
            except HookFailed as error:
                self._failed(error)
            else:
                return
        batch.rejected += await self._store_apart(list(batch.rows.values()))
        batch.rows = {}
        await self._commit(batch)

    async def _store_apart(self, lines: list[Line]) -> list[tuple[Line, str]]:
        """Store rows without moving on in the journal, in halves down to those that a hook fails on, and return these."""
        if len(lines) == 1:
            why = await self._store_alone(lines[0])
            return [] if why is None else [(lines[0], why)]
        if await self._tried(lines, self._chain) is None:
            return []
        middle = len(lines) // 2
        return await self._store_apart(lines[:middle]) + await self._store_apart(lines[middle:])

    async def _store_alone(self, line: Line) -> str | None:
        """Store one row through the hooks that can, for one plugin's mistake hides no row from the others; what failed first,
        without the error's own text, which may quote a secret."""
        chain, why = self._chain, None
        while failure := await self._tried([line], chain, 3):
            self._log.error("%s is put aside in rejected_records: %s", line.request_id, failure)
            why = why or str(failure)
            if failure.step is None:
                break
            chain = tuple(step for step in chain if step is not failure.step)
        return why

    async def _tried(self, lines: list[Line], chain: Chain, times: int = 1) -> HookFailed | None:
        """Store rows through these hooks; the last failure, when each of so many tries failed."""
        failure = None
        for _ in range(times):
            try:
                await self._commit(Batch({line.request_id: line for line in lines}), chain)
            except HookFailed as error:
                failure = error
            else:
                return None
        return failure

    async def _commit(self, batch: Batch, chain: Chain | None = None) -> None:
        """One transaction with all of the batch."""
        assert self._writer is not None
        await self._check_wal()
        await self._writer.run(partial(self._write, batch, self._chain if chain is None else chain))
        self._gone = []

    async def _write(self, batch: Batch, chain: Chain, db: Connection) -> None:
        """The records are parsed for each hook and try: what one hook changes in them, no other gets to see."""
        lines = list(batch.rows.values())
        for start in range(0, len(lines), HOOK_RECORDS):
            for step in chain:
                await self._call(step, db, _parsed(lines[start : start + HOOK_RECORDS]))
        stored = {segment.name for segment in batch.stored}
        positions = dict.fromkeys(stored, 0) | batch.positions
        # a request may be opened and closed by the same batch, so rows of open_requests come before they go
        statements: tuple[tuple[str, Sequence[tuple[Any, ...]]], ...] = (
            ("REPLACE INTO journal_positions VALUES (?, ?, ?)", [(name, end, name in stored) for name, end in positions.items()]),
            ("DELETE FROM journal_positions WHERE segment = ?", [(name,) for name in self._gone]),
            ("REPLACE INTO open_requests VALUES (?, ?, ?)", batch.opened),
            ("DELETE FROM open_requests WHERE request_id = ?", [(request_id,) for request_id in batch.closed]),
            ("REPLACE INTO rejected_records VALUES (?, ?, ?, ?, ?, ?)", [_rejected(*rejected) for rejected in batch.rejected]),
        )
        for sql, rows in statements:
            if rows:
                await db.executemany(sql, rows)

    async def _call(self, step: Step, db: Connection, records: list[Record]) -> None:
        limit = asyncio.timeout(HOOK_SECONDS)
        try:
            result = step.call(self._gateway, db, records)
            if inspect.isawaitable(result):
                with named_when_late(step.plugin, "record"):
                    async with limit:
                        await result
        except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            if limit.expired():
                raise TimeoutError(f"plugin {step.plugin} takes longer than {HOOK_SECONDS:g} s in record") from error
            task = asyncio.current_task()
            if is_database_fault(error) or (task is not None and task.cancelling()):
                raise
            raise HookFailed(f"plugin {step.plugin} failed in record: {describe_crash(error)}", step) from error
        if not db.in_transaction:
            raise HookFailed(f"plugin {step.plugin} failed in record: it ended the transaction, which is muxx's to end", step)

    async def _check_wal(self) -> None:
        """While a long read keeps the write-ahead log from being taken back, we wait and the journal grows."""
        wal = f"{self._paths.logs}-wal"
        if not os.path.exists(wal) or os.path.getsize(wal) <= WAL_LIMIT:
            return
        connection = await connect(self._paths.logs, busy_ms=BUSY_MS)
        try:
            await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await connection.close()
        if os.path.getsize(wal) > WAL_LIMIT:
            raise sqlite3.OperationalError("a long read keeps the write-ahead log at its limit")

    def _remove(self, tail: Tail, stored: list[Segment]) -> None:
        """Remove stored segments. One that cannot be removed is not read again, and is tried again when next we begin."""
        for segment in stored:
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                self._log.warning("%s cannot be removed: %s", segment.name, error.strerror)
            else:
                self._gone.append(segment.name)
                tail.forget(segment)

    async def _close_requests(self, writer: str) -> None:
        """The writer is dead: the requests it left open ended with it. Their rows and their deletion are one transaction."""
        assert self._writer is not None
        while rows := await self._writer.run(partial(_open_requests, writer)):
            ended = {row["request_id"]: _row(row["request_id"], self._died(row["record"])) for row in rows}
            await self._store(Batch(ended, closed=list(ended)))

    def _died(self, raw: bytes) -> bytes:
        """The row of a request whose process died, from its trace: its usage is as estimated before it was sent."""
        try:
            trace = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return raw
        return orjson.dumps({**_ABSENT, **trace, **self._priced(trace), **_DIED})

    def _priced(self, trace: dict[str, Any]) -> dict[str, Any]:
        """What a trace's estimated input costs at its target; nothing where the provider is gone or no price is known."""
        provider = self._gateway.providers.get(trace.get("provider")) if self._gateway is not None else None
        if provider is None or trace.get("model") is None:
            return {}
        usage = Usage(input_tokens=trace["input_tokens"], source="estimated")
        cost = self._gateway.price(Target(provider, trace["model"]), usage, trace["started_at"])
        if cost is None:
            return {}
        return {
            "input_cost_pico": cost.input_pico,
            "output_cost_pico": cost.output_pico,
            "cost_pico": cost.total_pico,
            "price_version": cost.price_version,
        }


async def _open_requests(writer: str, db: Connection) -> list[Row]:
    query = "SELECT request_id, record FROM open_requests WHERE writer = ? LIMIT ?"
    return list(await db.execute_fetchall(query, (writer, HOOK_RECORDS)))


def _parsed(lines: list[Line]) -> list[Record]:
    try:
        return [row_in(line) for line in lines]
    except (orjson.JSONDecodeError, TypeError) as error:
        raise HookFailed("a record is not a JSON object") from error


def _row(request_id: str, raw: bytes) -> Line:
    """A row of the recorder's own making, as it would stand in the journal."""
    return Line("final", request_id, raw, None, None, 0)


def _rejected(line: Line, error: str) -> tuple[Any, ...]:
    return line.request_id, line.raw, error, time.time(), line.sent, line.delivered


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

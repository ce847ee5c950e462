"""The keys table, and the only SQL that touches it.

A row holds what is needed to recognise a key, never the key: its HMAC-SHA-256 under a pepper that is not in the database, so that
a copy of the database verifies nothing. A revoked row stays, so that a log line can still be traced to the key that made it.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from muxx import (
    Connection,
    Database,
    Environment,
    Host,
    Identity,
    InvalidRequest,
    Migration,
    NotFound,
    ensure_project,
    note_change,
)

from . import format
from .present import Status

DEFAULT_PROJECT = "default"

LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""When a key ends that ends at all, at the latest: there is no date for what comes much later."""

MIGRATIONS = (
    Migration(
        "main",
        """
        CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            project TEXT,
            environment TEXT NOT NULL CHECK (environment IN ('live', 'test', 'admin')),
            hmac BLOB NOT NULL UNIQUE,
            prefix TEXT NOT NULL,
            last4 TEXT NOT NULL,
            name TEXT,
            models TEXT NOT NULL DEFAULT '[]',
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            replaced_by TEXT,
            CHECK ((project IS NULL) = (environment = 'admin'))
        ) STRICT
        """,
    ),
    Migration(
        "main",
        """
        INSERT OR IGNORE INTO projects (id, name, created_at)
            SELECT 'proj_' || lower(hex(randomblob(10))), project, min(created_at)
            FROM keys WHERE project IS NOT NULL GROUP BY project
        """,
    ),
)

_COLUMNS = "id, project, environment, hmac, prefix, last4, name, models, created_at, expires_at, revoked_at, replaced_by"
_ALL = " ".join(("SELECT", _COLUMNS, "FROM keys ORDER BY created_at, id"))
_ONE = " ".join(("SELECT", _COLUMNS, "FROM keys WHERE id = ?"))
_PAGE = " ".join(
    (
        "SELECT",
        _COLUMNS,
        "FROM keys WHERE (:project IS NULL OR project = :project) AND (:environment IS NULL OR environment = :environment)",
        "AND (:status IS NULL OR :status = CASE WHEN revoked_at IS NOT NULL THEN 'revoked'",
        "WHEN expires_at <= :now THEN 'expired' ELSE 'active' END)",
        "AND (:after IS NULL OR (created_at, id) > (SELECT created_at, id FROM keys WHERE id = :after))",
        "ORDER BY created_at, id LIMIT :limit",
    )
)
_INSERT = (
    "INSERT INTO keys (id, project, environment, hmac, prefix, last4, name, models, created_at, expires_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

_CHANGE = "UPDATE keys SET name = ?, models = ?, expires_at = ? WHERE id = ?"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as the database knows it. `project` is None for an admin key, which belongs to none."""

    id: str
    project: str | None
    environment: Environment
    hmac: bytes
    prefix: str
    last4: str
    name: str | None
    models: tuple[str, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    replaced_by: str | None = None

    def status(self, now: float) -> Status:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    @property
    def identity(self) -> Identity:
        """What a caller with this key is to the rest of muxx."""
        return Identity(
            project=self.project or "",
            environment=self.environment,
            role="admin" if self.environment == "admin" else "project",
            key_id=self.id,
            key_prefix=self.prefix,
            key_last4=self.last4,
            models=self.models,
        )


def digest(pepper: bytes, text: str) -> bytes:
    """What is stored of a key."""
    return hmac.digest(pepper, text.encode("ascii"), "sha256")


def new_row(
    text: str,
    pepper: bytes,
    *,
    project: str | None,
    name: str | None = None,
    models: tuple[str, ...] = (),
    expires_at: float | None = None,
) -> KeyRow:
    """The row for a well-formed key text."""
    return KeyRow(
        id="key_" + format.random_text(20),
        project=project,
        environment=format.environment_of(text),
        hmac=digest(pepper, text),
        prefix=format.prefix_of(text),
        last4=text[-4:],
        name=name,
        models=models,
        created_at=time.time(),
        expires_at=expires_at,
    )


class KeyStore:
    """Reads and writes keys. Whoever writes also bumps `host.shared`'s version of "keys", after the write has returned.

    `by` is the id of the key that asks for a change, for the audit log; None: a command does.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    @classmethod
    async def prepared(cls, host: Host) -> KeyStore:
        """A store whose table exists, also when no server has ever run on this database."""
        await host.db.migrate("keys", MIGRATIONS)
        return cls(host.db)

    async def rows(self) -> list[KeyRow]:
        """Every key, oldest first, revoked ones too."""
        return [_row(values) for values in await self._db.read(_ALL)]

    async def page(
        self, project: str | None, environment: str | None, status: Status | None, after: str | None, limit: int
    ) -> list[KeyRow] | None:
        """Some keys, oldest first, behind the one with the id `after`; None where there is no such key. None means any."""
        if after is not None and not await self._db.read(_ONE, (after,)):
            return None
        wanted = {"project": project, "environment": environment, "status": status, "after": after, "limit": limit}
        return [_row(values) for values in await self._db.read(_PAGE, {**wanted, "now": time.time()})]

    async def one(self, key_id: str) -> KeyRow:
        """The key of this id; raises `NotFound`."""
        return _only(await self._db.read(_ONE, (key_id,)))

    async def add(self, row: KeyRow, *, by: str | None = None) -> None:
        """Store a new key, and its project where there is none of the name; `InvalidRequest` for an archived one."""

        async def write(db: Connection) -> None:
            await _insert(db, row)
            await _note(db, "key.create", row, by)

        await self._db.write(write)

    async def take_back(self, row: KeyRow, before: Iterable[KeyRow]) -> None:
        """Undo the making of a key whose text reached nobody. What its making changed of others is as `before`."""

        async def write(db: Connection) -> None:
            await db.execute("DELETE FROM keys WHERE id = ?", (row.id,))
            for old in before:
                await db.execute("UPDATE keys SET expires_at = ?, replaced_by = NULL WHERE id = ?", (old.expires_at, old.id))
            await _note(db, "key.take_back", row, None)

        await self._db.write(write)

    async def add_first(self, row: KeyRow) -> bool:
        """Store `row` if there is no key at all. Deciding and storing are one transaction, so only one caller ever hears True."""

        async def write(db: Connection) -> bool:
            async with db.execute("SELECT 1 FROM keys LIMIT 1") as cursor:
                if await cursor.fetchone() is not None:
                    return False
            await _insert(db, row)
            await _note(db, "key.create", row, None)
            return True

        return await self._db.write(write)

    async def revoke(self, key_id: str, *, by: str | None = None) -> bool:
        """Revoke for good; False when there is no such key. A key revoked before keeps its first date."""

        async def write(db: Connection) -> bool:
            sql = "UPDATE keys SET revoked_at = ? WHERE id = ?"
            rows = [_row(values) for values in await db.execute_fetchall(_ONE, (key_id,))]
            if rows and rows[0].revoked_at is None:
                await db.execute(sql, (time.time(), key_id))
                await _note(db, "key.revoke", rows[0], by)
            return bool(rows)

        return await self._db.write(write)

    async def change(self, key_id: str, changes: Mapping[str, Any], *, by: str | None = None) -> KeyRow:
        """Set its `name`, `models` or `expires_at`. Raises `NotFound`, and `InvalidRequest` for a revoked or rotated key."""

        async def write(db: Connection) -> KeyRow:
            old = _only(await db.execute_fetchall(_ONE, (key_id,)))
            if old.revoked_at is not None:
                raise InvalidRequest("The key is revoked, for good. Make a new one.")
            if old.replaced_by is not None:
                raise InvalidRequest(f"The key was rotated, so it ends with its overlap. Change its successor {old.replaced_by}.")
            new = replace(old, **changes)
            before, after = asdict(old), asdict(new)
            told = {name: value for name, value in after.items() if value != before[name]}
            if told:
                await db.execute(_CHANGE, (new.name, json.dumps(new.models), new.expires_at, key_id))
                await _note(db, "key.change", old, by, **told)
            return new

        return await self._db.write(write)

    async def rotate(self, key_id: str, pepper: bytes, overlap: float, *, by: str | None = None) -> tuple[str, KeyRow]:
        """Make a successor with the same rights and let the old key live `overlap` seconds more, and never longer than it had.

        The successor lives as long as the old key was made for. Raises `NotFound`, and `InvalidRequest` for a key that does not
        work today or was rotated before.
        """

        async def write(db: Connection) -> tuple[str, KeyRow]:
            old = await _active(db, key_id)
            text = format.generate(old.environment)
            now = time.time()
            expires_at = None if old.expires_at is None else min(now + (old.expires_at - old.created_at), LATEST)
            row = new_row(text, pepper, project=old.project, name=old.name, models=old.models, expires_at=expires_at)
            await _insert(db, row)
            end = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            await db.execute("UPDATE keys SET expires_at = ?, replaced_by = ? WHERE id = ?", (end, row.id, old.id))
            await _note(db, "key.rotate", old, by, successor=row.id)
            return text, row

        return await self._db.write(write)


async def _note(db: Connection, action: str, row: KeyRow, by: str | None, **detail: Any) -> None:
    await note_change(db, action, by=by, project=row.project, subject=row.id, environment=row.environment, **detail)


async def _insert(db: Connection, row: KeyRow) -> None:
    if row.project is not None:
        await ensure_project(db, row.project)
    values = (row.id, row.project, row.environment, row.hmac, row.prefix, row.last4, row.name)
    await db.execute(_INSERT, (*values, json.dumps(row.models), row.created_at, row.expires_at))


async def _active(db: Connection, key_id: str) -> KeyRow:
    row = _only(await db.execute_fetchall(_ONE, (key_id,)))
    if row.replaced_by is not None:
        raise InvalidRequest(f"This key cannot be rotated: it was already rotated to {row.replaced_by}.")
    status = row.status(time.time())
    if status != "active":
        raise InvalidRequest(f"This key cannot be rotated: it is {status}. Make a new one.")
    return row


def _only(rows: Iterable[Any]) -> KeyRow:
    for values in rows:
        return _row(values)
    raise NotFound("There is no such key. GET /v1/keys and `muxx keys list` show them.")


def _row(values: Any) -> KeyRow:
    known = dict(zip(values.keys(), values, strict=True))
    known["models"] = tuple(json.loads(known["models"]))
    return KeyRow(**known)

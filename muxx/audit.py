"""Who changed what, and when: one row for each change of a project, a key or a provider key, in the change's own transaction.

A row never holds a secret: whoever writes one gives names, ids and settings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from .db import Database
    from .sqlite import Connection

TABLE = """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        project TEXT,
        subject TEXT,
        detail TEXT NOT NULL
    ) STRICT
"""

_INSERT = "INSERT INTO audit (at, actor, action, project, subject, detail) VALUES (?, ?, ?, ?, ?, ?)"
_PAGE = (
    "SELECT id, at, actor, action, project, subject, detail FROM audit"
    " WHERE (? IS NULL OR id < ?) AND (? IS NULL OR project = ?) ORDER BY id DESC LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change. `actor` is a key's id or `uid:N`, the user whose shell ran a command; `at` is in Unix seconds.

    `action` is e.g. `project.set` or `key.revoke`, `subject` what it was done to where that is not the project itself: a key's
    id, a provider's name.
    """

    id: int
    at: float
    actor: str
    action: str
    project: str | None
    subject: str | None
    detail: Mapping[str, Any]


def shell_user() -> str:
    """Who acts when a command does."""
    return f"uid:{os.getuid()}"


async def note_change(
    db: Connection, action: str, *, by: str | None = None, project: str | None = None, subject: str | None = None, **detail: Any
) -> None:
    """Write the row of a change that `db`'s transaction makes. `by` is the id of the key that asked; None: a command did."""
    values = (time.time(), by or shell_user(), action, project, subject, orjson.dumps(detail).decode())
    await db.execute(_INSERT, values)


async def audit_log(db: Database, *, project: str | None = None, before: int | None = None, limit: int = 100) -> list[AuditRow]:
    """The newest changes first; `before` is the id of the last one seen."""
    rows = await db.read(_PAGE, (before, before, project, project, limit))
    return [AuditRow(**{**dict(zip(row.keys(), row, strict=True)), "detail": orjson.loads(row["detail"])}) for row in rows]

"""A key as lists show it, the same over HTTP and from commands: never its text, but in the answer that makes it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from muxx import Environment, Moment, Shown

if TYPE_CHECKING:
    from .store import KeyRow

Status = Literal["active", "expired", "revoked"]


class Key(Shown):
    object: Literal["key"] = "key"
    id: str
    prefix: str
    last4: str
    project: str | None
    """None: an admin key, which belongs to none."""
    environment: Environment
    name: str | None
    models: tuple[str, ...]
    """Patterns; none: every model."""
    created_at: Moment
    expires_at: Moment | None
    status: Status
    replaced_by: str | None
    """The key that took over when it was rotated."""


class NewKey(Key):
    key: str
    """Its text, this once."""


class RevokedKey(Shown):
    object: Literal["key"] = "key"
    id: str
    revoked: Literal[True] = True


def present(row: KeyRow) -> dict[str, Any]:
    return Key(**_members(row)).as_json()


def present_new(row: KeyRow, text: str) -> dict[str, Any]:
    return NewKey(key=text, **_members(row)).as_json()


def _members(row: KeyRow) -> dict[str, Any]:
    known = asdict(row)
    return {name: known[name] for name in Key.model_fields if name in known} | {"status": row.status(time.time())}

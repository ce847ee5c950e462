"""A key as lists show it, the same over HTTP and from commands: never its text."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import KeyRow


def present(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "prefix": row.prefix,
        "last4": row.last4,
        "project": row.project,
        "environment": row.environment,
        "name": row.name,
        "models": list(row.models),
        "created_at": _iso(row.created_at),
        "expires_at": _iso(row.expires_at),
        "status": row.status(time.time()),
    }


def _iso(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

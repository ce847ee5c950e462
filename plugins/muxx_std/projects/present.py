"""Projects, provider keys and changes as JSON, the same over HTTP and from commands."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from muxx import AuditRow, Config, ProjectRow, ProviderKeyRow, resolved_settings


def project(row: ProjectRow, config: Config) -> dict[str, Any]:
    """`settings` is what the project sets itself, `effective` what holds for it."""
    return {
        "object": "project",
        "id": row.id,
        "name": row.name,
        "created_at": iso(row.created_at),
        "archived_at": iso(row.archived_at),
        "settings": dict(row.own),
        "effective": resolved_settings(config.project, row.own).model_dump(mode="json"),
    }


def provider_key(row: ProviderKeyRow) -> dict[str, Any]:
    return {"object": "provider_key", **asdict(row), "created_at": iso(row.created_at)}


def change(row: AuditRow) -> dict[str, Any]:
    return {"object": "change", **asdict(row), "at": iso(row.at)}


def iso(moment: float | None) -> str | None:
    """UTC, to the millisecond."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Projects, provider keys and changes as JSON, the same over HTTP and from commands."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from muxx import AuditRow, Config, Moment, ProjectConfig, ProjectRow, ProviderKeyRow, Shown, resolved_settings

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


class _LikeProjectConfig:
    """Says in the OpenAPI document what such an object looks like; what it may hold is checked by `host.projects`."""

    def __get_pydantic_json_schema__(self, _: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(ProjectConfig.__pydantic_core_schema__)


Settings = Annotated[dict[str, Any], _LikeProjectConfig()]


class Project(Shown):
    object: Literal["project"] = "project"
    id: str
    name: str
    """It never changes, and is never given again."""
    created_at: Moment
    archived_at: Moment | None
    settings: Settings
    """What the project sets itself."""
    effective: ProjectConfig
    """What holds for it."""


class ProviderKey(Shown):
    object: Literal["provider_key"] = "provider_key"
    project: str
    provider: str
    last4: str
    """The end of the key; empty where it is too short to spare it. The key itself is never shown."""
    created_at: Moment


class RemovedKey(Shown):
    object: Literal["provider_key"] = "provider_key"
    project: str
    provider: str
    deleted: Literal[True] = True


class Change(Shown):
    object: Literal["change"] = "change"
    id: int
    at: Moment
    actor: str
    """A key's id, or `uid:N` for the user whose shell ran a command."""
    action: str
    project: str | None
    subject: str | None
    """What it was done to, where that is not the project itself."""
    detail: dict[str, Any]


def project(row: ProjectRow, config: Config) -> dict[str, Any]:
    effective = resolved_settings(config.project, row.own)
    shown = Project(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        archived_at=row.archived_at,
        settings=dict(row.own),
        effective=effective,
    )
    return shown.as_json()


def provider_key(row: ProviderKeyRow) -> dict[str, Any]:
    return ProviderKey(**asdict(row)).as_json()


def change(row: AuditRow) -> dict[str, Any]:
    return Change(**asdict(row)).as_json()

"""`/v1/projects`, `/v1/project` and `/v1/audit`. Projects are named by id in paths, so that no name has to be escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from muxx import HttpRequest, Identity, InvalidRequest, NotFound, Reply, audit_log, body_as

from . import present

if TYPE_CHECKING:
    from muxx import Gateway, ProjectRow

MOST_CHANGES = 1000


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewProject(Body):
    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class ProjectChanges(Body):
    settings: dict[str, Any]
    """A merge patch: null takes a setting back."""


class NewProviderKey(Body):
    key: SecretStr


async def show_own(gateway: Gateway, request: HttpRequest) -> Reply:
    """The project of the key that asks."""
    identity = _identity(request)
    if identity.role == "admin":
        raise NotFound("An admin key belongs to no project. GET /v1/projects lists them all.")
    return _reply(gateway, await gateway.host.projects.named(identity.project))


async def list_projects(gateway: Gateway, request: HttpRequest) -> Reply:
    rows = await gateway.host.projects.rows()
    return Reply.json({"object": "list", "data": [present.project(row, gateway.config) for row in rows], "has_more": False})


async def create(gateway: Gateway, request: HttpRequest) -> Reply:
    body = await body_as(gateway, request, NewProject)
    row = await gateway.host.projects.create(body.name, body.settings, by=_identity(request).key_id)
    return _reply(gateway, row, 201)


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """Any project for an admin, its own for a project key: another's is answered exactly as one that does not exist."""
    identity, row = _identity(request), await gateway.host.projects.with_id(request.params["id"])
    if identity.role != "admin" and identity.project != row.name:
        raise NotFound("There is no such project.")
    return _reply(gateway, row)


async def change(gateway: Gateway, request: HttpRequest) -> Reply:
    name = await _name(gateway, request)
    body = await body_as(gateway, request, ProjectChanges)
    return _reply(gateway, await gateway.host.projects.change(name, body.settings, by=_identity(request).key_id))


async def archive(gateway: Gateway, request: HttpRequest) -> Reply:
    """Its keys are refused from the next request on; its rows stay."""
    name = await _name(gateway, request)
    return _reply(gateway, await gateway.host.projects.archive(name, by=_identity(request).key_id))


async def list_provider_keys(gateway: Gateway, request: HttpRequest) -> Reply:
    rows = await gateway.host.projects.provider_keys(await _name(gateway, request))
    return Reply.json({"object": "list", "data": [present.provider_key(row) for row in rows], "has_more": False})


async def set_provider_key(gateway: Gateway, request: HttpRequest) -> Reply:
    """Set or replace the key; it is never shown again."""
    name, provider = await _name(gateway, request), request.params["provider"]
    if provider not in gateway.providers:
        raise NotFound("There is no such provider.")
    body = await body_as(gateway, request, NewProviderKey)
    by = _identity(request).key_id
    row = await gateway.host.projects.set_provider_key(name, provider, body.key.get_secret_value(), by=by)
    return Reply.json(present.provider_key(row))


async def remove_provider_key(gateway: Gateway, request: HttpRequest) -> Reply:
    name, provider = await _name(gateway, request), request.params["provider"]
    await gateway.host.projects.remove_provider_key(name, provider, by=_identity(request).key_id)
    return Reply.json({"object": "provider_key", "project": name, "provider": provider, "deleted": True})


async def list_changes(gateway: Gateway, request: HttpRequest) -> Reply:
    """The newest changes first, of all projects or of the one named; `after` is the id of the last one seen."""
    query = request.query
    for name in query:
        if name not in ("project", "after", "limit"):
            raise InvalidRequest("There is no such parameter here; there are project, after, limit.", param=name)
    limit = _number(query, "limit", 100, MOST_CHANGES)
    before = _number(query, "after", 1, 2**53) if "after" in query else None
    rows = await audit_log(gateway.db, project=query.get("project"), before=before, limit=limit + 1)
    data = [present.change(row) for row in rows[:limit]]
    return Reply.json({"object": "list", "data": data, "has_more": len(rows) > limit})


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and 1 <= int(text) <= most):
        raise InvalidRequest(f"{name} must be a whole number from 1 to {most}.", param=name)
    return int(text)


async def _name(gateway: Gateway, request: HttpRequest) -> str:
    return (await gateway.host.projects.with_id(request.params["id"])).name


def _reply(gateway: Gateway, row: ProjectRow, status: int = 200) -> Reply:
    return Reply.json(present.project(row, gateway.config), status)


def _identity(request: HttpRequest) -> Identity:
    if request.identity is None:
        raise RuntimeError("the kernel calls a guarded route with an identity")
    return request.identity

"""`/v1/projects`, `/v1/project` and `/v1/audit`. Projects are named by id in paths, so that no name has to be escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SecretStr

from muxx import (
    Asked,
    HttpRequest,
    Identity,
    Listed,
    NotFound,
    Reply,
    Route,
    audit_log,
    body_as,
    query_as,
)

from . import present

if TYPE_CHECKING:
    from muxx import Gateway, ProjectRow

MOST_LISTED = 1000
Limit = Annotated[int, Field(ge=1, le=MOST_LISTED)]


class ProjectToMake(Asked):
    name: str
    """Up to 64 letters, digits, dots, dashes and underscores; it never changes."""
    settings: present.Settings = Field(default_factory=dict)
    """What it sets itself; for what is left out the file's `[project]` holds."""


class ProjectChanges(Asked):
    settings: dict[str, Any]
    """A merge patch (RFC 7396) in the shape of a new project's settings: null takes a setting back."""


class ProviderKeyToSet(Asked):
    key: SecretStr


class ProjectQuery(Asked):
    name: str | None = None
    archived: bool | None = None
    """true or false; left out: all."""
    limit: Limit = 100
    after: str | None = None
    """The id of the last project seen."""


class AuditQuery(Asked):
    project: str | None = None
    limit: Limit = 100
    after: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """The id of the last change seen."""


async def show_own(gateway: Gateway, request: HttpRequest) -> Reply:
    """The project of the key that asks."""
    identity = _identity(request)
    if identity.role == "admin":
        raise NotFound("An admin key belongs to no project. GET /v1/projects lists them all.")
    return _reply(gateway, await gateway.host.projects.named(identity.project))


async def list_projects(gateway: Gateway, request: HttpRequest) -> Reply:
    """Every project, oldest first, archived ones too."""
    asked = query_as(request, ProjectQuery)
    rows = await gateway.host.projects.page(asked.name, asked.archived, asked.after, asked.limit + 1)
    data = [present.project(row, gateway.config) for row in rows[: asked.limit]]
    return Reply.json({"object": "list", "data": data, "has_more": len(rows) > asked.limit})


async def create(gateway: Gateway, request: HttpRequest) -> Reply:
    """Make a project. Its name is never given again."""
    body = await body_as(gateway, request, ProjectToMake)
    row = await gateway.host.projects.create(body.name, body.settings, by=_identity(request).key_id)
    return _reply(gateway, row, 201)


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """One project. A project's key sees its own; another's is answered exactly as one that does not exist."""
    identity, row = _identity(request), await gateway.host.projects.with_id(request.params["id"])
    if identity.role != "admin" and identity.project != row.name:
        raise NotFound("There is no such project.")
    return _reply(gateway, row)


async def change(gateway: Gateway, request: HttpRequest) -> Reply:
    """Set and take back settings. They hold for the next request. A project cannot be renamed, for rows name it by its name."""
    name = await _name(gateway, request)
    body = await body_as(gateway, request, ProjectChanges)
    return _reply(gateway, await gateway.host.projects.change(name, body.settings, by=_identity(request).key_id))


async def archive(gateway: Gateway, request: HttpRequest) -> Reply:
    """Archive a project: its keys are refused from the next request on; its rows stay."""
    name = await _name(gateway, request)
    return _reply(gateway, await gateway.host.projects.archive(name, by=_identity(request).key_id))


async def restore(gateway: Gateway, request: HttpRequest) -> Reply:
    """Take a project out of the archive: its keys work again from the next request on."""
    name = await _name(gateway, request)
    if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
        await body_as(gateway, request, Asked)  # it has no members, and whoever sends some is told so
    return _reply(gateway, await gateway.host.projects.restore(name, by=_identity(request).key_id))


async def list_provider_keys(gateway: Gateway, request: HttpRequest) -> Reply:
    """Of which providers the project has a key of its own, without the keys."""
    rows = await gateway.host.projects.provider_keys(await _name(gateway, request))
    return Reply.json({"object": "list", "data": [present.provider_key(row) for row in rows], "has_more": False})


async def set_provider_key(gateway: Gateway, request: HttpRequest) -> Reply:
    """Set or replace a project's key of a provider. It is never shown again."""
    name, provider = await _name(gateway, request), request.params["provider"]
    if provider not in gateway.providers:
        raise NotFound("There is no such provider.")
    body = await body_as(gateway, request, ProviderKeyToSet)
    by = _identity(request).key_id
    row = await gateway.host.projects.set_provider_key(name, provider, body.key.get_secret_value(), by=by)
    return Reply.json(present.provider_key(row))


async def remove_provider_key(gateway: Gateway, request: HttpRequest) -> Reply:
    """Remove a project's key of a provider, which is called with the operator's again."""
    name, provider = await _name(gateway, request), request.params["provider"]
    await gateway.host.projects.remove_provider_key(name, provider, by=_identity(request).key_id)
    return Reply.json(present.RemovedKey(project=name, provider=provider).as_json())


async def list_changes(gateway: Gateway, request: HttpRequest) -> Reply:
    """Who changed what, the newest first, of all projects or of the one named."""
    asked = query_as(request, AuditQuery)
    rows = await audit_log(gateway.db, project=asked.project, before=asked.after, limit=asked.limit + 1)
    data = [present.change(row) for row in rows[: asked.limit]]
    return Reply.json({"object": "list", "data": data, "has_more": len(rows) > asked.limit})


_ONE = "/v1/projects/{id}"
_KEYS = "/v1/projects/{id}/provider-keys"
_KEY = _KEYS + "/{provider}"
ROUTES = (
    Route("GET", "/v1/project", show_own, query=Asked, answer=present.Project),
    Route("GET", "/v1/projects", list_projects, "admin", query=ProjectQuery, answer=Listed[present.Project]),
    Route("POST", "/v1/projects", create, "admin", body=ProjectToMake, query=Asked, answer=present.Project, status=201),
    Route("GET", _ONE, show, query=Asked, answer=present.Project),
    Route("PATCH", _ONE, change, "admin", body=ProjectChanges, query=Asked, answer=present.Project),
    Route("DELETE", _ONE, archive, "admin", query=Asked, answer=present.Project),
    Route("POST", _ONE + "/restore", restore, "admin", query=Asked, answer=present.Project),
    Route("GET", _KEYS, list_provider_keys, "admin", query=Asked, answer=Listed[present.ProviderKey]),
    Route("PUT", _KEY, set_provider_key, "admin", body=ProviderKeyToSet, query=Asked, answer=present.ProviderKey),
    Route("DELETE", _KEY, remove_provider_key, "admin", query=Asked, answer=present.RemovedKey),
    Route("GET", "/v1/audit", list_changes, "admin", query=AuditQuery, answer=Listed[present.Change]),
)


async def _name(gateway: Gateway, request: HttpRequest) -> str:
    return (await gateway.host.projects.with_id(request.params["id"])).name


def _reply(gateway: Gateway, row: ProjectRow, status: int = 200) -> Reply:
    return Reply.json(present.project(row, gateway.config), status)


def _identity(request: HttpRequest) -> Identity:
    if request.identity is None:
        raise RuntimeError("the kernel calls a guarded route with an identity")
    return request.identity

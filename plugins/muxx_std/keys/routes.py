"""`/v1/keys`, for admins. The text of a key is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field

from muxx import Asked, Environment, HttpRequest, InvalidRequest, Listed, NotFound, Reply, Route, body_as, query_as

from . import format
from .present import Key, NewKey, RevokedKey, Status, present, present_new
from .store import DEFAULT_PROJECT, LATEST, KeyStore, new_row

if TYPE_CHECKING:
    from datetime import datetime

    from muxx import Gateway

MAX_TEXT = 200
MOST_PATTERNS = 100
MOST_KEYS = 1000
MOST_OVERLAP = 30 * 86_400


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may hold printable characters only")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_printable)]
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_printable)]
Models = Annotated[tuple[Pattern, ...], Field(max_length=MOST_PATTERNS)]


class KeyToMake(Asked):
    project: str | None = None
    """The default project's where it is left out; none for an admin key."""
    environment: Environment = "live"
    name: Text | None = None
    """What it is for."""
    models: Models = ()
    """Patterns of the models it may use; none: all."""
    expires_at: AwareDatetime | None = None


class KeyChanges(Asked):
    """What is left out stays as it is."""

    name: Text | None = None
    models: Models = ()
    """None: all of them."""
    expires_at: AwareDatetime | None = None
    """null: never."""


class Rotation(Asked):
    overlap_s: Annotated[int, Field(ge=0, le=MOST_OVERLAP)] = 3600
    """Seconds for which the old key still works."""


class KeyQuery(Asked):
    project: str | None = None
    environment: Environment | None = None
    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_KEYS)] = 100
    after: str | None = None
    """The id of the last key seen."""


async def list_keys(gateway: Gateway, request: HttpRequest) -> Reply:
    """Every key without its secret part, oldest first, revoked ones too."""
    asked = query_as(request, KeyQuery)
    rows = await KeyStore(gateway.db).page(asked.project, asked.environment, asked.status, asked.after, asked.limit + 1)
    if rows is None:
        raise InvalidRequest("after must be the id of a key you have been given.", param="after")
    data = [present(row) for row in rows[: asked.limit]]
    return Reply.json({"object": "list", "data": data, "has_more": len(rows) > asked.limit})


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """One key, without its secret part."""
    return Reply.json(present(await KeyStore(gateway.db).one(request.params["id"])))


async def create(gateway: Gateway, request: HttpRequest) -> Reply:
    """Make a key of a project that exists, and show it, this once."""
    asked = await body_as(gateway, request, KeyToMake)
    project = await _project(gateway, asked)
    text = format.generate(asked.environment)
    pepper, expires_at = gateway.host.derive("keys"), _moment(asked.expires_at)
    row = new_row(text, pepper, project=project, name=asked.name, models=asked.models, expires_at=expires_at)
    await KeyStore(gateway.db).add(row, by=_caller(request))
    gateway.shared.bump("keys")
    return Reply.json(present_new(row, text), 201)


async def change(gateway: Gateway, request: HttpRequest) -> Reply:
    """Change a key's name, its models or its end. An expired key that is given a later end works again; a revoked one is gone
    for good."""
    asked = await body_as(gateway, request, KeyChanges)
    changes: dict[str, Any] = {name: getattr(asked, name) for name in asked.model_fields_set}
    if "expires_at" in changes:
        changes["expires_at"] = _moment(asked.expires_at)
    row = await KeyStore(gateway.db).change(request.params["id"], changes, by=_caller(request))
    gateway.shared.bump("keys")
    return Reply.json(present(row))


async def rotate(gateway: Gateway, request: HttpRequest) -> Reply:
    """Make a key that takes over from another, with the same rights, and show it, this once. Both work during the overlap, and
    then only the new one."""
    asked = await body_as(gateway, request, Rotation)
    pepper, by = gateway.host.derive("keys"), _caller(request)
    text, row = await KeyStore(gateway.db).rotate(request.params["id"], pepper, asked.overlap_s, by=by)
    gateway.shared.bump("keys")
    return Reply.json(present_new(row, text), 201)


async def revoke(gateway: Gateway, request: HttpRequest) -> Reply:
    """Refuse a key from the next request on. Streams already running finish."""
    key_id = request.params["id"]
    if not await KeyStore(gateway.db).revoke(key_id, by=_caller(request)):
        raise NotFound("There is no key with this id.")
    gateway.shared.bump("keys")
    return Reply.json(RevokedKey(id=key_id).as_json())


ROUTES = (
    Route("GET", "/v1/keys", list_keys, "admin", query=KeyQuery, answer=Listed[Key]),
    Route("POST", "/v1/keys", create, "admin", body=KeyToMake, query=Asked, answer=NewKey, status=201),
    Route("GET", "/v1/keys/{id}", show, "admin", query=Asked, answer=Key),
    Route("PATCH", "/v1/keys/{id}", change, "admin", body=KeyChanges, query=Asked, answer=Key),
    Route("POST", "/v1/keys/{id}/rotate", rotate, "admin", body=Rotation, query=Asked, answer=NewKey, status=201),
    Route("DELETE", "/v1/keys/{id}", revoke, "admin", query=Asked, answer=RevokedKey),
)


async def _project(gateway: Gateway, asked: KeyToMake) -> str | None:
    if asked.environment == "admin":
        if asked.project is not None:
            raise InvalidRequest("An admin key belongs to no project; leave out project.", param="project")
        return None
    name = DEFAULT_PROJECT if asked.project is None else asked.project
    try:
        await gateway.host.projects.named(name)
    except NotFound:
        raise InvalidRequest("There is no such project; POST /v1/projects makes one.", param="project") from None
    return name


def _moment(expires_at: datetime | None) -> float | None:
    if expires_at is None:
        return None
    if expires_at.timestamp() <= time.time():
        raise InvalidRequest("expires_at has passed. DELETE /v1/keys/{id} ends a key now.", param="expires_at")
    if expires_at.timestamp() > LATEST:
        raise InvalidRequest("expires_at is after 9999-12-31. Leave it out for a key that does not end.", param="expires_at")
    return expires_at.timestamp()


def _caller(request: HttpRequest) -> str | None:
    return request.identity.key_id if request.identity is not None else None

"""`/v1/keys`, for admins. The text of a key is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from muxx import Environment, HttpRequest, InvalidRequest, NotFound, Reply, body_as

from . import format
from .present import present
from .store import DEFAULT_PROJECT, KeyStore, new_row

if TYPE_CHECKING:
    from muxx import Gateway

MAX_TEXT = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("may hold printable characters only")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_printable)]


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    project: str | None = None
    """The default project's where it is left out; none for an admin key."""
    environment: Environment = "live"
    name: Text | None = None
    models: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    expires_at: AwareDatetime | None = None


async def list_keys(gateway: Gateway, request: HttpRequest) -> Reply:
    """Every key, revoked ones too, without their secret part."""
    rows = await KeyStore(gateway.db).rows()
    return Reply.json({"object": "list", "data": [{"object": "key", **present(row)} for row in rows], "has_more": False})


async def create(gateway: Gateway, request: HttpRequest) -> Reply:
    """Make a key of a project that exists, and show it, this once."""
    asked = await body_as(gateway, request, NewKey)
    project = await _project(gateway, asked)
    expires_at = asked.expires_at.timestamp() if asked.expires_at is not None else None
    if expires_at is not None and expires_at <= time.time():
        raise InvalidRequest("expires_at has passed.", param="expires_at")
    text = format.generate(asked.environment)
    pepper = gateway.host.derive("keys")
    row = new_row(text, pepper, project=project, name=asked.name, models=asked.models, expires_at=expires_at)
    await KeyStore(gateway.db).add(row, by=_caller(request))
    gateway.shared.bump("keys")
    return Reply.json({"object": "key", "key": text, **present(row)}, 201)


async def revoke(gateway: Gateway, request: HttpRequest) -> Reply:
    """Refuse a key from the next request on. Streams already running finish."""
    key_id = request.params["id"]
    if not await KeyStore(gateway.db).revoke(key_id, by=_caller(request)):
        raise NotFound("There is no key with this id.")
    gateway.shared.bump("keys")
    return Reply.json({"object": "key", "id": key_id, "revoked": True})


async def _project(gateway: Gateway, asked: NewKey) -> str | None:
    if asked.environment == "admin":
        if asked.project is not None:
            raise InvalidRequest("An admin key belongs to no project; leave out project.", param="project")
        return None
    name = asked.project or DEFAULT_PROJECT
    try:
        await gateway.host.projects.named(name)
    except NotFound:
        raise InvalidRequest("There is no such project; POST /v1/projects makes one.", param="project") from None
    return name


def _caller(request: HttpRequest) -> str | None:
    return request.identity.key_id if request.identity is not None else None

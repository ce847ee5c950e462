"""What the management API is told and what it answers, as pydantic models: read strictly, shown by one shape."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

from .errors import InvalidRequest, NotFound
from .moments import iso_time
from .tomlfile import TomlFile, key_path
from .validation import REQUIRED, validated
from .wire.body import parse_json_object

if TYPE_CHECKING:
    from .gateway import Gateway
    from .request import HttpRequest

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_CONVERTIBLE = re.compile(r"-?\d{1,17}|true|false", re.ASCII)


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization")

Moment = Annotated[float, PlainSerializer(iso_time), _DATE_TIME]
"""In a `Shown`: Unix seconds that are shown as ISO 8601."""


class Asked(BaseModel):
    """Base of what a route is sent, as its body or its query. Members that are not declared are refused, so that nobody believes
    they did something. What checks it is built for the first request: no start waits for that."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True)


class Shown(BaseModel):
    """Base of what a route answers. Every member is always there. What checks it is built for the first answer."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True, defer_build=True)

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")


class Listed(Shown, Generic[T]):
    """A page of a list. Where `has_more`, the next one is asked for with `after`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False


async def body_as(gateway: Gateway, request: HttpRequest, model: type[M]) -> M:
    """The body of a route's request as a `model`, which says itself that it takes no other members (as an `Asked` does).

    Raises `InvalidRequest`: `param` names the first member that is wrong, and the message all of them and what they may be, with
    the nearest valid name of one that is unknown. No value is repeated.
    """
    server = gateway.config.server
    data = parse_json_object(await request.body(), max_depth=server.json_max_depth, max_tokens=server.json_max_tokens)
    return _read(data, model, TomlFile(None))


def query_as(request: HttpRequest, model: type[M]) -> M:
    """The query parameters of a route's request as a `model`; raises as `body_as` does."""
    data, file = request.query_once, TomlFile(None)
    try:
        "".join((*data, *data.values())).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("The query string is not valid UTF-8.") from None
    file.written.update({(name,): text for name, text in data.items() if _CONVERTIBLE.fullmatch(text)})
    return _read(data, model, file)


def asked_project(request: HttpRequest, named: str | None) -> str | None:
    """The project a guarded route is asked about: that of a project's key, or the one an admin key names; None: every one's.

    Raises `InvalidRequest` where a project's key names one.
    """
    identity = request.identity
    if identity is None:
        raise RuntimeError("the kernel calls a guarded route with an identity")
    if identity.role == "admin":
        return named
    if named is not None:
        raise InvalidRequest("Only an admin key may name a project.", param="project")
    return identity.project


async def whose(gateway: Gateway, request: HttpRequest, named: str | None) -> list[str]:
    """As `asked_project`, by name: every one's are those of all that are not archived. Their settings are then known as they
    stand.

    Raises `NotFound` too, where there is no such project.
    """
    project = asked_project(request, named)
    if project is not None and named is None:
        return [project]
    if gateway.projects.stale:
        await gateway.projects.catch_up()
    names = [row.name for row in await gateway.host.projects.rows() if row.archived_at is None]
    if named is None:
        return names
    if named not in names:
        raise NotFound("There is no such project.")
    return [named]


def _read(data: dict[str, Any], model: type[M], file: TomlFile) -> M:
    """Only what `file` says was written as text may become a number."""
    found = validated(model, data, (), file)
    if found is None:
        words = "; ".join(f"{key_path(problem.loc)[:100]} {problem.text}" for problem in file.problems[:10])
        first = file.problems[0]
        code = "missing_field" if first.text == REQUIRED else None
        raise InvalidRequest(words + ".", param=key_path(first.loc)[:100], code=code)
    return found

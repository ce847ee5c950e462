"""The bodies of the management API: JSON into a model, strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from .errors import InvalidRequest
from .tomlfile import TomlFile, key_path
from .validation import validated
from .wire.body import parse_json_object

if TYPE_CHECKING:
    from .gateway import Gateway
    from .request import HttpRequest

M = TypeVar("M", bound=BaseModel)


async def body_as(gateway: Gateway, request: HttpRequest, model: type[M]) -> M:
    """The body of a route's request as a `model`, which says itself that it takes no other members (`extra="forbid"`).

    Raises `InvalidRequest`: `param` names the first member that is wrong, and the message all of them and what they may be, with
    the nearest valid name of one that is unknown. No value is repeated.
    """
    server = gateway.config.server
    data = parse_json_object(await request.body(), max_depth=server.json_max_depth, max_tokens=server.json_max_tokens)
    file = TomlFile(None)
    found = validated(model, data, (), file)
    if found is None:
        words = "; ".join(f"{key_path(problem.loc)[:100]} {problem.text}" for problem in file.problems[:10])
        raise InvalidRequest(words + ".", param=key_path(file.problems[0].loc)[:100])
    return found

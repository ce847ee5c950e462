"""`/v1/limits`: how the limits of a project stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxx import Asked, HttpRequest, Listed, Reply, Route, query_as, whose

from .ledger import Ledger
from .present import LimitsNow, limits_now

if TYPE_CHECKING:
    from muxx import Gateway


class LimitsQuery(Asked):
    project: str | None = None
    """For admin keys only."""
    user_id: str | None = None
    """With those of this `X-Muxx-User-Id`."""
    key_id: str | None = None
    """With the requests of this key that are under way; left out: of the project's key that asks."""


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """How the limits of the key's project stand, and when more of them comes back; for an admin key, of every project, or of the
    one named."""
    query, identity = query_as(request, LimitsQuery), request.identity
    own_key = None if identity is None or identity.role == "admin" else identity.key_id
    ledger, data = Ledger(gateway.shared), []
    for name in await whose(gateway, request, query.project):
        limits = gateway.projects.resolve(name).settings.limits
        data.append(limits_now(ledger, limits, name, query.user_id, query.key_id or own_key))
    return Reply.json(Listed[LimitsNow](data=data).as_json())


ROUTES = (Route("GET", "/v1/limits", show, query=LimitsQuery, answer=Listed[LimitsNow]),)

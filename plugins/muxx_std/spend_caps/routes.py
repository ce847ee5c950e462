"""`/v1/caps`: how the caps of a project stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxx import Asked, HttpRequest, Listed, Reply, Route, query_as, whose

from .ledger import SpendLedger
from .present import Caps, now_standing

if TYPE_CHECKING:
    from muxx import Gateway


class CapsQuery(Asked):
    project: str | None = None
    """For admin keys only."""


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """What a project has spent and holds in this day and month, and what its caps leave; for an admin key, of every project, or
    of the one named."""
    ledger, data = SpendLedger(gateway.shared), []
    for name in await whose(gateway, request, query_as(request, CapsQuery).project):
        data.append(now_standing(ledger, name, gateway.projects.resolve(name).settings.spend_caps))
    return Reply.json(Listed[Caps](data=data).as_json())


ROUTES = (Route("GET", "/v1/caps", show, query=CapsQuery, answer=Listed[Caps]),)

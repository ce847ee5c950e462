"""`/v1/caps`: how the caps of a project stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from muxx import Asked, HttpRequest, Identity, InvalidRequest, Listed, NotFound, Reply, query_as

from .ledger import SpendLedger
from .present import Caps, standing

if TYPE_CHECKING:
    from muxx import Gateway


class CapsQuery(Asked):
    project: str | None = None
    """For admin keys only."""


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """What a project has spent and holds in this day and month, and what its caps leave; for an admin key, of every project, or
    of the one named."""
    ledger, data = SpendLedger(gateway.shared), []
    for name in await _projects(gateway, request):
        day = ledger.day_for(name, int(time.time() // 86_400))
        caps = gateway.projects.resolve(name).settings.spend_caps
        data.append(standing(name, caps, ledger.figures(name, day), day))
    return Reply.json(Listed[Caps](data=data).as_json())


async def _projects(gateway: Gateway, request: HttpRequest) -> list[str]:
    identity, named = _identity(request), query_as(request, CapsQuery).project
    if identity.role != "admin":
        if named is not None:
            raise InvalidRequest("Only an admin key may name a project.", param="project")
        return [identity.project]
    names = [row.name for row in await gateway.host.projects.rows() if row.archived_at is None]
    if named is None:
        return names
    if named not in names:
        raise NotFound("There is no such project.")
    return [named]


def _identity(request: HttpRequest) -> Identity:
    if request.identity is None:
        raise RuntimeError("the kernel calls a guarded route with an identity")
    return request.identity

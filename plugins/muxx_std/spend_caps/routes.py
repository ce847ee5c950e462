"""`/v1/caps`: how the caps of a project stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from muxx import HttpRequest, Identity, InvalidRequest, NotFound, Reply

from .ledger import SpendLedger
from .present import standing

if TYPE_CHECKING:
    from muxx import Gateway


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """What a project has spent and holds in this day and month, and what its caps leave; for an admin key, of every project, or
    of the one named by `?project=`."""
    ledger, data = SpendLedger(gateway.shared), []
    for name in await _projects(gateway, request):
        day = ledger.day_for(name, int(time.time() // 86_400))
        caps = gateway.projects.resolve(name).settings.spend_caps
        data.append(standing(name, caps, ledger.figures(name, day), day))
    return Reply.json({"object": "list", "data": data, "has_more": False})


async def _projects(gateway: Gateway, request: HttpRequest) -> list[str]:
    identity = _identity(request)
    allowed = ("project",) if identity.role == "admin" else ()
    for name in request.query:
        if name not in allowed:
            raise InvalidRequest("The only parameter here is project, for admin keys.", param=name if name == "project" else None)
    if identity.role != "admin":
        return [identity.project]
    names = [row.name for row in await gateway.host.projects.rows() if row.archived_at is None]
    if "project" not in request.query:
        return names
    if request.query["project"] not in names:
        raise NotFound("There is no such project.")
    return [request.query["project"]]


def _identity(request: HttpRequest) -> Identity:
    if request.identity is None:
        raise RuntimeError("the kernel calls a guarded route with an identity")
    return request.identity

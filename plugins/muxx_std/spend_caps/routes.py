"""`/v1/caps`: how the caps of a project stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from muxx import Asked, HttpRequest, Listed, Reply, query_as, whose

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
    for name in await whose(gateway, request, query_as(request, CapsQuery).project):
        day = ledger.day_for(name, int(time.time() // 86_400))
        caps = gateway.projects.resolve(name).settings.spend_caps
        data.append(standing(name, caps, ledger.figures(name, day), day))
    return Reply.json(Listed[Caps](data=data).as_json())

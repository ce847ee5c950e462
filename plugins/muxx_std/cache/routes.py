"""`GET /v1/cache` and `DELETE /v1/cache`: what the commands show and do, over HTTP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from muxx import Asked, HttpRequest, NotFound, Reply, Route, Shown, asked_project, query_as

from .store import CacheStore
from .store import purge as empty

if TYPE_CHECKING:
    from muxx import Gateway

DEFAULT_HOURS = 24
MOST_HOURS = 8784


class StatsQuery(Asked):
    hours: Annotated[int, Field(ge=1, le=MOST_HOURS)] = DEFAULT_HOURS
    """How far back."""
    environment: Literal["live", "test", "all"] = "live"
    project: str | None = None
    """For admin keys only."""


class PurgeQuery(Asked):
    project: Annotated[str, Field(min_length=1)] | None = None
    """Left out: every project's. Empty, as of a variable that was never set, it is refused."""


class Outcomes(Shown):
    project: str
    hits: int
    joined: int
    """Answered by another request's call."""
    misses: int
    bypassed: int
    hit_rate: float | None
    saved_usd: str


class Held(Shown):
    worker: int
    entries: int
    bytes: int
    max_bytes: int


class Stats(Shown):
    object: Literal["list"] = "list"
    data: list[Outcomes]
    has_more: Literal[False] = False
    workers: list[Held]
    """What each worker holds now; for admin keys only."""


class Purged(Shown):
    object: Literal["cache"] = "cache"
    purged: Literal[True] = True
    project: str | None


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """What the cache did for the key's project in the last hours. For an admin key: for every project, or the one named."""
    asked, identity = query_as(request, StatsQuery), request.identity
    project = asked_project(request, asked.project)
    environment = None if asked.environment == "all" else asked.environment
    store = CacheStore(gateway.db)
    found = await store.outcomes(time.time() - asked.hours * 3600, project, environment)
    workers: list[Any] = await store.workers() if identity is not None and identity.role == "admin" else []
    return Reply.json(Stats.model_validate({"data": found, "workers": workers}).as_json())


async def purge(gateway: Gateway, request: HttpRequest) -> Reply:
    """Forget every stored answer, or those of one project, in every worker, before the next request."""
    project = query_as(request, PurgeQuery).project
    if doubt := await CacheStore(gateway.db).doubt(gateway.host.projects, project):
        raise NotFound(doubt, param="project")
    empty(gateway.shared, project)
    return Reply.json(Purged(project=project).as_json())


ROUTES = (
    Route("GET", "/v1/cache", show, query=StatsQuery, answer=Stats),
    Route("DELETE", "/v1/cache", purge, "admin", query=PurgeQuery, answer=Purged),
)

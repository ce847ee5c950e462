"""`GET /v1/cache` and `DELETE /v1/cache`: what the commands show and do, over HTTP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from muxx import HttpRequest, InvalidRequest, Reply

from .store import CacheStore
from .store import purge as empty

if TYPE_CHECKING:
    from muxx import Gateway

DEFAULT_HOURS = 24
MOST_HOURS = 8784


async def show(gateway: Gateway, request: HttpRequest) -> Reply:
    """What the cache did for the key's project, in the last `hours`; for an admin key, for every project or the one named."""
    query = _query(request, "hours", "environment", "project")
    identity = request.identity
    assert identity is not None, "the kernel authenticates every route that is not public"
    is_admin = identity.role == "admin"
    if "project" in query and not is_admin:
        raise InvalidRequest("Only an admin key may name a project.", param="project")
    project = query.get("project") if is_admin else identity.project
    environment = _environment(query)
    store = CacheStore(gateway.db)
    since = time.time() - _hours(query) * 3600
    found: dict[str, Any] = {"object": "list", "data": await store.outcomes(since, project, environment)}
    if is_admin:
        found["workers"] = await store.workers()
    return Reply.json(found)


async def purge(gateway: Gateway, request: HttpRequest) -> Reply:
    """Forget every stored answer, or those of one project, in every worker, before the next request."""
    project = _query(request, "project").get("project")
    empty(gateway.shared, project)
    return Reply.json({"object": "cache", "purged": True, "project": project})


def _query(request: HttpRequest, *known: str) -> dict[str, str]:
    query = request.query
    for name in query:
        if name not in known:
            raise InvalidRequest(f"There is no such parameter here; there are {', '.join(known)}.", param=name)
    return query


def _hours(query: dict[str, str]) -> int:
    text = query.get("hours", str(DEFAULT_HOURS))
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MOST_HOURS):
        raise InvalidRequest(f"hours must be a whole number from 1 to {MOST_HOURS}.", param="hours")
    return int(text)


def _environment(query: dict[str, str]) -> str | None:
    environment = query.get("environment", "live")
    if environment not in ("live", "test", "all"):
        raise InvalidRequest("environment must be live, test or all.", param="environment")
    return None if environment == "all" else environment

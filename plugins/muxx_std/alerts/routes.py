"""`/v1/alerts`: the rules and how they stand, the events, and a test of a receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from muxx import Asked, HttpRequest, InvalidRequest, Listed, NotFound, Reply, Route, asked_project, body_as, query_as

from . import overview
from .message import TEST, test_facts
from .settings import AlertsConfig
from .store import AlertStore, Event

if TYPE_CHECKING:
    from muxx import Gateway

DEFAULT_EVENTS = 20
MOST_EVENTS = 1000


class RulesQuery(Asked):
    project: str | None = None
    """For admin keys only."""


class EventsQuery(RulesQuery):
    limit: Annotated[int, Field(ge=1, le=MOST_EVENTS)] = DEFAULT_EVENTS
    after: str | None = None
    """The id of the last one seen."""


class TestAsked(Asked):
    receiver: str


async def list_rules(gateway: Gateway, request: HttpRequest) -> Reply:
    """The alerts of the key's project and how they stand; for an admin key, of every project or of the one named."""
    named = query_as(request, RulesQuery).project
    project = asked_project(request, named)
    try:
        own = await overview.projects(gateway.host, project)
    except NotFound:
        if project is None or named is not None:
            raise
        own = {project: {}}  # one that only an identity provider names has what the file says
    data = await overview.rules(gateway.host, gateway.config, _settings(gateway), own)
    return Reply.json({"object": "list", "data": data, "has_more": False})


async def list_events(gateway: Gateway, request: HttpRequest) -> Reply:
    """What alerts told of, the newest first, each with what became of its deliveries."""
    query = query_as(request, EventsQuery)
    limit = query.limit
    rows = await AlertStore(gateway.db).events(asked_project(request, query.project), query.after, limit + 1)
    if rows is None:
        raise InvalidRequest("after must be the id of an event you have been given.", param="after")
    data = [overview.event(row) for row in rows[:limit]]
    return Reply.json({"object": "list", "data": data, "has_more": len(rows) > limit})


async def test(gateway: Gateway, request: HttpRequest) -> Reply:
    """Send a test to a receiver now, and say what became of it. It is tried once, and no event."""
    from .courier import send

    alerts = _settings(gateway)
    receiver = (await body_as(gateway, request, TestAsked)).receiver
    if receiver not in alerts.receivers:
        raise InvalidRequest(f"receiver: {alerts.no_such_receiver(receiver)}.", param="receiver")
    outcome = await send(gateway.http, alerts, receiver, Event.now(TEST, test_facts()))
    return Reply.json(overview.tested(receiver, outcome))


def _settings(gateway: Gateway) -> AlertsConfig:
    settings = gateway.plugins.by_name["alerts"].config
    assert isinstance(settings, AlertsConfig), "this plugin serves the route"
    return settings


ROUTES = (
    Route("GET", "/v1/alerts", list_rules, query=RulesQuery, answer=Listed[overview.Alert]),
    Route("GET", "/v1/alerts/events", list_events, query=EventsQuery, answer=Listed[overview.AlertEvent]),
    Route("POST", "/v1/alerts/test", test, "admin", body=TestAsked, query=Asked, answer=overview.AlertTest),
)

"""`/v1/analytics/…`: what was spent, and what the cache was good for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from muxx import HttpRequest, InvalidRequest, Reply, Route, asked_project, moment_of, query_as

from .figures import ask
from .hits import most_frequent
from .periods import DAY, Interval, Span, hours_around
from .present import cache, spend
from .question import Question
from .shapes import CacheHistory, CacheQuery, SpanQuery, Spend, SpendQuery

if TYPE_CHECKING:
    from muxx import Gateway

DEFAULT_DAYS = 30
DEFAULT_VALUES = 100
MOST_LINES = 10_000
"""Periods times values: an answer of some megabytes."""
MOST_PERIODS = 1000


async def show_spend(gateway: Gateway, request: HttpRequest) -> Reply:
    """Requests, tokens and cost over time, by model, provider, user, key, project, environment, endpoint or a member of the
    metadata. A period without requests is left out. An admin key sees all projects, or the one named."""
    asked = query_as(request, SpendQuery)
    project, span = asked_project(request, asked.project), _span(asked)
    if asked.by == "project" and request.identity is not None and request.identity.role != "admin":
        raise InvalidRequest("Only an admin key sees several projects. Leave `by` out.", param="by")
    limit = asked.limit or max(1, min(DEFAULT_VALUES, MOST_LINES // span.periods(asked.interval)))
    _refuse_too_many(span, asked.interval, limit if asked.by else 1)
    filters = {"model": asked.model, "provider": asked.provider, "user_id": asked.user_id, "key_id": asked.key_id}
    wanted = {name: value for name, value in filters.items() if value is not None}
    question = Question(span, asked.interval, asked.by, project, _environment(asked), wanted, limit)
    return Reply.json(spend(await ask(gateway.db, question), asked.by, asked.interval))


async def show_cache(gateway: Gateway, request: HttpRequest) -> Reply:
    """How often the cache answered over time, what that saved, and which answers it gave most often. An admin key sees all
    projects, or the one named."""
    asked = query_as(request, CacheQuery)
    project, span = asked_project(request, asked.project), _span(asked)
    _refuse_too_many(span, asked.interval, 1)
    question = Question(span, asked.interval, None, project, _environment(asked), {}, asked.limit, "cache")
    found = await ask(gateway.db, question)
    return Reply.json(cache(found, asked.interval, await most_frequent(gateway.db, question)))


def _environment(asked: SpanQuery) -> str | None:
    return None if asked.environment == "all" else asked.environment


def _span(asked: SpanQuery) -> Span:
    """The whole hours around the time that is asked for."""
    end = (time.time() // DAY + 1) * DAY if asked.until is None else _moment(asked.until, "to")
    start = max(0.0, end - DEFAULT_DAYS * DAY) if asked.since is None else _moment(asked.since, "from")
    try:
        return hours_around(start, end)
    except ValueError:
        raise InvalidRequest("from must be before to, and both between 1970 and 9999.", param="from") from None


def _moment(text: str, name: str) -> float:
    try:
        return moment_of(text)
    except (ValueError, OverflowError):
        what = f"{name} must be ISO 8601 (2026-11-22T10:00:00Z; write + as %2B) or seconds since 1970."
        raise InvalidRequest(what, param=name) from None


def _refuse_too_many(span: Span, interval: Interval, values: int) -> None:
    periods = span.periods(interval)
    if periods > MOST_PERIODS or periods * values > MOST_LINES:
        raise InvalidRequest(
            f"At most {MOST_PERIODS} periods, and {MOST_LINES} periods times values: ask for a shorter time, a longer interval or"
            " a lower limit.",
            param="interval",
        )


ROUTES = (
    Route("GET", "/v1/analytics/spend", show_spend, query=SpendQuery, answer=Spend),
    Route("GET", "/v1/analytics/cache", show_cache, query=CacheQuery, answer=CacheHistory),
)

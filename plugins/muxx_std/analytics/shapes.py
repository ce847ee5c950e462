"""What the routes are asked, and what they answer."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from muxx import Asked, Moment, Shown

from .periods import Interval
from .question import BY, WAYS

MOST_VALUES = 1000
MOST_HITS = 100
DEFAULT_HITS = 10

Text = Annotated[str, Field(max_length=1000)]
Time = Annotated[str | None, Field(max_length=100)]


def _by(value: str) -> str:
    if not re.fullmatch(BY, value):
        raise ValueError(f"must be {WAYS}")
    return value


By = Annotated[str, AfterValidator(_by), WithJsonSchema({"type": "string", "pattern": BY})]


class SpanQuery(Asked):
    since: Time = Field(None, alias="from")
    """From this moment on: ISO 8601, UTC unless it says otherwise, or seconds since 1970. Left out: 30 days before `to`."""
    until: Time = Field(None, alias="to")
    """Before this moment. Left out: the end of this day."""
    interval: Interval = "day"
    environment: Literal["live", "test", "all"] = "live"
    project: Text | None = None
    """For admin keys only; a project's key sees its own."""


class SpendQuery(SpanQuery):
    by: By | None = None
    """model, provider, user, key, project, environment, endpoint, or metadata.MEMBER."""
    model: Text | None = None
    """As it was served."""
    provider: Text | None = None
    user_id: Text | None = None
    key_id: Text | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_VALUES)] | None = None
    """Most values of `by`: those that cost most. Left out: 100, or fewer where there are many periods."""


class CacheQuery(SpanQuery):
    limit: Annotated[int, Field(ge=1, le=MOST_HITS)] = DEFAULT_HITS
    """Most answers in `top`."""


class Figures(Shown):
    start: Moment
    end: Moment
    """Not included."""
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    saved_usd: str
    """What answers of the cache would have cost."""
    unpriced_requests: int
    """Those whose cost nobody knows; they are in `cost_usd` with nothing."""


class SpendLine(Figures):
    value: str | None
    """Of what is asked by; null for requests without one."""


class Spend(Shown):
    object: Literal["list"] = "list"
    by: str | None
    interval: Interval
    data: list[SpendLine]
    has_more: bool
    """There are more values than `limit`."""
    totals: Figures
    """Of everything asked about, what is not in `data` included."""


class CacheFigures(Shown):
    start: Moment
    end: Moment
    hit_rate: float | None
    """Of the requests for which the cache was asked; null where there was none."""
    saved_usd: str
    hits: int
    joined: int
    """Answered by another request's call."""
    misses: int
    bypassed: int


class Hit(Shown):
    request_id: str
    """Whose answer was given again."""
    model: str | None
    preview: str | None
    """The beginning of what was asked last in it; null where that is not kept."""
    hits: int
    joined: int
    saved_usd: str


class CacheHistory(Shown):
    object: Literal["list"] = "list"
    interval: Interval
    data: list[CacheFigures]
    has_more: Literal[False] = False
    totals: CacheFigures
    top: list[Hit]
    """The answers that were given again most often, in the days that the time touches."""

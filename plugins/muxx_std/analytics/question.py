"""What may be asked of the figures, and which table can answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .periods import Interval, Span
from .schema import FIGURES

METADATA = "metadata."
MEASURES = ("model", "provider", "user", "key", "project", "environment", "endpoint")
BY = r"^(model|provider|user|key|project|environment|endpoint|metadata\..{1,100})$"
"""What figures may be asked by, as a regular expression."""
WAYS = f"{', '.join(MEASURES)} or metadata.MEMBER"
"""The same in words."""

Source = Literal["models", "users", "metadata", "answers", "rows"]

COLUMNS = {"user": "user_id", "key": "key_id", "answer": "answer_of"}
"""The columns of measures that are named otherwise."""

_FIGURES = {
    "spend": FIGURES[: FIGURES.index("hits")],
    "cache": ("requests", "saved_micro", "saved_rest", "hits", "joined", "misses"),
}
_OF_MODELS = {"endpoint", "provider", "model", "key_id"}


@dataclass(frozen=True, slots=True)
class Question:
    """Figures of these requests, by period and by the values of one thing, if any. None is any; `environment` too."""

    span: Span
    interval: Interval = "day"
    by: str | None = None
    """One of `MEASURES`, `metadata.MEMBER`, or `answer` for what the cache gave."""
    project: str | None = None
    environment: str | None = "live"
    filters: dict[str, str] = field(default_factory=dict)
    """Columns and the values they have: provider, model, key_id, user_id."""
    limit: int = 100
    """Most values of `by`."""
    about: Literal["spend", "cache"] = "spend"
    """Which figures: each one more makes it slower."""

    @property
    def figures(self) -> tuple[str, ...]:
        return _FIGURES[self.about]

    @property
    def member(self) -> str | None:
        """The member of metadata it is by."""
        return self.by[len(METADATA) :] if self.by is not None and self.by.startswith(METADATA) else None

    @property
    def column(self) -> str | None:
        """The column it is by."""
        if self.by is None or self.by in ("project", "environment"):
            return self.by
        return "value" if self.member is not None else COLUMNS.get(self.by, self.by)

    @property
    def source(self) -> Source:
        """Who can answer: the sums of one table, or else the rows themselves."""
        needed = set(self.filters)
        if self.by == "answer":
            return "answers"
        if self.member is not None:
            return "rows" if needed or not self._is_of_days else "metadata"
        if self.column is not None and self.column not in ("project", "environment"):
            needed.add(self.column)
        if needed <= _OF_MODELS:
            return "models"
        return "users" if needed == {"user_id"} and self._is_of_days else "rows"

    @property
    def _is_of_days(self) -> bool:
        return self.interval != "hour" and self.span.is_of_days

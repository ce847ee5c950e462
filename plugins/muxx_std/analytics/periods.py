"""Hours, days, weeks and months in UTC: which of them a time takes in, and where each begins and ends. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

Interval = Literal["hour", "day", "week", "month", "total"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)

HOUR = 3600
DAY = 86_400
_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 28 * 24}
"""Of the shortest one."""
_LAST_MOMENT = 253_402_214_400
"""The last day of the year 9999 begins: no period ends beyond it."""
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)
_LAST = re.compile(r"([1-9]\d{0,4})([hd])", re.ASCII)


class Span(NamedTuple):
    """Whole hours, in Unix seconds; `end` is not included."""

    start: int
    end: int

    @property
    def is_of_days(self) -> bool:
        return self.start % DAY == 0 and self.end % DAY == 0

    @property
    def is_one_day(self) -> bool:
        return self.is_of_days and self.end - self.start == DAY

    def days(self) -> Span:
        """The whole days in it; empty where there is none."""
        start = -(-self.start // DAY) * DAY
        return Span(start, max(start, self.end // DAY * DAY))

    def periods(self, interval: Interval) -> int:
        """The most periods it can touch."""
        return 1 if interval == "total" else (self.end - self.start) // HOUR // _HOURS[interval] + 2


def hours_around(start: float, end: float) -> Span:
    """The whole hours that this time touches; `ValueError` where it is empty or beyond the calendar."""
    if not 0 <= start < end <= _LAST_MOMENT:
        raise ValueError("the time is empty")
    return Span(int(start // HOUR) * HOUR, int(-(-end // HOUR)) * HOUR)


def month_span(text: str) -> Span:
    """`2026-11`; `ValueError` where it is no month."""
    if not _MONTH.fullmatch(text):
        raise ValueError("not a month")
    first = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=UTC)
    return Span(int(first.timestamp()), int(_month_after(first).timestamp()))


def last_span(text: str, now: float) -> Span:
    """`24h` or `30d`, up to the end of this hour or day; `ValueError` for anything else."""
    found = _LAST.fullmatch(text)
    if found is None:
        raise ValueError("neither hours nor days")
    length = HOUR if found[2] == "h" else DAY
    end = (int(now // length) + 1) * length
    return Span(max(0, end - int(found[1]) * length), end)


def hour_name(at: int) -> str:
    """As the tables have it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H")


def day_name(at: int) -> str:
    return hour_name(at)[:10]


def bounds(interval: Interval, name: str, span: Span) -> Span:
    """The period that the tables name by its beginning, as far as it lies within `span`."""
    if interval == "total":
        return span
    start = datetime.strptime(name, "%Y-%m-%d %H" if interval == "hour" else "%Y-%m-%d").replace(tzinfo=UTC)
    end = _month_after(start) if interval == "month" else start + timedelta(hours=_HOURS[interval])
    return Span(max(int(start.timestamp()), span.start), min(int(end.timestamp()), span.end))


def edges(span: Span) -> Iterator[Span]:
    """The hours before and behind its whole days, which may be empty."""
    days = span.days()
    if days.start >= days.end:
        yield from (span, Span(span.end, span.end))
    else:
        yield from (Span(span.start, days.start), Span(days.end, span.end))


def _month_after(first: datetime) -> datetime:
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)

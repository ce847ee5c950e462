"""Figures as JSON, in the shapes that `shapes` tells of: plain values, for there may be thousands of lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muxx import iso_time, usd

from .figures import Found, Line
from .periods import Interval, Span


def spend(found: Found, by: str | None, interval: Interval) -> dict[str, Any]:
    """As `Spend` has it."""
    times: dict[Span, dict[str, str]] = {}
    data = [{**_times(line.span, times), "value": line.value, **_spent(line)} for line in found.lines]
    totals = _times(found.total.span, times) | _spent(found.total)
    return {"object": "list", "by": by, "interval": interval, "data": data, "has_more": found.has_more, "totals": totals}


def cache(found: Found, interval: Interval, top: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """As `CacheHistory` has it."""
    times: dict[Span, dict[str, str]] = {}
    *data, totals = [_times(line.span, times) | _answered(line) for line in (*found.lines, found.total)]
    return {"object": "list", "interval": interval, "data": data, "has_more": False, "totals": totals, "top": list(top)}


def _times(span: Span, known: dict[Span, dict[str, str]]) -> dict[str, str]:
    return known.get(span) or known.setdefault(span, {"start": iso_time(span.start), "end": iso_time(span.end)})


def _spent(line: Line) -> dict[str, Any]:
    return {
        "requests": line.requests,
        "errors": line.errors,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "cost_usd": usd(line.cost_pico),
        "saved_usd": usd(line.saved_pico),
        "unpriced_requests": line.unpriced,
    }


def _answered(line: Line) -> dict[str, Any]:
    answered = line.hits + line.joined
    asked = answered + line.misses
    return {
        "hit_rate": round(answered / asked, 4) if asked else None,
        "saved_usd": usd(line.saved_pico),
        "hits": line.hits,
        "joined": line.joined,
        "misses": line.misses,
        "bypassed": line.requests - asked,
    }

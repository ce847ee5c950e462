"""How caps and money look outside."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from muxx import usd

if TYPE_CHECKING:
    from muxx import SpendCap, Window

Figures = dict[str, tuple[int, int]]


def dollars(pico: int) -> str:
    """Exact, with two decimals at least: $100.00, $0.000123."""
    whole, _, rest = (usd(pico) or "0").partition(".")
    return f"${whole}.{rest:0<2}"


def span(window: Window, day: date) -> tuple[str, str]:
    """When the window that the day is in begins, and when the next one does: ISO 8601, UTC."""
    first = day if window == "day" else day.replace(day=1)
    after = first + timedelta(1) if window == "day" else (first + timedelta(32)).replace(day=1)
    return f"{first}T00:00:00Z", f"{after}T00:00:00Z"


def standing(project: str, caps: Iterable[SpendCap], figures: Figures, day: int) -> dict[str, Any]:
    """How a project stands on a day (since 1970): what is spent and held in each window, and how much of each cap is left."""
    today = datetime.fromtimestamp(day * 86_400, UTC).date()
    return {
        "object": "caps",
        "project": project,
        "spend": [_spend(window, figures[window], today) for window in ("day", "month")],
        "caps": [_cap(cap, sum(figures[cap.window])) for cap in caps],
    }


def _spend(window: Window, figures: tuple[int, int], today: date) -> dict[str, Any]:
    spent, held = figures
    starts_at, ends_at = span(window, today)
    return {"window": window, "starts_at": starts_at, "ends_at": ends_at, "spent_usd": usd(spent), "held_usd": usd(held)}


def _cap(cap: SpendCap, used: int) -> dict[str, Any]:
    return {
        "window": cap.window,
        "usd": usd(cap.usd_pico),
        "action": cap.action,
        "remaining_usd": usd(max(cap.usd_pico - used, 0)),
    }

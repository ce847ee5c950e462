"""How caps and money look outside."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from muxx import Shown, Window, usd

from .account import DAY_SECONDS

if TYPE_CHECKING:
    from muxx import SpendCap

    from .ledger import SpendLedger


def dollars(pico: int) -> str:
    """Exact, with two decimals at least: $100.00, $0.000123."""
    whole, _, rest = (usd(pico) or "0").partition(".")
    return f"${whole}.{rest:0<2}"


def span(window: Window, day: date) -> tuple[str, str]:
    """When the window that the day is in begins, and when the next one does: ISO 8601, UTC."""
    first = day if window == "day" else day.replace(day=1)
    after = first + timedelta(1) if window == "day" else (first + timedelta(32)).replace(day=1)
    return f"{first}T00:00:00.000Z", f"{after}T00:00:00.000Z"


class Spend(Shown):
    """What a window has come to."""

    window: Window
    starts_at: str
    ends_at: str
    """When the next one begins; both ISO 8601, UTC."""
    spent_usd: str
    held_usd: str
    """For requests that are under way."""


class Cap(Shown):
    window: Window
    usd: str
    action: Literal["block", "alert"]
    remaining_usd: str


class Caps(Shown):
    object: Literal["caps"] = "caps"
    project: str
    spend: list[Spend]
    caps: list[Cap]


def now_standing(ledger: SpendLedger, project: str, caps: Iterable[SpendCap]) -> Caps:
    """How a project stands: what is spent and held in the window of each kind that runs, and how much of each cap is left."""
    day = ledger.day_for(project, int(time.time() // DAY_SECONDS))
    figures, today = ledger.figures(project, day), datetime.fromtimestamp(day * DAY_SECONDS, UTC).date()
    spend = [_spend("day", figures["day"], today), _spend("month", figures["month"], today)]
    return Caps(project=project, spend=spend, caps=[_cap(cap, sum(figures[cap.window])) for cap in caps])


def _spend(window: Window, figures: tuple[int, int], today: date) -> Spend:
    starts_at, ends_at = span(window, today)
    spent, held = map(_shown, figures)
    return Spend(window=window, starts_at=starts_at, ends_at=ends_at, spent_usd=spent, held_usd=held)


def _cap(cap: SpendCap, used: int) -> Cap:
    left = _shown(max(cap.usd_pico - used, 0))
    return Cap(window=cap.window, usd=_shown(cap.usd_pico), action=cap.action, remaining_usd=left)


def _shown(pico: int) -> str:
    return usd(pico) or "0"

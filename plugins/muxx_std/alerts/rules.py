"""What a project is to be told of, as rules: a measure, a limit of it, and the share at which it is crossed. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Literal, NamedTuple

from muxx import Alert, ProjectSettings, usd

Stretch = Literal["hour", "day", "month"]
"""Of the calendar, by UTC."""

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
MONEY = ("spend", "spend_cap")


class Rule(NamedTuple):
    """Crossed where the measure has come to `share` of `limit`."""

    name: str
    """What the project set, in a few words: `spend:day:80`, `rpm:0.8`. No two rules of a project have the same."""
    measure: str
    """`spend`, `spend_cap`, or the name of a limit: `rpm` …"""
    window: Stretch
    """Once in each of these is somebody told. A limit of a minute has none of its own, for it slides: it has the UTC hour."""
    limit: int | None
    """Pico-dollars, requests or tokens; None: there is no such limit now."""
    share: float
    to: tuple[str, ...]
    """Names of receivers; none: all there are."""

    @property
    def is_money(self) -> bool:
        return self.measure in MONEY

    @property
    def key(self) -> str:
        """What tells its crossings apart: at another limit the same rule is crossed again."""
        return f"{self.name} of {self.limit}"

    def crossed_by(self, used: int) -> bool:
        return self.limit is not None and used >= _least(self.share, self.limit)


class Crossing(NamedTuple):
    project: str
    rule: Rule
    used: int
    window_end: int
    """Milliseconds of Unix time."""
    user: str = ""
    """Whose limit it is; empty: the project's."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """Crossings of one key are the same one."""
        return self.project, self.rule.key, self.window_end, self.user


@lru_cache(maxsize=4096)
def _least(share: float, limit: int) -> int:
    """The least that is this share, exactly: of 0.55 and 100 it is 55, and floating point would say 56."""
    return ceil(Fraction(str(share)) * limit)


@lru_cache(maxsize=1024)
def rules_of(settings: ProjectSettings) -> tuple[Rule, ...]:
    """The rules of a project: its alerts, and its caps that only tell. Alerts that differ in nothing but receivers are one."""
    rules = [_rule(alert, settings) for alert in settings.alerts]
    for cap in settings.spend_caps:
        if cap.action == "alert":
            rules.append(Rule(f"cap:{cap.window}:{usd(cap.usd_pico)}", "spend_cap", cap.window, cap.usd_pico, 1.0, ()))
    found: dict[str, Rule] = {}
    for rule in rules:
        same = found.setdefault(rule.name, rule)
        both = tuple(dict.fromkeys((*same.to, *rule.to))) if same.to and rule.to else ()
        found[rule.name] = same._replace(to=both)
    return tuple(found.values())


def _rule(alert: Alert, settings: ProjectSettings) -> Rule:
    name = name_of(alert)
    if alert.limit is None:
        return Rule(name, "spend", alert.window, alert.usd_pico, 1.0, alert.to)
    if alert.limit == "spend_cap":
        caps = [cap.usd_pico for cap in settings.spend_caps if cap.action == "block" and cap.window == alert.window]
        return Rule(name, "spend_cap", alert.window, min(caps, default=None), alert.share, alert.to)
    limit = getattr(settings.limits, alert.limit, 0) or None
    return Rule(name, alert.limit, "day" if alert.limit.endswith("rpd") else "hour", limit, alert.share, alert.to)


def name_of(alert: Alert) -> str:
    """The name of an alert's rule."""
    if alert.limit is None:
        return f"spend:{alert.window}:{usd(alert.usd_pico)}"
    return f"spend_cap:{alert.window}:{alert.share}" if alert.limit == "spend_cap" else f"{alert.limit}:{alert.share}"


def money_rules(settings: ProjectSettings, window: Stretch) -> list[Rule]:
    """Those that are about what is spent in this window."""
    return [rule for rule in rules_of(settings) if rule.is_money and rule.window == window and rule.limit is not None]


def bounds(window: Stretch, now: float) -> tuple[int, int]:
    """The start and the end of the window that runs at `now`, in seconds of Unix time."""
    if window != "month":
        length = DAY_SECONDS if window == "day" else HOUR_SECONDS
        start = int(now // length) * length
        return start, start + length
    today = datetime.fromtimestamp(now, UTC)
    first = datetime(today.year, today.month, 1, tzinfo=UTC)
    following = datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()), int(following.timestamp())

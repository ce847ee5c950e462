"""What a caller belongs to, and what that allows and costs at most: values, resolved once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Window = Literal["day", "month"]
"""Of the calendar, by UTC."""


class Limits(NamedTuple):
    """What a project's requests are limited to; 0: no limit. The `user_` ones hold for each `X-Muxx-User-Id` by itself."""

    rpm: int = 0
    """Requests in a minute."""
    tpm: int = 0
    """Tokens in a minute, input and output."""
    rpd: int = 0
    """Requests in a day, by UTC."""
    user_rpm: int = 0
    user_tpm: int = 0
    user_rpd: int = 0
    key_in_flight: int = 0
    """Requests of one key at a time."""


class SpendCap(NamedTuple):
    """How much a project may spend in a window, live and test traffic together."""

    window: Window
    usd_pico: int
    """Pico-dollars (10⁻¹² USD)."""
    action: Literal["block", "alert"] = "block"
    """`block` refuses what might go beyond it; `alert` only says so, once per window."""


class Alert(NamedTuple):
    """When somebody is told: once per crossing and window. Either `usd_pico` or `limit` is set."""

    window: Window
    usd_pico: int | None
    """Spend of the window, in pico-dollars (10⁻¹² USD)."""
    limit: str | None
    """`rpm`, `user_tpm` …, or `spend_cap`: the project's block caps of that window."""
    share: float
    """Of the limit: 0.8 is at four fifths of it."""
    to: tuple[str, ...] = ()
    """Names of the receivers; none: all there are."""


class Standing(NamedTuple):
    """How a limit stands: `used` of `limit`. `window` is when it ends, in milliseconds of Unix time: two standings of the same
    name and window are of the same stretch of time."""

    name: str
    """`rpm`, `tpm`, `rpd`, and the same of a user: `user_rpm` …"""
    limit: int
    used: int
    window: int


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A project's settings with every layer applied; frozen, resolved once per request."""

    store_content: bool = True
    content_retention_days: int = 30
    cache_enabled: bool = True
    cache_ttl: float = 86_400
    """Seconds for which a stored answer may be given again."""
    limits: Limits | None = None
    """None: there are none at all."""
    spend_caps: tuple[SpendCap, ...] = ()
    alerts: tuple[Alert, ...] = ()

    @property
    def watches_limits(self) -> bool:
        """Whether somebody is told of shares of its limits, so that `exchange.standings` is to be written."""
        return bool(self.alerts) and any(alert.limit not in (None, "spend_cap") for alert in self.alerts)


@dataclass(frozen=True, slots=True)
class Project:
    """What a caller belongs to, with its settings resolved."""

    name: str
    settings: ProjectSettings = ProjectSettings()

"""How limits look outside: the same from the shell and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from muxx import Shown

if TYPE_CHECKING:
    from muxx import Limits

    from .ledger import Ledger


class LimitNow(Shown):
    """How a limit stands."""

    name: str
    """`rpm`, `tpm`, `rpd`, the same of a user: `user_rpm` …; `key_in_flight`."""
    limit: int
    used: int
    remaining: int
    reset: int
    """When more of it comes back, in seconds since 1970."""


class LimitsNow(Shown):
    object: Literal["limits"] = "limits"
    project: str
    user_id: str | None
    key_id: str | None
    limits: list[LimitNow]
    """Those that are set."""


def limits_now(ledger: Ledger, limits: Limits | None, project: str, user_id: str | None, key_id: str | None) -> LimitsNow:
    """How the limits of a project stand, and those of this user and this key within it."""
    subject = None if limits is None else ledger.subject(limits, project, user_id, key_id)
    found = [
        LimitNow(name=one.name, limit=one.limit, used=one.used, remaining=one.remaining, reset=-(-one.reset // 1000))
        for one in (ledger.standings(subject) if subject is not None else ())
    ]
    return LimitsNow(project=project, user_id=user_id, key_id=key_id, limits=found)

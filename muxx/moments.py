"""Moments, which are Unix seconds here, as text. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)


def iso_time(moment: float) -> str:
    """ISO 8601 in UTC, to the millisecond: `2026-11-22T10:00:00.000Z`."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(text: str) -> float:
    """The moment that somebody names in ISO 8601, in UTC unless it says otherwise, or in Unix seconds; `ValueError` for anything
    else."""
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

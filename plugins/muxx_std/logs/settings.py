"""What `[plugins.logs]` may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from muxx import PluginConfig

LEAST_ROW_DAYS = 62
"""The spend of a month and what stands against a limit are counted from rows, so those of this month and the last one stay."""


def _long_enough(days: int) -> int:
    if 0 < days < LEAST_ROW_DAYS:
        raise ValueError(
            f"is 0 (for ever) or at least {LEAST_ROW_DAYS}: spend caps of a month are counted from rows, and limits after a crash"
        )
    return days


class LogsConfig(PluginConfig):
    """How long what is kept, and how it is found."""

    row_retention_days: Annotated[int, AfterValidator(_long_enough)] = Field(0, ge=0, le=36_500)
    """Rows older than this are deleted; 0 keeps them for ever."""
    max_bytes: int = Field(0, ge=0)
    """Where the log database holds more, the oldest content goes, then the oldest rows that may go; 0: it may grow."""
    search_index: bool = True
    """Whether an index of fields and content is kept, which finds what is rare at once; it takes as much space as content."""

"""What is written of a moment is read back, and what somebody may write of it is understood as they mean it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxx import iso_time, moment_of

TEN = 1795341600.0


@given(st.integers(0, 4_102_444_800_000))
def test_a_moment_is_read_back_as_it_was_written(milliseconds: int) -> None:
    assert round(moment_of(iso_time(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["2026-11-22T10:00:00Z", "2026-11-22T10:00:00.000Z", "2026-11-22T10:00", "2026-11-22 10:00", "2026-11-22T12:00:00+02:00",
     "20261122T100000Z", "1795341600", "1795341600.0"],
)  # fmt: skip
def test_a_moment_is_in_utc_unless_it_says_otherwise(text: str) -> None:
    assert moment_of(text) == TEN


@pytest.mark.parametrize("text", ["", "now", "22.11.2026", "2026-13-01", "-5", "1e9", "nan", "١٧٩٥٣٤١٦٠٠", "17953416000000"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        moment_of(text)

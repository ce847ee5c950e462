"""Request ids sort by when they were made, and none comes twice."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest

from muxx.ids import RequestIds


def test_ids_of_a_process_increase_also_within_a_millisecond() -> None:
    source = RequestIds()
    ids = [source.next() for _ in range(10_000)]
    assert all(before < after for before, after in pairwise(ids))
    assert all(re.fullmatch("req_[0-9a-f]{32}", one) for one in ids)


def test_an_id_says_in_which_millisecond_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_795_341_600_123_999_999)
    assert [int(RequestIds().next()[4:16], 16) for _ in range(100)] == [1_795_341_600_123] * 100


def test_a_clock_that_is_set_back_makes_no_id_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    source = RequestIds()
    before = source.next()
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert source.next() > before

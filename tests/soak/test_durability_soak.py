"""The rows of FAULTS that `tests/faults/test_durability.py` and `test_processes.py` run small, at full size: `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from durability_scenarios import (
    fill_the_disk,
    kill_again_and_again,
    lock_the_database,
    refuse_damaged_copies,
    reload_under_load,
    small_disk,
    start_after_a_crash,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("workers", [1, 2])
async def test_L01_fifty_kills_under_load_lose_no_acknowledged_row(tmp_path: Path, workers: int) -> None:
    await kill_again_and_again(tmp_path, workers=workers, rounds=50, seed=100 + workers)


@pytest.mark.parametrize("workers", [1, 2])
async def test_L02_a_disk_that_fills_up_again_and_again_loses_no_row(tmp_path: Path, workers: int) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        await fill_the_disk(disk, times=5, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
async def test_L04_a_database_locked_for_ten_seconds_delays_no_request_and_loses_no_row(tmp_path: Path, workers: int) -> None:
    await lock_the_database(tmp_path, seconds=10.0, workers=workers)


async def test_L05_none_of_two_hundred_damaged_copies_is_opened_or_changed(tmp_path: Path) -> None:
    await refuse_damaged_copies(tmp_path, copies=200, seed=50)


@pytest.mark.parametrize("workers", [1, 2])
async def test_G02_two_hundred_reloads_under_load_are_noticed_by_no_request(tmp_path: Path, workers: int) -> None:
    await reload_under_load(tmp_path, reloads=200, workers=workers)


async def test_Y03_ready_in_three_seconds_on_a_million_rows_and_ten_thousand_open_requests(tmp_path: Path) -> None:
    await start_after_a_crash(tmp_path, stored=1_000_000, opened=10_000, within=3.0)

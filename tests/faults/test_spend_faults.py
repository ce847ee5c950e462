"""FAULTS R02, R03, R05, M08: money under load, in several processes, when some are killed, and when the clock is set."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from carrying_kit import serving
from process_kit import HOLD, Upstream, at_once, gateway_process, workers_of

from muxx import Shared, pico_of
from muxx.testing import GatewayProcess, chat, chat_body, eventually
from muxx_std.spend_caps.account import month_of
from muxx_std.spend_caps.ledger import SpendLedger

COST = 10 * 2_500_000 + 5 * 10_000_000
"""Of one answer of the scripted provider at gpt-4o's price."""
MEMBERS = {"max_tokens": 5}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(gap=0.0) as provider:
        yield provider


def capped(directory: Path, upstream: Upstream, workers: int, pico: int) -> GatewayProcess:
    """No cache, so that every admitted request is one the provider sees."""
    caps = [{"window": "day", "usd": str(Decimal(pico).scaleb(-12)), "action": "block"}]
    config: dict[str, Any] = {"project": {"spend_caps": caps, "cache": {"enabled": False}}}
    return gateway_process(directory, upstream, config, workers=workers)


def worst_of(body: bytes) -> int:
    """What a request holds, by the contract."""
    return len(body) * 2_500_000 + 5 * 10_000_000


def counted(directory: Path, day: int | None = None) -> tuple[int, int]:
    """What is spent and held, as another process sees it."""
    shared = Shared(directory / "muxx.db.shared")
    try:
        return SpendLedger(shared).figures("default", day or int(time.time() // 86_400))["day"]
    finally:
        shared.close()


async def at_rest(directory: Path, within: float = 15.0) -> int:
    """What is spent, once nothing is held any more."""
    deadline = time.monotonic() + within
    while counted(directory)[1]:
        assert time.monotonic() < deadline, counted(directory)
        await asyncio.sleep(0.1)
    return counted(directory)[0]


async def rows_come_to(directory: Path, count: int, within: float = 10.0) -> int:
    """The sum of the rows' costs, once so many are in the database."""
    deadline = time.monotonic() + within
    while True:
        with closing(sqlite3.connect(f"file:{directory}/muxx-logs.db?mode=ro", uri=True)) as db:
            rows, cost = db.execute("SELECT count(*), coalesce(sum(cost_pico), 0) FROM generations").fetchone()
        if rows >= count:
            return int(cost)
        assert time.monotonic() < deadline, (rows, count)
        await asyncio.sleep(0.1)


@asynccontextmanager
async def under_way(gateway: GatewayProcess) -> AsyncIterator[int]:
    """The status of a request whose answer does not end."""
    async with await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body(HOLD, stream=True, **MEMBERS))
        yield (await client.read_head()).status


@pytest.mark.parametrize("workers", [1, 2])
async def test_R03_two_hundred_at_once_with_money_for_one(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    body = orjson.dumps(chat_body("Count to five.", **MEMBERS))
    async with capped(tmp_path, upstream, workers, worst_of(body)) as gateway:
        answers = await at_once(gateway, 200, **MEMBERS)
        assert len(answers) == 200
        admitted = [answer for answer in answers if answer.status == 200]
        assert {answer.status for answer in answers} == {200, 402}
        assert len(admitted) == len(upstream.requests) >= 1
        assert worst_of(upstream.requests[0].body) == worst_of(body)
        spent = await at_rest(tmp_path)
        assert spent == len(admitted) * COST == await rows_come_to(tmp_path, 200) <= worst_of(body)


@pytest.mark.parametrize("workers", [1, 2])
async def test_R05_M08_killed_under_load_and_started_again(tmp_path: Path, upstream: Upstream, workers: int) -> None:
    """A worker is killed, then all of them, then the machine's memory of it: what is counted is what the rows say, and never more
    than the cap."""
    cap = 70 * COST + worst_of(orjson.dumps(chat_body("Count to five.", **MEMBERS)))
    async with capped(tmp_path, upstream, workers, cap) as gateway:
        load = asyncio.create_task(at_once(gateway, 50, **MEMBERS))
        await eventually(lambda: len(upstream.requests) >= 10)
        os.kill(workers_of(gateway)[0] if workers > 1 else gateway.process.pid, signal.SIGKILL)
        await load
        await gateway.restart()
        await at_rest(tmp_path)  # until then the requests of the dead hold more than the cap may have left
        async with under_way(gateway) as status:
            assert status == 200
            await asyncio.sleep(0.2)
            await gateway.kill()
        await gateway.start()
        refused = [answer for answer in await at_once(gateway, 200, **MEMBERS) if answer.status == 402]
        assert refused
        spent = await at_rest(tmp_path)
        assert spent == await rows_come_to(tmp_path, len(refused)) <= cap
        async with under_way(gateway):
            await gateway.kill()
        (tmp_path / "muxx.db.shared").unlink()
        await gateway.start()
        again = await at_rest(tmp_path)
        assert again == await rows_come_to(tmp_path, len(refused)) >= spent
        assert {answer.status for answer in await at_once(gateway, 50, **MEMBERS)} <= {200, 402}
        assert await at_rest(tmp_path) <= cap


async def test_R02_a_clock_that_is_set_opens_no_window_and_midnight_opens_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"project": {"spend_caps": [{"window": "day", "usd": "0.02"}], "cache": {"enabled": False}}}
    async with serving(config=config) as gateway:
        gateway.upstream.script(chat(output_tokens=1_500))
        ledger, real = SpendLedger(gateway.gateway.shared), time.time
        today = int(real() // 86_400)

        def at(hours: float) -> int:
            monkeypatch.setattr(time, "time", lambda: real() + hours * 3_600)
            return int(time.time() // 86_400)

        assert [(await gateway.chat(max_tokens=1_500)).status for _ in range(2)] == [200, 402]
        await eventually(lambda: ledger.figures("default", today)["day"][1] == 0)
        for hours in (-1.0, -24.0, -24.0 * 365):
            at(hours)
            assert (await gateway.chat(max_tokens=1_500)).status == 402, hours
        tomorrow = at(24)
        allowed = await gateway.chat(max_tokens=1_500)
        assert allowed.status == 200
        await eventually(lambda: ledger.figures("default", tomorrow)["day"] == (10 * 2_500_000 + 1_500 * 10_000_000, 0))
        at(0)  # and back: that window stays open, and the one before is not opened again
        assert (await gateway.chat(max_tokens=1_500)).status == 402
        cheap = await gateway.chat(max_tokens=1)
        assert cheap.status == 200
        row = await gateway.get_row(cheap.request_id)
        assert row["attributes"]["spend_day"] == time.strftime("%Y-%m-%d", time.gmtime(tomorrow * 86_400))
        assert sum(pico_of(Decimal(row["cost_usd"])) for row in [row]) > 0
        month = ledger.figures("default", tomorrow)["month"][0]
        days = ledger.figures("default", today)["day"][0] + ledger.figures("default", tomorrow)["day"][0]
        assert month == (days if month_of(today) == month_of(tomorrow) else ledger.figures("default", tomorrow)["day"][0])

"""`muxx costs`: the figures of the routes in a terminal, beside a running gateway and without one."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from analytics_kit import DAY, keep, log_of, row
from carrying_kit import serving
from click.testing import CliRunner, Result

from muxx.cli import cli
from muxx.testing import chat
from muxx.testing.settings import write_config

NOW = time.time()
MONTH = time.strftime("%Y-%m", time.gmtime(NOW))


def costs(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["costs", "--config", str(directory / "muxx.toml"), *arguments])


async def run(directory: Path, *arguments: str) -> Any:
    """In a thread: the command has an event loop of its own."""
    result = await asyncio.to_thread(costs, directory, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    """A log that no gateway serves: two projects in this month, one before."""
    write_config(tmp_path, {"database": {"path": str(tmp_path / "muxx.db")}})
    async with log_of(tmp_path) as db:
        await keep(
            db,
            row(1, started_at=NOW, cost_pico=10**12, user_id="ada", metadata={"team": "=1+1"}),
            row(2, started_at=NOW, project="bank", cost_pico=3 * 10**12, user_id="bob"),
            row(3, started_at=NOW, project="bank", cost_pico=None, user_id="bob", environment="test"),
            row(4, started_at=NOW - 40 * DAY, project="bank", cost_pico=5 * 10**12),
        )
    return tmp_path


def test_without_options_it_shows_this_month_by_project_and_the_total(log: Path) -> None:
    result = costs(log)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["project", "requests", "errors", "input_tokens", "output_tokens", "cost_usd", "saved_usd", "unpriced_requests"],
        ["bank", "1", "0", "10", "5", "3", "0", "0"],
        ["shop", "1", "0", "10", "5", "1", "0", "0"],
        ["total", "2", "0", "20", "10", "4", "0", "0"],
    ]


async def test_it_shows_what_is_asked_for(log: Path) -> None:
    by_user = await run(log, "--by", "user", "--month", MONTH)
    assert [(line["value"], line["cost_usd"]) for line in by_user["data"]] == [("bob", "3"), ("ada", "1")]
    assert (await run(log, "--last", "60d"))["totals"]["cost_usd"] == "9"
    assert (await run(log, "--last", "2h"))["totals"]["cost_usd"] == "4"
    assert (await run(log, "--project", "shop"))["totals"]["cost_usd"] == "1"
    assert (await run(log, "--environment", "test"))["totals"]["unpriced_requests"] == 1
    assert (await run(log, "--by", "metadata.team"))["data"][0]["value"] == "=1+1"
    before = time.strftime("%Y-%m-%d", time.gmtime(NOW - 50 * DAY))
    assert len((await run(log, "--from", before, "--interval", "month"))["data"]) >= 2
    assert (await run(log, "--from", before, "--to", f"{MONTH}-01"))["totals"]["cost_usd"] == "5"
    limited = await run(log, "--limit", "1")
    assert (len(limited["data"]), limited["has_more"], limited["totals"]["cost_usd"]) == (1, True, "4")


def test_a_table_over_time_has_the_start_of_each_period(log: Path) -> None:
    head, *lines = [line.split() for line in costs(log, "--interval", "day").stdout.splitlines()]
    assert head[:3] == ["project", "start", "requests"]
    today = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    assert [line[:2] for line in lines] == [["bank", today], ["shop", today], ["total", f"{MONTH}-01"]]
    assert "There are more than 1" in costs(log, "--limit", "1").stderr


def test_csv_is_for_spreadsheets_and_runs_nothing_there(log: Path) -> None:
    rows = list(csv.reader(io.StringIO(costs(log, "--by", "metadata.team", "--csv").stdout)))
    assert rows[0][0] == "team"
    assert rows[1][:2] == ["'=1+1", "1"]
    assert rows[2][0] == "total"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "colour"], "metadata.MEMBER"), (["--month", "2026-13"], "like 2026-11"), (["--last", "3w"], "like 24h or 30d"),
        (["--from", "yesterday"], "write 2026-11-22"), (["--to", "2026-01-01"], "--to needs a --from"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "is not before --to"),
        (["--from", "9999-01-01"], "is not before now"), (["--from", "1969-12-31"], "from 1970 to 9999"),
        (["--from", "2026-01-01", "--to", "9999-12-31T12:00"], "from 1970 to 9999"),
        (["--month", "2026-01", "--last", "1d"], "--from and --to, or --month, or --last"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_may_be(log: Path, arguments: list[str], said: str) -> None:
    result = costs(log, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_where_nothing_was_ever_logged_it_says_so(tmp_path: Path) -> None:
    write_config(tmp_path, {"database": {"path": str(tmp_path / "muxx.db")}})
    result = costs(tmp_path)
    assert result.exit_code == 1
    assert "Nothing is logged" in result.stderr


async def test_a_gateway_starts_where_the_command_was_there_before_it(tmp_path: Path) -> None:
    write_config(tmp_path, {"database": {"path": str(tmp_path / "muxx.db")}})
    assert (await asyncio.to_thread(costs, tmp_path)).exit_code == 1
    async with serving(directory=tmp_path) as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200
        assert (await gateway.get("/v1/analytics/spend")).status == 200


async def test_it_works_beside_a_running_gateway(tmp_path: Path) -> None:
    async with serving(config={"project": {"cache": {"enabled": False}}}, directory=tmp_path) as gateway:
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200

        async def told() -> bool:
            return bool((await run(tmp_path))["totals"]["cost_usd"] == "0.000075")

        async with asyncio.timeout(10):
            while not await told():
                await asyncio.sleep(0.05)

"""How long the log keeps what: content and rows each for their time, and no more than the database may hold."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest
from logs_kit import Bench, opened, record
from pydantic import ValidationError

from muxx import ProjectSettings, iso_time
from muxx_std.logs import retention, upkeep
from muxx_std.logs.indexes import INDEXES
from muxx_std.logs.retention import used_bytes
from muxx_std.logs.settings import LogsConfig

DAY = 86_400.0
NOW = time.time()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


def old(number: int, days: float, **changes: Any) -> Any:
    return record(number, started_at=NOW - days * DAY, **changes)


async def left(bench: Bench, table: str) -> list[int]:
    sql = {"contents": "SELECT request_id FROM contents", "generations": "SELECT request_id FROM generations"}[table]
    return sorted(int(row["request_id"][4:]) for row in await bench.host.db.read_logs(sql))


def check_indexes(bench: Bench) -> None:
    """FTS5 finds an index that does not hold together."""
    with closing(sqlite3.connect(bench.host.paths.logs)) as db, db:
        for index in INDEXES:
            db.execute(index.command, ("integrity-check", 0))


async def test_content_past_its_retention_goes_and_its_row_stays(bench: Bench) -> None:
    await bench.record(*(old(number, 31) for number in range(300)), old(9999, 0))
    await bench.keep_up()
    assert (await bench.get("req_000000"))["input"] is None
    assert (await bench.get("req_009999"))["input"] is not None
    assert await left(bench, "contents") == [9999]
    assert len(await left(bench, "generations")) == 301


async def test_a_projects_own_retention_is_kept_to_whatever_stands_before_it(bench: Bench) -> None:
    bench.own = {"hasty": ProjectSettings(content_retention_days=1), "patient": ProjectSettings(content_retention_days=90)}
    days = {"hasty": (200, 31, 2, 0), "patient": (200, 89, 31, 2), "shop": (200, 31, 29, 0)}
    made = [(project, ago) for ago in (200, 89, 31, 29, 2, 0) for project in days if ago in days[project] for _ in range(90)]
    await bench.record(*(old(number, ago, project=project) for number, (project, ago) in enumerate(made)))
    await bench.keep_up()
    sql = "SELECT DISTINCT g.project, c.started_at FROM contents c JOIN generations g USING (request_id)"
    kept = {(row["project"], round((NOW - row["started_at"]) / DAY)) for row in await bench.host.db.read_logs(sql)}
    assert kept == {("hasty", 0), ("patient", 89), ("patient", 31), ("patient", 2), ("shop", 29), ("shop", 0)}
    bench.own = {}
    await bench.keep_up()
    kept = {(row["project"], round((NOW - row["started_at"]) / DAY)) for row in await bench.host.db.read_logs(sql)}
    assert kept == {("hasty", 0), ("patient", 2), ("shop", 29), ("shop", 0)}


async def test_rows_past_their_retention_go_with_their_content(bench: Bench) -> None:
    await bench.record(old(1, 1), *(old(number, 101, output=b'"so very old"') for number in range(2, 150)), old(150, 99))
    bench.own = {"shop": ProjectSettings(content_retention_days=3650)}
    await bench.keep_up()
    assert len(await left(bench, "generations")) == 150, "for ever, unless the file says otherwise"
    await bench.keep_up(row_retention_days=100)
    assert await left(bench, "generations") == await left(bench, "contents") == [1, 150]
    assert await bench.ids(q="so very old") == []
    check_indexes(bench)


async def test_the_newest_row_stays_so_that_positions_only_grow(bench: Bench) -> None:
    await bench.record(*(old(number, 400) for number in range(1, 150)))
    await bench.keep_up(row_retention_days=62)
    assert await left(bench, "generations") == [149]
    await bench.record(old(500, 0, user_id="later"))
    await bench.keep_up(row_retention_days=62)
    assert await bench.ids(user_id="later") == [500]
    rows = await bench.host.db.read_logs("SELECT position FROM generations ORDER BY position")
    assert [row["position"] for row in rows][-1] == 150


@pytest.mark.parametrize(("days", "right"), [(0, True), (1, False), (61, False), (62, True), (-1, False), (36_501, False)])
def test_rows_that_others_count_by_cannot_be_told_to_go(days: int, right: bool) -> None:
    if right:
        assert LogsConfig(row_retention_days=days).row_retention_days == days
    else:
        with pytest.raises(ValidationError):
            LogsConfig(row_retention_days=days)


def fat(number: int, days: float) -> Any:
    return old(number, days, input=orjson.dumps([f"{number} {place * number:x}" for place in range(400)]))


async def test_too_much_content_goes_oldest_first_and_no_more_than_that(bench: Bench) -> None:
    await bench.record(*(fat(number, 10 - number / 100) for number in range(1, 401)))
    await bench.keep_up()
    whole = await used_bytes(bench.host.db)
    await bench.keep_up(max_bytes=whole)
    assert len(await left(bench, "contents")) == 400
    await bench.keep_up(max_bytes=whole * 3 // 4)
    kept = await left(bench, "contents")
    assert kept == list(range(401 - len(kept), 401)), "the newest ones are left"
    assert len(kept) < 360
    assert whole * 0.6 < await used_bytes(bench.host.db) <= whole * 3 // 4
    assert len(await left(bench, "generations")) == 400, "no row of the last two months goes"
    check_indexes(bench)


async def test_where_content_is_not_enough_the_oldest_rows_go_but_for_two_months(bench: Bench) -> None:
    await bench.record(*(old(number, 100 - number / 10, input=None, output=None) for number in range(1, 601)))
    await bench.keep_up(max_bytes=1)
    kept = await left(bench, "generations")
    assert kept == list(range(kept[0], 601))
    assert 100 - kept[0] / 10 == pytest.approx(retention.LEAST_ROW_DAYS, abs=0.2)


async def test_a_sweep_is_made_of_short_transactions_between_which_the_recorder_writes(bench: Bench) -> None:
    await bench.record(*(old(number, 31) for number in range(500)))
    steps = 0
    sweep = retention.sweep(bench.host.db, retention.Rules.of(LogsConfig(), bench.host.config, {}))
    async for deleted in sweep:
        steps += 1
        assert deleted <= 250
        await bench.record(old(1000 + steps, 0))
    assert steps > 3
    assert await left(bench, "contents") == [1000 + step for step in range(1, steps + 1)]


async def test_a_database_that_cannot_work_is_said_once_and_swept_when_it_can(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.record(*(old(number, 31) for number in range(50)))
    keeper = upkeep.Upkeep(bench.gateway, LogsConfig())
    monkeypatch.setattr(upkeep, "FAULT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(bench.host.db, "write_logs", AsyncMock(side_effect=sqlite3.OperationalError("database is locked")))
        for _ in range(3):
            await keeper.round()
    assert [record.getMessage() for record in caplog.records if "swept" in record.getMessage()] == [
        "the log is neither indexed nor swept for now: OperationalError: database is locked"
    ]
    while not keeper.caught_up:
        await keeper.round()
    assert await left(bench, "contents") == []


class TestCommand:
    async def test_it_shows_what_is_kept_and_what_is_due(self, bench: Bench) -> None:
        await bench.record(*(old(number, 31) for number in range(100)), *(old(number, 1) for number in range(100, 130)))
        kept = json.loads((await bench.run("retention", "--json")).stdout)
        assert {name: kept["content"][name] for name in ("count", "due")} == {"count": 130, "due": 100}
        assert {name: kept["rows"][name] for name in ("count", "due")} == {"count": 130, "due": 0}
        assert kept["content"]["oldest"] == kept["rows"]["oldest"] == iso_time(NOW - 31 * DAY)
        assert kept["index"]["waiting"] == {}
        assert kept["file"]["bytes"] >= kept["content"]["bytes"] + kept["rows"]["bytes"] > 0
        lines = (await bench.run("retention")).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["part", "content", "rows", "index", "file"]
        assert "30 days" in lines[1]
        assert "for ever" in lines[2]
        await bench.keep_up()
        assert json.loads((await bench.run("retention", "--json")).stdout)["index"]["waiting"] == {"facets": 0, "text": 0}

    async def test_it_deletes_at_once_and_gives_space_back(self, bench: Bench) -> None:
        await bench.record(*(fat(number, 40) for number in range(400)))
        before = json.loads((await bench.run("retention", "--json")).stdout)
        done = await bench.run("retention", "--run", "--json")
        after = json.loads(done.stdout)
        assert after["content"] == {"count": 0, "oldest": None, "due": 0, "bytes": after["content"]["bytes"]}
        assert after["rows"]["count"] == 400
        assert after["file"]["free_bytes"] == 0
        assert after["file"]["bytes"] < before["file"]["bytes"] / 2

    async def test_a_file_that_cannot_give_space_back_says_so(self, bench: Bench) -> None:
        await bench.record(old(1, 40))
        with closing(sqlite3.connect(bench.host.paths.logs)) as db:
            db.execute("PRAGMA auto_vacuum = NONE")
            db.execute("VACUUM")
        done = await bench.run("retention", "--run")
        assert done.exit_code == 0
        assert "keeps its size" in done.stderr
        assert await left(bench, "contents") == []

    async def test_a_project_with_a_time_of_its_own_is_shown_with_it(self, bench: Bench) -> None:
        await bench.host.projects.create("hasty", {"content_retention_days": 1})
        await bench.record(old(1, 2, project="hasty"), old(2, 2))
        done = await bench.run("retention")
        assert "30 days, hasty: 1" in done.stdout
        kept = json.loads((await bench.run("retention", "--json")).stdout)
        assert kept["content"]["due"] == 1

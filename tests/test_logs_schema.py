"""The schema that the documentation promises is the one there is, and its view says what the rows say."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pytest
from docs_kit import ROOT
from logs_kit import Bench, opened, record

from muxx.testing import RunningGateway
from muxx_std.logs.indexes import prepare
from muxx_std.logs.schema import COLUMNS

PAGE = (ROOT / "docs/schema.md").read_text()
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[1:]}
OWN = "What is muxx's own"


def documented(name: str) -> list[tuple[str, str]]:
    """Names and types of the columns a section lists, in its order; several may stand in one row."""
    rows = re.findall(r"^\| (`.*?) \| (\w*) ?\|", SECTIONS[name], re.M)
    return [(column, kind) for names, kind in rows for column in re.findall(r"`(\w+)`", names)]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


async def test_the_page_lists_exactly_the_tables_and_columns_there_are() -> None:
    own = re.findall(r"`([\w*]+)`", SECTIONS[OWN].partition("| --- |")[2])
    async with RunningGateway(mock=True) as gateway:
        host = gateway.gateway.host
        await host.db.write_logs(partial(prepare, wanted=True))
        with closing(sqlite3.connect(host.paths.logs)) as db:
            found = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
            stable = [name for name in found if not any(fnmatchcase(name, pattern) for pattern in own)]
            there = {name: db.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall() for name in stable}
    assert sorted(stable) == sorted(SECTIONS.keys() - {OWN})
    for view in ("generations_usd", "spend_by_day"):  # what is computed has no type
        assert [column for column, _ in documented(view)] == [column for column, _ in there.pop(view)]
    assert {name: documented(name) for name in there} == there


def test_every_column_says_since_when_it_is_stable() -> None:
    for name in SECTIONS.keys() - {OWN}:
        rows = re.findall(r"^\| `.*$", SECTIONS[name], re.M)
        assert rows
        assert all(re.search(r"\| \d+\.\d+\.\d+ \|$", row) for row in rows), name


async def test_the_view_says_in_dollars_and_iso_time_what_the_rows_say(bench: Bench) -> None:
    await bench.record(record(1, saved_pico=0), record(2, cost_pico=None, started_at=1_795_000_002.25))
    with closing(sqlite3.connect(bench.host.paths.logs)) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM generations ORDER BY position").fetchall()
        shown = db.execute("SELECT * FROM generations_usd ORDER BY position").fetchall()
    assert [row["started_at"] for row in shown] == ["2026-11-18T11:06:41.000Z", "2026-11-18T11:06:42.250Z"]
    assert [row["cost_usd"] for row in shown] == [0.0000975, None]
    assert (shown[0]["input_cost_usd"], shown[0]["output_cost_usd"], shown[0]["saved_usd"]) == (0.0000275, 0.00007, 0.0)
    same = [name for name in COLUMNS if name != "started_at" and not name.endswith("_pico")]
    for row, view in zip(rows, shown, strict=True):
        assert [row[name] for name in same] == [view[name] for name in same]
        assert len(view.keys()) == len(row.keys())

"""Searching the log: whatever way a row is found, a page holds exactly what matches, and looking for what is not there ends in time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs_kit import ADMIN, SHOP, Bench, opened, record
from thoroughness import examples

from muxx_std.logs import indexes, listing
from muxx_std.logs.filters import Filter, Page, like_pattern
from muxx_std.logs.indexes import INDEXES, text_runs, text_words
from muxx_std.logs.store import LogReader

NOW = time.time() - 86_400


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as bench:
        yield bench


def rows(count: int, **changes: Any) -> list[Any]:
    """A mixture: every row another time, some late, with values rare and frequent."""
    return [
        record(
            number,
            started_at=NOW + number - (60 if number % 17 == 0 else 0),
            user_id=f"u{number % 40}",
            status=429 if number % 10 == 0 else 200,
            cache="hit" if number % 3 == 0 else "miss",
            provider="other" if number == 7 else "openai",
            metadata={"feature": "chat" if number % 50 == 0 else "search", "n": number},
            input=orjson.dumps({"messages": [f"number {number} of the day", "é\n" if number % 25 == 0 else 'a "quote"']}),
            **changes,
        )
        for number in range(1, count + 1)
    ]


QUESTIONS: list[dict[str, Any]] = [
    {}, {"status": 429}, {"provider": "other"}, {"provider": "nobody"}, {"user_id": "u7"}, {"user_id": "u7", "status": 429},
    {"cache": "hit", "user_id": "u3"}, {"model": "gpt-4o"}, {"model": "gpt-4o-2024-08-06"}, {"metadata.feature": "chat"},
    {"metadata.n": "299"}, {"metadata.n": "299", "status": 429}, {"q": "number 29"}, {"q": "é\n"}, {"q": 'a "quote"'},
    {"q": "QUOTE"}, {"q": "nowhere"}, {"q": "29"}, {"q": "%"}, {"q": "number 29", "cache": "hit"}, {"q": "day", "status": 429},
    {"from_": NOW + 100, "to": NOW + 200, "status": 429}, {"to": NOW + 30, "q": "number"}, {"environment": "all", "cache": "hit"},
]  # fmt: skip


async def all_pages(bench: Bench, limit: int, **query: Any) -> list[str]:
    found: list[str] = []
    answer = await bench.list(SHOP, limit=limit, **query)
    found += [row["request_id"] for row in answer["data"]]
    while answer["has_more"]:
        answer = await bench.list(SHOP, limit=limit, after=answer["next"], **query)
        found += [row["request_id"] for row in answer["data"]]
    assert answer["next"] is None
    return found


class TestWhatIsFound:
    @pytest.mark.parametrize("chunk", [1, 8, 1000])
    @pytest.mark.parametrize("candidates", [0, 5, 2000])
    async def test_an_index_and_looking_at_every_row_find_the_same_in_the_same_order(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, chunk: int, candidates: int
    ) -> None:
        await bench.record(*rows(300))
        every = [await all_pages(bench, 1000, **question) for question in QUESTIONS]
        assert [len(found) for found in every[:3]] == [300, 30, 1]
        monkeypatch.setattr(listing, "FIRST_ROWS", chunk)
        monkeypatch.setattr(listing, "FIRST_TEXTS", chunk)
        monkeypatch.setattr(listing, "LEAST_ROWS", chunk)
        monkeypatch.setattr(listing, "MOST_ROWS", 10 * chunk)
        monkeypatch.setattr(listing, "MOST_CANDIDATES", candidates)
        await bench.keep_up()
        assert [await all_pages(bench, 7, **question) for question in QUESTIONS] == every
        await bench.record(*(record(1000 + number, started_at=NOW + 50.5, user_id="u7") for number in range(3)))
        late = {f"req_{1000 + number:06d}" for number in range(3)}
        assert late < set(await all_pages(bench, 7, user_id="u7")), "rows that no index knows yet are found too"

    async def test_a_row_that_changes_is_found_by_what_it_is_now(self, bench: Bench) -> None:
        changed = rows(300)
        await bench.record(*changed)
        await bench.keep_up()
        changed[99].update(status=499, user_id="new", output=b'"It is gone entirely."', metadata={"feature": "other"})
        await bench.record(*changed[95:105])
        for question in ({"status": 499}, {"user_id": "new"}, {"q": "gone entirely"}, {"metadata.feature": "other"}):
            assert await bench.ids(**question) == [100], question
            assert await candidates(bench, **question) == {100}, question
        for question in ({"user_id": "u20", "status": 429}, {"metadata.n": "100"}):
            assert 100 not in await candidates(bench, **question), question

    async def test_what_is_deleted_leaves_the_indexes(self, bench: Bench) -> None:
        await bench.record(*rows(300))
        await bench.keep_up()
        assert await candidates(bench, q="number 299") == {299}
        with closing(sqlite3.connect(bench.host.paths.logs)) as db, db:
            db.execute("DELETE FROM contents WHERE request_id = 'req_000299'")
            db.execute("DELETE FROM generations WHERE request_id = 'req_000007'")
        assert await candidates(bench, q="number 299") == set()
        assert await candidates(bench, metadata=(("n", "7"),)) == set()
        with closing(sqlite3.connect(bench.host.paths.logs)) as db, db:
            for index in INDEXES:
                db.execute(index.command, ("integrity-check", 0))

    async def test_another_projects_rows_are_not_found_through_an_index(self, bench: Bench) -> None:
        await bench.record(*rows(150), record(900, project="rival", user_id="hidden", output=b'"a secret word"', started_at=NOW))
        await bench.keep_up()
        assert await bench.ids(SHOP, user_id="hidden") == []
        assert await bench.ids(SHOP, q="secret word") == []
        assert await bench.ids(ADMIN, q="secret word") == [900]

    async def test_without_fts5_the_same_rows_are_found_and_stored(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        await bench.record(*rows(300))
        every = [await all_pages(bench, 1000, **question) for question in QUESTIONS]
        await bench.keep_up()
        monkeypatch.setattr(indexes, "_TRIGRAM_SINCE", (99,))
        await bench.keep_up()
        assert [await all_pages(bench, 7, **question) for question in QUESTIONS] == every
        triggers = await bench.host.db.read_logs("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        assert [row["name"] for row in triggers if row["name"].startswith("logs_")] == []
        await bench.record(*rows(301))
        monkeypatch.undo()
        await bench.keep_up()
        assert await candidates(bench, q="number 301") == {301}, "an index that nothing kept up to date is made anew"

    async def test_an_index_that_is_not_wanted_leaves_nothing_behind(self, bench: Bench) -> None:
        await bench.record(*rows(120))
        await bench.keep_up()
        await bench.keep_up(search_index=False)
        left = await bench.host.db.read_logs("SELECT name FROM sqlite_master WHERE name LIKE 'logs\\_%' ESCAPE '\\'")
        assert [row["name"] for row in left] == ["logs_indexed"]
        assert await bench.ids(q="number 120") == [120]


class TestInTime:
    async def test_paging_on_after_the_time_is_over_repeats_nothing_and_leaves_nothing_out(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await bench.record(*rows(300))
        reader, filter = LogReader(bench.host.db), Filter(project="shop", status=429)
        whole = await reader.page(filter, Page(1000))
        monkeypatch.setattr(listing, "FIRST_ROWS", 13)
        monkeypatch.setattr(listing, "MOST_ROWS", 13)
        found: list[str] = []
        pages, page = 0, await reader.page(filter, Page(1000), seconds=0.0)
        while page is not None and page.next is not None:
            found += [row["request_id"] for row in page.rows]
            pages, page = pages + 1, await reader.page(filter, Page(1000, page.next), seconds=0.0)
        assert page is not None
        assert whole is not None
        assert found + [row["request_id"] for row in page.rows] == [row["request_id"] for row in whole.rows]
        assert pages > 5, "each page ended before all was found"

    async def test_a_command_looks_until_it_has_found_what_was_asked_for(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await bench.record(*rows(300))
        monkeypatch.setattr(listing, "FIRST_TEXTS", 13)
        monkeypatch.setattr(listing, "MOST_ROWS", 13)
        monkeypatch.setattr(LogReader.page, "__defaults__", (0.0,))
        assert (await bench.run("search", "number 3 of")).stdout.split()[-1] == "req_000003"


async def candidates(bench: Bench, **question: Any) -> set[int]:
    """The rows, by their number, that an index has for a question; the question is one for one index."""
    filter = Filter(
        environment=None, **{{"q": "text"}.get(name, name): value for name, value in question.items() if "." not in name}
    )
    metadata = tuple((name.removeprefix("metadata."), value) for name, value in question.items() if "." in name)
    if metadata:
        filter = Filter(environment=None, metadata=metadata)
    asked = await listing.Listing(bench.host.db, filter, 1, None)._indexes()
    [(index, words, _)] = asked[0]
    [(_, positions)] = await bench.host.db.scan_logs(index.newest, (words, 1000))
    found = set(orjson.loads(positions))
    ids = await bench.host.db.read_logs("SELECT position, request_id FROM generations")
    return {int(row["request_id"][4:]) for row in ids if row["position"] in found}


TEXTS = st.text(st.sampled_from('aA*"%_\\ ſKéİß\n🙂') | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, TEXTS, TEXTS)
def test_whatever_like_finds_the_index_has_among_its_candidates(before: str, text: str, after: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(INDEXES[1].create)
        content = orjson.dumps(before + text.swapcase() + after).decode()
        db.execute("INSERT INTO logs_text (rowid, input, output) VALUES (1, ?, NULL)", (content,))
        filter = Filter(text=text)
        runs = text_runs(filter)
        [(like,)] = db.execute("SELECT ? LIKE ? ESCAPE '\\'", (content, like_pattern(filter.spelt_text or "")))
        if runs and like:
            assert db.execute(INDEXES[1].newest, (text_words(runs), 1)).fetchall() == [(1, "[1]")]

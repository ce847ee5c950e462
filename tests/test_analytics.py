"""The sums of the log are those of its rows, to the pico-dollar, whatever becomes of the rows."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from analytics_kit import (
    DAY,
    MIDNIGHT,
    Figures,
    Row,
    added_up,
    answered,
    keep,
    log_of,
    row,
    run,
    total,
    wholly_folded,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx import InvalidRequest
from muxx.db import Database
from muxx_std.analytics import figures, fold, statement
from muxx_std.analytics.figures import ask
from muxx_std.analytics.periods import Span
from muxx_std.analytics.question import MEASURES, Question

WEEK = Span(MIDNIGHT - 2 * DAY, MIDNIGHT + 3 * DAY)
CROOKED = Span(MIDNIGHT - DAY - 3 * 3600, MIDNIGHT + DAY + 5 * 3600)
SAME_DAY = Span(MIDNIGHT + 3600, MIDNIGHT + 7200)
ONE_DAY = Span(MIDNIGHT, MIDNIGHT + DAY)
QUESTIONS = [
    *(Question(span, interval) for span in (WEEK, CROOKED) for interval in ("hour", "day", "week", "month", "total")),
    *(Question(WEEK, "day", by) for by in (*MEASURES, "metadata.team", "answer")),
    *(Question(WEEK, "day", by, environment=None) for by in (*MEASURES, "metadata.team")),
    *(Question(WEEK, "week", by, "shop") for by in ("model", "user", "metadata.team", "answer")),
    *(Question(CROOKED, "hour", by) for by in ("user", "metadata.team", "key")),
    *(Question(ONE_DAY, interval, "user", "shop") for interval in ("hour", "day", "week", "month", "total")),
    Question(ONE_DAY, "day", "user", "shop", environment=None),
    Question(ONE_DAY, "day", "user"),
    Question(ONE_DAY, "total", "user", "shop", filters={"user_id": "ada"}),
    Question(SAME_DAY, "total", "user"),
    Question(SAME_DAY, "total", "provider"),
    Question(WEEK, "total", "model", filters={"key_id": "key_1"}),
    Question(WEEK, "total", "model", filters={"user_id": "ada"}),
    Question(WEEK, "day", None, filters={"user_id": "ada"}),
    Question(WEEK, "day", "metadata.team", filters={"model": "gpt-4o"}),
]

MONEY = st.one_of(st.none(), st.integers(0, 10**9), st.just(2**63 - 1))
CHANGES = st.fixed_dictionaries(
    {
        "started_at": st.integers(-2 * DAY, 3 * DAY - 1).map(lambda at: MIDNIGHT + at + 0.9996),
        "project": st.sampled_from(["shop", "bank", None]),
        "environment": st.sampled_from(["live", "test"]),
        "user_id": st.sampled_from([None, "ada", "bob"]),
        "key_id": st.sampled_from(["key_1", "key_2"]),
        "model": st.sampled_from([None, "gpt-4o", "claude"]),
        "metadata": st.sampled_from([None, {}, {"team": "a"}, {"team": 1, "on": True}, {"team": True}, {"team": None}]),
        "status": st.sampled_from([200, 429, 499]),
        "error_code": st.sampled_from([None, "upstream_timeout"]),
        "usage_source": st.sampled_from(["provider", "cache"]),
        "input_tokens": st.integers(0, 1000),
        "cost_pico": MONEY,
        "saved_pico": MONEY,
        "cache": st.sampled_from(["hit", "joined", "miss", "bypass", None]),
    }
)
FEW_PICOS = st.one_of(st.none(), st.integers(0, 3), st.integers(999_998, 1_000_002))
"""Such that values are often as expensive as others, and the sums of both parts of money decide."""
CLOSE = st.fixed_dictionaries(
    {
        "started_at": st.sampled_from([MIDNIGHT + 1, MIDNIGHT + 1, MIDNIGHT + DAY + 1]),
        "environment": st.sampled_from(["live", "live", "test"]),
        "user_id": st.sampled_from([None, "ada", "bob", "cyd", "dan"]),
        "metadata": st.sampled_from([{"team": "a"}, {"team": "b"}, {"team": "c"}, {"team": "d"}]),
        "cost_pico": FEW_PICOS,
        "cache": st.sampled_from(["hit", "miss"]),
    }
)
"""Rows of a few users on two days."""
RANKED = [
    *(Question(ONE_DAY, "day", by, "shop", limit=limit) for by in ("user", "metadata.team", "answer") for limit in (1, 2)),
    *(Question(WEEK, interval, "user", "shop", limit=2) for interval in ("day", "week", "total")),
    *(Question(span, "day", by, environment=None, limit=1) for span in (ONE_DAY, WEEK) for by in ("user", "metadata.team")),
]


def steps_of(changes: st.SearchStrategy[dict[str, Any]], money: st.SearchStrategy[int | None], *, rows: int) -> Any:
    """What may become of so many rows."""
    number = st.integers(1, rows)
    step = st.one_of(
        st.tuples(st.just("store"), number, changes),
        st.tuples(st.just("reprice"), number, money),
        st.tuples(st.just("delete"), st.lists(number, min_size=1), st.none()),
        st.tuples(st.just("fold"), st.none(), st.none()),
    )
    return st.lists(step, max_size=2 * rows)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with log_of(tmp_path) as found:
        yield found


class Twin:
    """The rows that there are, and those that are gone and counted all the same; beside the log that has them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.rows: dict[int, Row] = {}
        self.gone: list[Row] = []

    async def store(self, number: int, changes: dict[str, Any]) -> None:
        found = row(number, **changes)
        if found["cache"] in ("hit", "joined"):
            found["attributes"] = {"answer_of": f"req_{number % 2}"}
        self.rows[number] = found
        await keep(self._db, dict(found))

    async def reprice(self, number: int, pico: int | None) -> None:
        if number in self.rows:
            self.rows[number]["cost_pico"] = pico
        await run(self._db, "UPDATE generations SET cost_pico = ? WHERE request_id = ?", pico, f"req_{number:06d}")

    async def delete(self, numbers: list[int], _: None) -> None:
        for number in numbers:
            if number in self.rows:
                self.gone.append(self.rows.pop(number))
            await run(self._db, "DELETE FROM generations WHERE request_id = ?", f"req_{number:06d}")

    async def fold(self, *_: None) -> None:
        await self._db.write_logs(fold.fold)

    def expected(self, question: Question) -> dict[tuple[int, str | None], Figures]:
        rows = list(self.rows.values()) if question.source == "rows" else [*self.rows.values(), *self.gone]
        return added_up(rows, question)

    async def check(self) -> None:
        for question in QUESTIONS:
            expected = self.expected(question)
            assert await answered(self._db, question) == (expected, total(expected)), question

    async def check_first(self) -> None:
        for question in RANKED:
            expected = self.expected(question)
            sums = {value: total({key: line for key, line in expected.items() if key[1] == value}) for _, value in expected}
            ranked = sorted(sums, key=lambda value: (-sums[value][4], -sums[value][0], value or ""))
            wanted = {key: _spent(line) for key, line in expected.items() if key[1] in ranked[: question.limit]}
            found = await ask(self._db, question)
            assert {(line.span.start, line.value): (line.requests, line.cost_pico) for line in found.lines} == wanted, question
            assert (found.total.requests, found.total.cost_pico) == _spent(total(expected)), question
            assert found.has_more == (len(sums) > question.limit), question


def _spent(line: Figures) -> tuple[int, int]:
    return line[0], line[4]


def followed(steps: list[tuple[str, Any, Any]], check: Callable[[Twin], Awaitable[None]]) -> None:
    """Check before and after the rows are all in the sums."""

    async def follow() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with log_of(Path(directory)) as db:
                twin = Twin(db)
                for name, what, how in steps:
                    await getattr(twin, name)(what, how)
                await check(twin)
                await wholly_folded(db)
                await check(twin)

    asyncio.run(follow())


@settings(max_examples=examples(25), deadline=None)
@given(steps=steps_of(CHANGES, MONEY, rows=7))
def test_whatever_becomes_of_rows_the_figures_are_those_of_plain_addition(steps: list[tuple[str, Any, Any]]) -> None:
    followed(steps, Twin.check)


@settings(max_examples=examples(25), deadline=None)
@given(steps=steps_of(CLOSE, FEW_PICOS, rows=12))
def test_whatever_becomes_of_rows_the_most_expensive_values_are_found(steps: list[tuple[str, Any, Any]]) -> None:
    followed(steps, Twin.check_first)


@pytest.mark.parametrize("span", [ONE_DAY, WEEK])
@pytest.mark.parametrize("about", ["spend", "cache"])
async def test_a_user_whose_rows_are_all_another_users_now_takes_nobodys_place(
    db: Database, span: Span, about: Literal["spend", "cache"]
) -> None:
    await keep(db, *(row(number, user_id=f"user{number}", cost_pico=0) for number in range(4)))
    await wholly_folded(db)
    await keep(db, *(row(number, user_id="user9", cost_pico=0) for number in range(2)))
    for _ in range(2):
        found = await ask(db, Question(span, "day", "user", "shop", limit=2, about=about))
        assert [(line.value, line.requests) for line in found.lines] == [("user9", 2), ("user2", 1)]
        assert (found.total.requests, found.has_more) == (4, True)
        await wholly_folded(db)


@pytest.mark.parametrize(
    ("question", "elsewhere"),
    [
        (Question(ONE_DAY, "day", "user", "shop", environment=None, limit=1), {"environment": "test"}),
        (Question(ONE_DAY, "day", "user", limit=1), {"project": "bank"}),
        (Question(WEEK, "total", "user", "shop", limit=1), {"started_at": MIDNIGHT + DAY}),
    ],
)
async def test_who_spent_most_in_several_lines_of_the_sums_comes_first(
    db: Database, question: Question, elsewhere: dict[str, Any]
) -> None:
    await keep(db, *(row(number, user_id=f"user{number}", cost_pico=9 - number) for number in range(3)))
    await keep(db, row(4, user_id="ada", cost_pico=6), row(5, user_id="ada", cost_pico=6, **elsewhere))
    for _ in range(2):
        found = await ask(db, question)
        assert [(line.value, line.cost_pico) for line in found.lines] == [("ada", 12)]
        assert (found.total.cost_pico, found.has_more) == (36, True)
        await wholly_folded(db)


async def figures_now(db: Database) -> tuple[int, int]:
    """Requests and pico-dollars of everything."""
    _, found = await answered(db, Question(WEEK, "total"))
    return found[0], found[4]


async def test_a_row_that_is_stored_twice_counts_once_whether_or_not_it_was_summed_between(db: Database) -> None:
    for between in (False, True):
        await keep(db, row(1, cost_pico=5))
        if between:
            await wholly_folded(db)
        await keep(db, row(1, cost_pico=5))
        assert await figures_now(db) == (1, 5)
        assert (await db.read_logs("SELECT count(*) FROM analytics_changes"))[0][0] == 0


async def test_a_row_that_changes_after_it_was_summed_moves_all_of_its_figures(db: Database) -> None:
    await keep(db, row(1, cost_pico=5))
    await wholly_folded(db)
    await keep(db, row(1, cost_pico=7, project="bank", started_at=MIDNIGHT + DAY))
    for _ in range(2):
        expected = {(MIDNIGHT + DAY, "bank"): (1, 0, 10, 5, 7, 0, 0, 0, 0, 1)}
        assert (await answered(db, Question(WEEK, "day", "project")))[0] == expected
        await wholly_folded(db)


async def test_what_was_deleted_stays_counted_and_what_gets_its_place_counts_too(db: Database) -> None:
    """SQLite gives a position again when the last rows are gone."""
    await keep(db, row(1, cost_pico=1), row(2, cost_pico=2))
    await wholly_folded(db)
    await run(db, "DELETE FROM generations")
    assert await figures_now(db) == (2, 3)
    await keep(db, row(3, cost_pico=4))
    assert await figures_now(db) == (3, 7)
    await run(db, "DELETE FROM generations")
    assert await figures_now(db) == (3, 7), "it had not been summed"
    await keep(db, row(4, cost_pico=8))
    await wholly_folded(db)
    assert await figures_now(db) == (4, 15)


async def test_money_beyond_64_bits_and_tokens_that_nobody_can_have_used_stop_nothing(db: Database) -> None:
    most = 2**63 - 1
    await keep(db, *(row(number, cost_pico=most, saved_pico=most, input_tokens=most) for number in range(100)))
    for _ in range(2):
        _, found = await answered(db, Question(WEEK, "total"))
        assert (found[2], found[4], found[5]) == (100 * 10**12, 100 * most, 100 * most)
        await wholly_folded(db)


async def test_values_of_metadata_that_differ_only_in_kind_are_told_apart(db: Database) -> None:
    values = (1, True, "true", "1", None, "null", "", [1], {"a": 1})
    await keep(db, *(row(number, metadata={"team": value}) for number, value in enumerate(values)))
    for _ in range(2):
        lines, _total = await answered(db, Question(WEEK, "total", "metadata.team"))
        assert {value: found[0] for (_, value), found in lines.items()} == {
            "1": 2, "true": 2, "null": 2, None: 1, "[1]": 1, '{"a":1}': 1,
        }  # fmt: skip
        await wholly_folded(db)


async def test_a_row_counts_in_the_second_it_began_in(db: Database) -> None:
    await keep(db, row(1, started_at=MIDNIGHT - 0.0001))
    for _ in range(2):
        lines, _ = await answered(db, Question(WEEK, "hour"))
        assert [start for start, _ in lines] == [MIDNIGHT - 3600]
        await wholly_folded(db)


async def test_weeks_are_iso_weeks_and_periods_end_with_the_time_that_was_asked_for(db: Database) -> None:
    await keep(db, row(1, started_at=MIDNIGHT - 1), row(2, started_at=MIDNIGHT + 1), row(3, started_at=MIDNIGHT + DAY))
    found = await ask(db, Question(Span(MIDNIGHT - 6 * 3600, MIDNIGHT + 2 * DAY), "week"))
    spans = [(line.span, line.requests) for line in found.lines]
    assert spans == [(Span(MIDNIGHT - 6 * 3600, MIDNIGHT + DAY), 2), (Span(MIDNIGHT + DAY, MIDNIGHT + 2 * DAY), 1)]


async def test_a_log_that_was_there_before_is_summed_in_slices(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "SLICE", 7)
    await keep(db, *(row(number, cost_pico=number) for number in range(30)))
    taken = []
    write = db.write_logs

    async def counted(work: Any) -> Any:
        before = (await db.read_logs("SELECT position FROM analytics_state"))[0][0]
        await write(work)
        taken.append((await db.read_logs("SELECT position FROM analytics_state"))[0][0] - before)

    monkeypatch.setattr(db, "write_logs", counted)
    await fold.catch_up(db)
    assert taken == [7, 7, 7, 7]
    assert await figures_now(db) == (30, sum(range(30)))


async def test_the_most_expensive_values_come_first_and_the_total_has_all(db: Database) -> None:
    await keep(db, *(row(number, user_id=f"user{number % 5}", cost_pico=number) for number in range(20)))
    for _ in range(2):
        found = await ask(db, Question(WEEK, "day", "user", limit=2))
        assert [line.value for line in found.lines] == ["user4", "user3"]
        assert found.has_more
        assert (found.total.requests, found.total.cost_pico) == (20, sum(range(20)))
        await wholly_folded(db)


async def test_of_a_days_users_all_figures_are_looked_up_only_for_those_that_may_be_wanted(db: Database) -> None:
    """To sort those of 20,000 users takes several times as long as to read them."""
    question = Question(ONE_DAY, "day", "user", "shop")
    plan = await db.read_logs("EXPLAIN QUERY PLAN " + statement.figures(question), statement.values(question))
    read = [step["detail"] for step in plan if "analytics_user_days" in step["detail"]]
    day = "SEARCH analytics_user_days USING PRIMARY KEY (day=? AND project=? AND environment=?"
    assert sorted(read) == sorted((day + " AND user_id=?)", day + ")", day + ")")), "and read for the ranking and for the total"


async def test_what_takes_too_many_rows_is_refused_and_says_how_to_ask_for_less(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_ROWS", 3)
    await keep(db, *(row(number, user_id="ada") for number in range(4)))
    together = Question(WEEK, "total", "model", filters={"user_id": "ada"})
    with pytest.raises(InvalidRequest, match="these are 4 requests to add up one by one; at most 3") as refused:
        await ask(db, together)
    assert refused.value.param == "from"
    assert (await ask(db, Question(WEEK, "total", None, filters={"user_id": "ada"}))).total.requests == 4


async def test_the_view_of_days_holds_what_was_spent_in_each(db: Database) -> None:
    await keep(db, row(1, cost_pico=3 * 10**6 + 1), row(2, started_at=MIDNIGHT + DAY, cost_pico=None))
    for _ in range(2):
        sql = "SELECT day, sum(requests) AS n, sum(micro) AS micro, sum(rest) AS rest FROM spend_by_day GROUP BY day ORDER BY day"
        assert [tuple(line) for line in await db.read_logs(sql)] == [("2026-11-22", 1, 3, 1), ("2026-11-23", 1, 0, 0)]
        await wholly_folded(db)

"""The accounts of `spend_caps`: no cap is passed, every hold is settled once, and a process may die at any word it writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from thoroughness import examples

from muxx import Shared, SpendCap
from muxx.ids import RequestIds
from muxx_std.spend_caps.account import DAY_MS, month_of
from muxx_std.spend_caps.holds import Holds, NoRoom
from muxx_std.spend_caps.ledger import Reached, SpendLedger
from muxx_std.spend_caps.tally import Held

DAY = 20_786  # 29 November 2026
DAILY = SpendCap("day", 1_000)
MONTHLY = SpendCap("month", 2_500)
DEAD = 7 << 40
"""A process that is none: number 7 never began at moment 0."""

ids = RequestIds()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    made = Shared(tmp_path / "shared")
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def take(ledger: SpendLedger, pico: int, *caps: SpendCap, day: int = DAY, project: str = "p") -> Held | Reached:
    return ledger.hold(project, caps, day, ids.next(), pico)


def held_of(answer: Held | Reached) -> Held:
    assert isinstance(answer, Held)
    return answer


class TestHolding:
    def test_what_is_held_and_spent_is_never_more_than_a_cap(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        first, second = held_of(take(ledger, 400, DAILY)), held_of(take(ledger, 600, DAILY))
        assert take(ledger, 1, DAILY) == Reached(DAILY, 1_000)
        assert ledger.figures("p", DAY) == {"day": (0, 1_000), "month": (0, 1_000)}
        ledger.settle(first, 399)
        assert take(ledger, 2, DAILY) == Reached(DAILY, 999)
        third = held_of(take(ledger, 1, DAILY))
        ledger.settle(second, 600)
        ledger.settle(third, 1)
        assert ledger.figures("p", DAY) == {"day": (1_000, 0), "month": (1_000, 0)}

    def test_a_refused_request_holds_nothing(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        assert isinstance(take(ledger, 1_001, DAILY), Reached)
        assert ledger.figures("p", DAY) == {"day": (0, 0), "month": (0, 0)}
        assert ledger.abandoned() == {}

    def test_the_tightest_of_several_caps_binds(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        ledger.add("p", DAY - 1, 2_000)
        assert take(ledger, 501, DAILY, MONTHLY) == Reached(MONTHLY, 2_000)
        held_of(take(ledger, 500, DAILY, MONTHLY))

    def test_a_further_attempt_holds_the_difference(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        held = held_of(take(ledger, 400, DAILY))
        more = held_of(ledger.raise_to(held, [DAILY], 900))
        assert ledger.figures("p", DAY)["day"] == (0, 900)
        assert ledger.raise_to(more, [DAILY], 500) == more
        assert ledger.raise_to(more, [DAILY], 1_001) == Reached(DAILY, 900)
        ledger.settle(more, 7)
        assert ledger.figures("p", DAY)["day"] == (7, 0)

    def test_a_cap_that_is_new_knows_what_no_cap_waited_for(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        for day in (DAY, DAY + 1):
            held = ledger.holds.take(ledger.tally("p", day), ids.next())
            held.tally.settle_soon(held, 450)
        other = ledger.holds.take(ledger.tally("q", DAY), ids.next())
        other.tally.settle_soon(other, 7)
        assert ledger.figures("p", DAY)["day"] == (0, 0)
        assert take(ledger, 1_601, MONTHLY, day=DAY + 1) == Reached(MONTHLY, 900)
        assert take(ledger, 551, DAILY) == Reached(DAILY, 450)
        assert ledger.figures("q", DAY)["day"] == (0, 0)
        ledger.flush()
        assert ledger.figures("q", DAY)["day"] == (7, 0)

    def test_what_cannot_be_added_up_stays_held_and_the_next_is_due_anew(
        self, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = SpendLedger(shared)

        def over(project: str) -> bool:
            held = ledger.holds.take(ledger.tally(project, DAY), ids.next())
            return held.tally.settle_soon(held, 5)

        assert [over("p"), over("p"), over("q")] == [True, False, False]
        with monkeypatch.context() as patch:
            patch.setattr(ledger.table, "find", lambda *_: None)
            with pytest.raises(NoRoom):
                ledger.flush()
        assert [over("q"), over("p")] == [True, False]
        ledger.flush()
        assert [ledger.figures(name, DAY)["day"] for name in "pq"] == [(5, 0), (5, 0)]
        assert [len(holds) for _, _, holds in ledger.holds.blocks()] == [3]

    def test_a_place_says_whose_its_hold_is_whoever_had_it_before(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        for project, day, pico in (("p", DAY, 0), ("p", DAY, 5), ("q", DAY, 0), ("q", DAY + 1, 9), ("p", DAY + 1, 0)):
            request = ids.next()
            if pico:
                held = held_of(ledger.hold(project, [MONTHLY], day, request, pico))
            else:
                held = ledger.holds.take(ledger.tally(project, day), request)
            found = ledger.holds.read(held.at)
            assert (found.request_id, found.day, found.pico) == (request, day, pico)
            assert found.key == ledger.account(project).words
            if pico:
                ledger.settle(held, pico)
            else:
                held.tally.settle_soon(held, 1)
                ledger.flush()
            assert [holds for _, _, holds in ledger.holds.blocks()] == [[]]
        assert ledger.figures("p", DAY)["month"] == (7, 0)
        assert ledger.figures("q", DAY + 1) == {"day": (9, 0), "month": (10, 0)}

    def test_projects_have_accounts_of_their_own(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        ledger.settle(held_of(take(ledger, 1_000, DAILY)), 1_000)
        assert isinstance(take(ledger, 1_000, DAILY, project="q"), Held)

    def test_another_process_sees_the_same(self, tmp_path: Path) -> None:
        mine, others = Shared(tmp_path / "shared"), Shared(tmp_path / "shared")
        try:
            held_of(take(SpendLedger(mine), 999, DAILY))
            assert take(SpendLedger(others), 2, DAILY) == Reached(DAILY, 999)
        finally:
            mine.close()
            others.close()

    def test_sums_go_up_to_nine_million_dollars(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        most = 2**62 - 1
        ledger.settle(held_of(take(ledger, 0)), most)
        ledger.settle(held_of(take(ledger, 0)), most)
        assert ledger.figures("p", DAY)["day"] == (2 * most, 0)

    def test_holds_grow_by_blocks_and_are_told_when_there_is_no_room(
        self, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("muxx_std.spend_caps.holds.BLOCKS", 16)
        monkeypatch.setattr("muxx_std.spend_caps.holds.MOST_TABLES", 2)
        ledger, cap = SpendLedger(shared), SpendCap("day", 5_000)
        held = [held_of(take(ledger, 1, cap)) for _ in range(2 * 16 * 84)]
        with pytest.raises(NoRoom):
            take(ledger, 1)
        ledger.settle(held.pop(), 1)
        held.append(held_of(take(ledger, 0)))
        assert ledger.figures("p", DAY)["day"] == (1, 2 * 16 * 84 - 1)

    def test_closing_gives_the_blocks_back(self, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("muxx_std.spend_caps.holds.BLOCKS", 16)
        monkeypatch.setattr("muxx_std.spend_caps.holds.MOST_TABLES", 1)
        for _ in range(40):
            ledger = SpendLedger(shared)
            ledger.settle(held_of(take(ledger, 1)), 1)
            ledger.holds.close()


class TestWindows:
    def test_a_new_day_begins_with_nothing_and_the_month_goes_on(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        ledger.settle(held_of(take(ledger, 1_000, DAILY)), 1_000)
        ledger.settle(held_of(take(ledger, 1_000, DAILY, day=DAY + 1)), 1_000)
        assert ledger.figures("p", DAY + 1) == {"day": (1_000, 0), "month": (2_000, 0)}
        assert month_of(DAY + 2) == month_of(DAY) + 1
        held_of(take(ledger, 1_000, DAILY, MONTHLY, day=DAY + 2))
        assert ledger.figures("p", DAY + 2) == {"day": (0, 1_000), "month": (0, 1_000)}

    def test_a_request_over_midnight_counts_where_it_began(self, shared: Shared) -> None:
        ledger = SpendLedger(shared)
        held = held_of(take(ledger, 1_000, DAILY))
        held_of(take(ledger, 1_000, DAILY, day=DAY + 1))
        ledger.settle(held, 600)
        assert ledger.figures("p", DAY)["day"] == (600, 0)
        assert ledger.figures("p", DAY + 1) == {"day": (0, 1_000), "month": (600, 1_000)}

    def test_a_clock_that_is_set_back_opens_no_window_again(self, shared: Shared) -> None:
        clock = Clock()
        ledger = SpendLedger(shared, clock)
        ledger.settle(held_of(take(ledger, 1_000, DAILY, day=DAY + 1)), 1_000)
        clock.ms += DAY_MS - 1
        assert ledger.day_for("p", DAY) == DAY + 1
        clock.ms += 1
        assert ledger.day_for("p", DAY) == DAY

    @pytest.mark.parametrize("ahead", [1, 30, 365])
    def test_what_was_spent_is_still_known_when_a_wrong_clock_is_mended(self, shared: Shared, ahead: int) -> None:
        clock = Clock()
        ledger = SpendLedger(shared, clock)
        ledger.settle(held_of(take(ledger, 700, DAILY)), 700)
        ledger.settle(held_of(take(ledger, 100, DAILY, day=DAY + ahead)), 100)
        clock.ms += DAY_MS
        assert ledger.day_for("p", DAY) == DAY
        assert take(ledger, 301, DAILY) == Reached(DAILY, 700)
        assert ledger.figures("p", DAY)["month"] == (800 if month_of(DAY + ahead) == month_of(DAY) else 700, 0)


class TestTheDead:
    def left_by_a_dead_process(self, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> SpendLedger:
        monkeypatch.setattr("muxx_std.spend_caps.holds.this_process", lambda: DEAD)
        return SpendLedger(shared)

    def test_a_hold_of_the_dead_stays_until_its_request_is_known(
        self, shared: Shared, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead = self.left_by_a_dead_process(shared, monkeypatch)
        first, second = ids.next(), ids.next()
        dead.hold("p", [DAILY], DAY, first, 300)
        dead.hold("p", [DAILY], DAY, second, 500)
        monkeypatch.undo()
        ledger = SpendLedger(shared)
        (block,) = ledger.abandoned()
        ledger.settle_abandoned(block, {first: 299})
        assert ledger.figures("p", DAY)["day"] == (299, 500)
        ledger.settle_abandoned(block, {first: 299, second: 1})
        assert ledger.figures("p", DAY)["day"] == (300, 0)
        assert ledger.abandoned() == {}

    def test_two_who_find_it_settle_it_once(self, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
        dead, request = self.left_by_a_dead_process(shared, monkeypatch), ids.next()
        dead.hold("p", [DAILY], DAY, request, 300)
        monkeypatch.undo()
        ledgers = [SpendLedger(shared), SpendLedger(shared)]
        found = [ledger.abandoned() for ledger in ledgers]
        for ledger, (block,) in zip(ledgers, found, strict=True):
            ledger.settle_abandoned(block, {request: 200})
        assert ledgers[0].figures("p", DAY)["day"] == (200, 0)

    def test_many_that_are_over_are_settled_at_a_stroke_or_not_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(1, 200):
            shared = Shared(tmp_path / f"many{n}")
            monkeypatch.setattr("muxx_std.spend_caps.holds.this_process", lambda: DEAD)
            dying = SpendLedger(shared)
            held = [dying.holds.take(dying.tally("p", DAY), ids.next()) for _ in range(5)]
            first = [one.tally.settle_soon(one, 7) for one in held]
            assert first == [True, False, False, False, False]
            dies, died = _Dying(dying, n), False
            try:
                dying.flush()
            except _Killed:
                died = True
            dies.stop()
            monkeypatch.undo()
            ledger = SpendLedger(shared)
            for block, holds in ledger.abandoned().items():
                ledger.settle_abandoned(block, {hold.request_id: 7 for hold in holds})
            assert ledger.figures("p", DAY) == {"day": (35, 0), "month": (35, 0)}, n
            shared.close()
            if not died:
                return
        pytest.fail("it never came to the end")

    def test_what_the_dead_had_begun_is_done_before_others_get_their_places(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where all of it was done but for the word that says so: done again later, it would end a hold of somebody else."""
        for n in range(1, 200):
            shared = Shared(tmp_path / f"begun{n}")
            monkeypatch.setattr("muxx_std.spend_caps.holds.this_process", lambda: DEAD)
            dying, died, request = SpendLedger(shared), False, ids.next()
            held = held_of(dying.hold("p", [DAILY], DAY, request, 300))
            dies = _Dying(dying, n)
            try:
                dying.settle(held, 250)
            except _Killed:
                died = True
            dies.stop()
            monkeypatch.undo()
            ledger = SpendLedger(shared)
            for block in ledger.abandoned():
                ledger.settle_abandoned(block, {request: 250})
            assert ledger.abandoned() == {}
            other = held_of(take(ledger, 100, DAILY, project="other"))
            held_of(take(ledger, 0, DAILY))
            assert ledger.holds.read(other.at).pico == 100, n
            assert [len(holds) for _, _, holds in ledger.holds.blocks()] == [2], n
            shared.close()
            if not died:
                return
        pytest.fail("it never came to the end")

    def test_what_was_open_when_the_host_went_down_is_held_for_nobody(self, shared: Shared) -> None:
        ledger, request = SpendLedger(shared), ids.next()
        ledger.leave_open("p", DAY, request, 40)
        assert ledger.figures("p", DAY)["day"] == (0, 40)
        (block,) = ledger.abandoned()
        ledger.settle_abandoned(block, {request: 41})
        assert ledger.figures("p", DAY) == {"day": (41, 0), "month": (41, 0)}

    def test_a_process_may_die_at_any_word_it_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The process is killed before its nth write to the tables, for every n: whatever it had done is done whole or not at
        all, and once its request's row is known everything adds up."""
        for n in range(1, 200):
            shared = Shared(tmp_path / f"shared{n}")
            monkeypatch.setattr("muxx_std.spend_caps.holds.this_process", lambda: DEAD)
            dying = SpendLedger(shared)
            dying.settle(held_of(take(dying, 5, DAILY)), 5)
            dies = _Dying(dying, n)
            request, settled = ids.next(), False
            try:
                held = held_of(dying.hold("p", [DAILY], DAY, request, 300))
                dying.settle(held, 250)
                settled = True
            except _Killed:
                pass
            dies.stop()
            monkeypatch.undo()
            ledger = SpendLedger(shared)
            held_of(take(ledger, 0, DAILY, project="p"))  # whoever comes next does what was left to do
            for block, holds in ledger.abandoned().items():
                spent, held_now = ledger.figures("p", DAY)["day"]
                assert (spent, held_now) in {(5, 300), (5, 0), (255, 0)}, n
                ledger.settle_abandoned(block, {hold.request_id: 250 for hold in holds})
            spent, held_now = ledger.figures("p", DAY)["day"]
            assert spent in (5, 255), n  # 5: it died before there was a hold, so nothing was sent
            assert ledger.figures("p", DAY)["month"] == (spent, held_now)
            assert held_now == 0, n
            shared.close()
            if settled:
                return
        pytest.fail("it never came to the end")


class _Killed(BaseException):
    """The process is dead."""


class _Dying:
    """Memory in which the nth write is never made, nor any after it."""

    def __init__(self, ledger: SpendLedger, n: int) -> None:
        self.left = n
        self._ledger = ledger
        self._counters = [ledger.holds._table(0)]
        ledger.accounts._table = self._wrapped(ledger.table.table)
        self._places = ledger.holds._free
        self._wrap_holds(self._wrapped(self._counters[0].table))

    def _wrap_holds(self, table: Any) -> None:
        self._ledger.holds._tables[0] = SimpleNamespace(table=table)  # type: ignore[call-overload]
        for held in self._places:
            held.table = table

    def _wrapped(self, view: memoryview) -> Any:
        dying = self

        class View:
            def __getitem__(self, index: Any) -> Any:
                return view[index]

            def __setitem__(self, index: int, value: int) -> None:
                dying.left -= 1
                if dying.left <= 0:
                    raise _Killed
                view[index] = value

        return View()

    def stop(self) -> None:
        self._ledger.accounts._table = self._ledger.table.table
        self._ledger.holds._tables = self._counters


class Money(RuleBasedStateMachine):
    """Any order of holds, further attempts, settlements, deaths, days and clocks, by two processes: a plain sum says the same."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(os.environ.get("TMPDIR", "/tmp")) / f"muxx-money-{os.getpid()}-{id(self)}"
        self.shared = [Shared(self.path), Shared(self.path)]
        self.clock = Clock()
        self.ledgers = [SpendLedger(shared, self.clock) for shared in self.shared]
        self.day = DAY
        self.open: list[tuple[SpendLedger, Held]] = []
        self.spent: dict[int, int] = {}

    @rule(who=st.sampled_from([0, 1]), pico=st.integers(0, 600))
    def hold(self, who: int, pico: int) -> None:
        ledger = self.ledgers[who]
        day = ledger.day_for("p", self.day)
        answer = take(ledger, pico, DAILY, MONTHLY, day=day)
        month = [known for known in self.spent if month_of(known) == month_of(day)]
        in_day = self.spent.get(day, 0) + sum(held.pico for _, held in self.open if held.tally.day == day)
        in_month = sum(self.spent[known] for known in month)
        in_month += sum(held.pico for _, held in self.open if month_of(held.tally.day) == month_of(day))
        assert isinstance(answer, Held) == (in_day + pico <= DAILY.usd_pico and in_month + pico <= MONTHLY.usd_pico)
        if isinstance(answer, Held):
            self.open.append((ledger, answer))

    @rule(data=st.data(), more=st.integers(0, 300))
    def further_attempt(self, data: st.DataObject, more: int) -> None:
        if self.open:
            index = data.draw(st.integers(0, len(self.open) - 1))
            ledger, held = self.open[index]
            answer = ledger.raise_to(held, [DAILY, MONTHLY], held.pico + more)
            if isinstance(answer, Held):
                self.open[index] = (ledger, answer)

    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        if self.open:
            ledger, held = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            pico = int(held.pico * share)
            ledger.settle(held, pico)
            self.spent[held.tally.day] = self.spent.get(held.tally.day, 0) + pico

    @rule(days=st.sampled_from([-1, 0, 1, 1, 2]))
    def midnight_or_a_clock_that_jumps(self, days: int) -> None:
        self.day = max(self.day + days, DAY)
        self.clock.ms += 3_600_000

    @invariant()
    def no_window_is_above_its_cap(self) -> None:
        if hasattr(self, "ledgers"):
            for day in {held.tally.day for _, held in self.open} | {self.day}:
                figures = self.ledgers[0].figures("p", day)
                assert sum(figures["day"]) <= DAILY.usd_pico
                assert sum(figures["month"]) <= MONTHLY.usd_pico

    def teardown(self) -> None:
        if hasattr(self, "shared"):
            for shared in self.shared:
                shared.close()
            self.path.unlink()


TestMoney = Money.TestCase
TestMoney.settings = hypothesis_settings(max_examples=examples(40), stateful_step_count=30, deadline=None)


def test_a_hold_is_found_by_its_requests_id(shared: Shared) -> None:
    ledger, request = SpendLedger(shared), ids.next()
    held = ledger.holds.take(ledger.tally("p", DAY), request)
    hold = ledger.holds.read(held.at)
    assert (hold.request_id, hold.day, hold.pico, hold.key) == (request, DAY, 0, ledger.account("p").words)
    assert isinstance(ledger.holds, Holds)

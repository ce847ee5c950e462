"""What the plugin `limits` counts: no window ever holds more than its limit, whatever time and the clock on the wall do."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from journal_kit import kill, spawn
from thoroughness import examples

from muxx import Limits, lives, this_process
from muxx.shared import Shared
from muxx_std.limits import ledger, minute
from muxx_std.limits.day import DAY
from muxx_std.limits.ledger import Ledger
from muxx_std.limits.subject import Subject, Ticket

NOON = 20_000 * DAY + DAY // 2


class Clock:
    """Both clocks, in milliseconds; the one on the wall can be set."""

    def __init__(self) -> None:
        self.now = 5_000_000
        self.wall = NOON

    def pass_by(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.wall += milliseconds


class Counting:
    """A ledger of its own clock, over the file of others."""

    def __init__(self, path: Path, clock: Clock, limits: Limits) -> None:
        self.shared = Shared(path)
        self.clock = clock
        self.ledger = Ledger(self.shared, lambda: clock.now, lambda: clock.wall)
        self.limits = limits

    def subject(self, user: str | None = None, key: str | None = None, project: str = "p") -> Subject:
        found = self.ledger.subject(self.limits, project, user, key)
        assert found is not None
        return found

    def admit(self, tokens: int = 0, user: str | None = None, key: str | None = None, project: str = "p") -> Ticket | int:
        """The ticket, or how long to wait."""
        verdict = self.ledger.admit(self.subject(user, key, project), tokens)
        if verdict.ticket is not None and tokens:
            verdict = self.ledger.reserve(verdict.ticket, tokens)
        return verdict.ticket or verdict.wait

    def admitted(self, tokens: int = 0, **who: str) -> Ticket:
        found = self.admit(tokens, **who)
        assert isinstance(found, Ticket), found
        return found

    def waits(self, tokens: int = 0, **who: str) -> int:
        found = self.admit(tokens, **who)
        assert isinstance(found, int), found
        return found

    def used(self, user: str | None = None, key: str | None = None) -> dict[str, int]:
        return {standing.name: standing.used for standing in self.ledger.standings(self.subject(user, key))}


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MINUTE_RECORDS", "DAY_RECORDS", "KEY_RECORDS"):
        monkeypatch.setattr(ledger, name, 64)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    clock, made = Clock(), []

    def counting(**limits: int) -> Counting:
        made.append(Counting(tmp_path / "shared", clock, Limits(**limits)))
        return made[-1]

    yield counting
    for one in made:
        one.shared.close()


# ── a minute ──


def test_what_is_admitted_leaves_a_minute_after_it_came_and_not_before(make: Any) -> None:
    here = make(rpm=3)
    for _ in range(3):
        here.admitted()
        here.clock.pass_by(700)
    # The first came at 0, within one second with the second, at 700: they leave as one.
    wait = here.waits()
    assert wait == 60_701 - 2_100
    here.clock.pass_by(wait - 1)
    assert here.waits() == 1
    here.clock.pass_by(1)
    here.admitted()
    here.admitted()
    assert here.waits() == 700


def test_the_wait_is_never_more_than_a_minute(make: Any) -> None:
    here = make(rpm=1)
    here.admitted()
    assert here.waits() == 60_000


def test_time_that_goes_back_takes_nothing_back(make: Any) -> None:
    here = make(rpm=2)
    here.admitted()
    here.clock.now -= 3_000
    here.admitted()
    here.clock.now += 60_001
    assert here.waits() == 3_000
    here.clock.now += 3_000
    here.admitted()


def test_tokens_are_reserved_then_settled(make: Any) -> None:
    here = make(tpm=100)
    first = here.admitted(60)
    assert here.waits(41) == 60_000
    here.ledger.settle(first, 10)
    second = here.admitted(90)
    assert here.used() == {"tpm": 100}
    here.ledger.settle(second, 120)
    assert here.used() == {"tpm": 130}
    assert here.waits(1) == 60_000


def test_tokens_settled_a_minute_later_leave_with_their_second_and_more_than_reserved_counts_from_then(make: Any) -> None:
    here = make(tpm=100)
    ticket = here.admitted(60)
    here.clock.pass_by(90_000)
    here.ledger.settle(ticket, 70)
    assert here.used() == {"tpm": 10}


def test_what_is_given_back_after_its_minute_takes_nothing_from_another(make: Any) -> None:
    here = make(rpm=5, tpm=100)
    ticket = here.admitted(50)
    here.clock.pass_by(64_000)  # the same place in the ring
    here.admitted(30)
    here.ledger.settle(ticket, 0, counts=False)
    assert here.used() == {"rpm": 1, "tpm": 30}


def test_a_request_is_counted_in_all_that_limits_it_or_in_nothing(make: Any) -> None:
    here = make(rpm=10, user_rpm=1, rpd=10, key_in_flight=10)
    here.admitted(user="u", key="k")
    here.waits(user="u", key="k")
    here.admitted(user="v", key="k")
    assert here.used("u", "k") == {"rpm": 2, "user_rpm": 1, "rpd": 2, "key_in_flight": 2}


def test_users_projects_and_keys_have_counters_of_their_own(make: Any) -> None:
    here = make(user_rpm=1, rpm=3)
    here.admitted(user="u")
    here.admitted(user="v")
    here.waits(user="u")
    here.admitted()
    here.waits(user="w")
    here.admitted(user="u", project="q")


def test_a_refused_request_is_given_back(make: Any) -> None:
    here = make(rpm=1, rpd=1, tpm=10, key_in_flight=1)
    ticket = here.admitted(10, key="k")
    here.ledger.settle(ticket, 0, counts=False)
    assert set(here.used(key="k").values()) == {0}
    here.admitted(10, key="k")


def test_the_tightest_limit_of_requests_is_told(make: Any) -> None:
    here = make(rpm=10, rpd=5)
    verdict = here.ledger.admit(here.subject(), 0)
    assert (verdict.tightest.name, verdict.tightest.remaining) == ("rpd", 4)
    assert verdict.tightest.reset == (NOON // DAY + 1) * DAY
    here = make(rpm=2, rpd=5)
    here.admitted()
    here.waits()
    verdict = here.ledger.admit(here.subject(), 0)
    assert (verdict.tightest.name, verdict.tightest.remaining, verdict.tightest.reset) == ("rpm", 0, here.clock.wall + verdict.wait)


# ── a day ──


def test_a_day_ends_at_midnight_and_is_never_begun_twice(make: Any) -> None:
    here = make(rpd=1)
    here.admitted()
    assert here.waits() == DAY // 2
    here.clock.wall += DAY  # set forward: tomorrow has begun
    here.admitted()
    here.clock.wall -= DAY  # and back: it is still to come, and then to end
    assert here.waits() == DAY + DAY // 2
    here.clock.pass_by(DAY // 2)  # tomorrow, for the second time
    assert here.waits() == DAY
    here.clock.pass_by(DAY - 1)
    assert here.waits() == 1
    here.clock.pass_by(1)
    here.admitted()


def test_a_clock_that_was_wrong_by_a_year_holds_nobody_for_longer_than_a_day(make: Any) -> None:
    here = make(rpd=1)
    here.clock.wall += 365 * DAY
    here.admitted()
    here.clock.wall -= 365 * DAY
    assert here.waits() == DAY
    here.clock.pass_by(DAY)
    here.admitted()


# ── requests at a time ──


def test_a_key_has_so_many_requests_at_a_time(make: Any) -> None:
    here = make(key_in_flight=2)
    first = here.admitted(key="k")
    here.admitted(key="k")
    assert here.waits(key="k") == 1000
    here.admitted(key="other")
    here.ledger.settle(first, 0)
    here.admitted(key="k")


ADMIT = """
import sys
from muxx import Limits
from muxx.shared import Shared
from muxx_std.limits import ledger
for name in ("MINUTE_RECORDS", "DAY_RECORDS", "KEY_RECORDS"):
    setattr(ledger, name, 64)
limits = Limits(*map(int, sys.argv[2:9]))
here = ledger.Ledger(Shared(sys.argv[1]))
subject = here.subject(limits, "p", None, "k")
print("ready", flush=True)
sys.stdin.readline()
print(sum(here.admit(subject, 1).ticket is not None for _ in range(int(sys.argv[9]))), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_carried_counts_no_more(make: Any, tmp_path: Path) -> None:
    here = make(key_in_flight=2)
    process = spawn(ADMIT, tmp_path / "shared", *Limits(key_in_flight=2), 2)
    process.stdin.write("\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "2\n"]
    here.waits(key="k")
    kill(process)
    here.admitted(key="k")
    here.admitted(key="k")
    here.waits(key="k")


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    own = this_process()
    assert own >> 40 == os.getpid()
    assert lives(own)
    assert not lives(own + 1)
    assert not lives((2**22 + 1) << 40)


def test_a_process_without_a_free_file_descriptor_takes_nobody_for_dead() -> None:
    own = this_process()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/proc/self/stat", os.O_RDONLY)
        assert lives(own)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_processes_together_admit_exactly_what_is_allowed(tmp_path: Path) -> None:
    """Each would admit 1,000; a thousand is all they get, in whatever order, and a killed one takes no lock with it."""
    processes = [spawn(ADMIT, tmp_path / "shared", *Limits(rpm=1000, tpm=5000, rpd=1200), 1000) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    admitted = [int(process.stdout.readline()) for process in processes]
    for process in processes:
        kill(process)
    assert sum(admitted) == 1000


# ── a death in the middle ──


@pytest.mark.parametrize("writes", range(12))
def test_whoever_dies_while_counting_raises_no_limit(make: Any, writes: int) -> None:
    """After so many words written the process is gone; what it had counted before still counts."""

    class Dying:
        def __init__(self, table: memoryview) -> None:
            self.table, self.left = table, writes

        def __getitem__(self, at: Any) -> Any:
            return self.table[at]

        def __setitem__(self, at: int, word: int) -> None:
            if not self.left:
                raise SystemExit
            self.left -= 1
            self.table[at] = word

    here = make(rpm=5, tpm=50)
    here.admitted(10)
    here.clock.pass_by(2_000)
    table = here.ledger.minute_table
    at = table.find(here.subject().minutes[0].key, here.clock.now)
    dying = minute.Minutes(Dying(table.table))  # type: ignore[arg-type]
    try:
        dying.take(at, dying.look(at, here.clock.now)[0], 1, 10)
        died = False
    except SystemExit:
        died = True
    assert died == (writes < 7)
    used = here.used()
    assert used in ({"rpm": 1, "tpm": 10}, {"rpm": 2, "tpm": 20})
    here.clock.pass_by(58_002)
    assert here.used()["rpm"] == used["rpm"] - 1, "nothing stays for ever"
    here.clock.pass_by(2_000)
    assert here.used() == {"rpm": 0, "tpm": 0}


# ── room ──


def test_what_is_idle_makes_room_and_what_counts_does_not(make: Any) -> None:
    here = make(user_rpm=1)
    admitted = [isinstance(here.admit(user=str(number)), Ticket) for number in range(200)]
    assert 40 <= sum(admitted) <= 64, "the table holds 64"
    for number in itertools.compress(range(200), admitted):
        here.waits(user=str(number))
    here.clock.pass_by(61_001)
    assert sum(isinstance(here.admit(user=f"new {number}"), Ticket) for number in range(200)) >= 40


def test_what_a_request_is_counted_in_takes_no_place_of_one_another(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MINUTE_RECORDS", 16)
    monkeypatch.setattr(ledger, "DAY_RECORDS", 16)
    here = make(rpm=9, user_rpm=9, rpd=9, user_rpd=9)
    for user in "uv":
        here.admitted(user=user)
        assert here.used(user) == {"rpm": 1, "user_rpm": 1, "rpd": 1, "user_rpd": 1}
        here.clock.pass_by(2 * DAY)


def test_the_users_of_a_project_shut_out_no_other_project(make: Any) -> None:
    here = make(rpd=1000, rpm=1000, user_rpd=2, user_rpm=2)
    flood = []
    for number in range(500):
        flood.append(here.admit(user=f"invented {number}", project="loud"))
        here.clock.pass_by(1)
    assert ledger.UNKNOWN_WAIT in flood, "its own users have no more room"
    for _ in range(2):
        here.clock.pass_by(1)
        for number in range(3):
            here.admitted(user=f"user {number}", project="quiet")
    for number in range(3):
        assert here.waits(user=f"user {number}", project="quiet") > ledger.UNKNOWN_WAIT, "they are counted as ever"
    here.admit(user="invented again", project="loud")
    used = {standing.name: standing.used for standing in here.ledger.standings(here.subject(project="loud"))}
    assert used["rpd"] == used["rpm"] >= sum(isinstance(one, Ticket) for one in flood), "its own count has kept its place"


# ── any sequence ──


class Windows(RuleBasedStateMachine):
    """Two ledgers over one file, as two workers; time passes, and the clock on the wall is set as it likes."""

    path: Path
    numbers = itertools.count()

    @initialize(
        rpm=st.integers(0, 4), tpm=st.sampled_from([0, 30]), rpd=st.integers(0, 6), user=st.integers(0, 3), flying=st.integers(0, 3)
    )
    def begin(self, rpm: int, tpm: int, rpd: int, user: int, flying: int) -> None:
        limits = Limits(rpm, tpm, rpd, user, tpm // 2, user * 2, flying)
        self.limits = limits if any(limits) else Limits(rpm=1)
        self.clock = Clock()
        path = self.path / str(next(self.numbers))
        self.workers = [Counting(path, self.clock, self.limits) for _ in range(2)]
        self.running: list[tuple[Ticket, dict[str, Any]]] = []
        self.admitted: list[dict[str, Any]] = []

    @rule(worker=st.integers(0, 1), tokens=st.integers(0, 12), user=st.sampled_from(["u", "v"]), key=st.sampled_from("kl"))
    def admit(self, worker: int, tokens: int, user: str, key: str) -> None:
        found = self.workers[worker].admit(tokens, user, key)
        if isinstance(found, Ticket):
            days = {limit.name: day for limit, day in zip(found.subject.days, found.days, strict=True)}
            entry = {"at": self.clock.now, "days": days, "user": user, "key": key, "tokens": tokens, "running": True}
            self.admitted.append(entry)
            self.running.append((found, entry))
        else:
            assert found >= 1
            self._is_true(self.workers[worker], found, tokens, user, key)

    def _is_true(self, worker: Counting, wait: int, tokens: int, user: str, key: str) -> None:
        """A millisecond earlier it would be refused; then it would be admitted, or within the next one, for no wait is told that is
        longer than a minute; but for what ends nobody knows when.

        Who looks lets go of what is over by then, and time has never gone back so far: so it is put back as it was.
        """
        clock, ledger_ = vars(self.clock).copy(), worker.ledger
        tables = [counters.table for counters in (ledger_.minute_table, ledger_.day_table, ledger_.key_table)]
        kept = [bytes(table) for table in tables]
        for milliseconds, is_due in ((wait - 1, False), (wait, True)):
            self.clock.pass_by(milliseconds)
            subject = worker.subject(user, key)
            with subject.holding:
                found = ledger_._look(subject)
                assert found is not None
                blocked = ledger_._wait(subject, found, tokens)
            assert (blocked <= 1 if is_due else blocked) or ledger.UNKNOWN_WAIT in (wait, blocked)
            for table, words in zip(tables, kept, strict=True):
                table[:] = memoryview(words).cast("Q")
            vars(self.clock).update(clock)

    @rule(data=st.data(), share=st.floats(0, 1), counts=st.booleans())
    def settle(self, data: st.DataObject, share: float, counts: bool) -> None:
        if self.running:
            ticket, entry = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            used = int(entry["tokens"] * share) if counts else 0
            self.workers[0].ledger.settle(ticket, used, counts=counts)
            entry.update(tokens=used, running=False)
            if not counts:
                self.admitted.remove(entry)

    @rule(milliseconds=st.one_of(st.integers(0, 3_000), st.integers(0, 70_000), st.integers(0, 2 * DAY)))
    def advance(self, milliseconds: int) -> None:
        self.clock.pass_by(milliseconds)

    @rule(milliseconds=st.one_of(st.integers(-2 * DAY, 2 * DAY), st.integers(-3_600_000, 3_600_000)))
    def jump(self, milliseconds: int) -> None:
        self.clock.wall += milliseconds

    @invariant()
    def no_window_is_above_its_limit(self) -> None:
        if not hasattr(self, "limits"):
            return
        for end in {entry["at"] for entry in self.admitted}:
            window = [entry for entry in self.admitted if end - minute.MINUTE < entry["at"] <= end]
            self._within(window, self.limits.rpm, self.limits.tpm)
            for user in "uv":
                self._within([e for e in window if e["user"] == user], self.limits.user_rpm, self.limits.user_tpm)
        for key in "kl":
            running = sum(entry["running"] and entry["key"] == key for entry in self.admitted)
            assert not self.limits.key_in_flight or running <= self.limits.key_in_flight

    def _within(self, window: list[dict[str, Any]], requests: int, tokens: int) -> None:
        assert not requests or len(window) <= requests
        assert not tokens or sum(entry["tokens"] for entry in window) <= tokens

    @invariant()
    def no_day_is_above_its_limit(self) -> None:
        """Of a day in which requests are counted, as long as no whole day has really passed: with a clock that was set back they
        are counted in the day that had begun."""
        for entry in getattr(self, "admitted", ()):
            since = [e for e in self.admitted if 0 <= e["at"] - entry["at"] < DAY]
            for name, day in entry["days"].items():
                same = [e for e in since if e["days"][name] == day and (not name or e["user"] == entry["user"])]
                assert len(same) <= (self.limits.user_rpd if name else self.limits.rpd)

    def teardown(self) -> None:
        for worker in getattr(self, "workers", ()):
            worker.shared.close()


@pytest.mark.timeout(400)  # a failure is made smaller for up to five minutes; cut short it would look like chance
def test_no_sequence_of_anything_opens_a_window_above_its_limit(tmp_path: Path) -> None:
    Windows.path = tmp_path
    run_state_machine_as_test(
        Windows,
        settings=settings(
            max_examples=examples(60), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

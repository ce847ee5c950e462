"""What a gateway learns of its targets: when one is left alone, how often one is asked again, which key is whose turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxx.breaker import Breaker, Outcome
from muxx.budget import BURST, SHARE, RetryBudget
from muxx.health import REMEMBERED, Health
from muxx.keypool import EXHAUSTED_SECONDS, REFUSED_SECONDS, KeyPool
from muxx.targets import Provider, Target


def opened(failures: int = 3) -> Breaker:
    """One that opened at 0 s, for 5 s."""
    breaker = Breaker(failures, 5.0)
    for _ in range(failures):
        assert breaker.enter(0.0) == "call"
        breaker.leave("call", "failed", 0.0)
    return breaker


def test_it_opens_after_failures_in_a_row_and_for_its_time() -> None:
    breaker = opened()
    assert not breaker.closed
    assert breaker.enter(4.9) is None
    assert breaker.wait(3.0) == pytest.approx(2.0)
    assert breaker.enter(5.0) == "probe"


def test_an_answer_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(3, 5.0)
    for outcome in ("failed", "failed", "answered", "failed", "failed", "neither"):
        breaker.leave("call", outcome, 0.0)  # type: ignore[arg-type]
        assert breaker.closed
    breaker.leave("call", "failed", 0.0)
    assert not breaker.closed


@pytest.mark.parametrize(("outcome", "next_one"), [("answered", "call"), ("failed", None), ("neither", "probe")])
def test_only_one_probe_is_under_way_and_its_outcome_decides(outcome: Outcome, next_one: str | None) -> None:
    breaker = opened()
    assert breaker.enter(6.0) == "probe"
    assert breaker.enter(6.0) is None
    assert breaker.wait(6.0) >= 1
    breaker.leave("probe", outcome, 7.0)
    assert breaker.enter(7.0) == next_one
    assert outcome != "failed" or breaker.enter(12.0) == "probe"


@pytest.mark.parametrize("outcome", ["answered", "failed", "neither"])
def test_what_was_admitted_before_it_opened_has_no_say(outcome: Outcome) -> None:
    breaker = opened()
    breaker.leave("call", outcome, 1.0)
    assert breaker.enter(4.9) is None
    assert breaker.enter(5.0) == "probe"


def test_with_no_failures_allowed_it_is_off() -> None:
    breaker = Breaker(0, 5.0)
    for _ in range(100):
        breaker.leave("call", "failed", 0.0)
        assert breaker.enter(0.0) == "call"


Step = tuple[bool, Outcome, float]
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["answered", "failed", "neither"]), st.floats(0, 3)), max_size=60)


@given(STEPS)
def test_while_it_is_not_closed_at_most_one_call_is_admitted_at_a_time(steps: list[Step]) -> None:
    breaker, now = Breaker(2, 5.0), 0.0
    running: list[str] = []
    for comes, outcome, passed in steps:
        now += passed
        if comes and (admission := breaker.enter(now)) is not None:
            running.append(admission)
        elif running:
            breaker.leave(running.pop(0), outcome, now)  # type: ignore[arg-type]
        assert running.count("probe") <= 1
        assert breaker.closed or breaker.enter(now) != "call"


# ── the retry budget ──


@pytest.mark.parametrize("requests", [100, 150, 1000])
def test_under_a_full_outage_attempts_stay_within_a_fifth_more_than_requests(requests: int) -> None:
    budget, repeated = RetryBudget(), 0
    for _ in range(requests):
        budget.first()
        while budget.spend():
            repeated += 1
    assert 0 < repeated <= BURST + requests * SHARE <= 0.2 * requests


def test_a_repetition_that_was_answered_costs_nothing() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        assert budget.spend()
        budget.give_back()


# ── keys ──


def test_requests_take_turns_at_the_keys() -> None:
    pool = KeyPool(["a", "b", "c"])
    assert [pool.first(0.0) for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_a_refused_key_rests_and_comes_back() -> None:
    pool = KeyPool(["a", "b"])
    pool.refused("a", 401, None, 0.0)
    assert {pool.first(1.0) for _ in range(4)} == {"b"}
    assert {pool.first(REFUSED_SECONDS) for _ in range(4)} == {"a", "b"}


@pytest.mark.parametrize(("retry_after", "rest"), [(None, EXHAUSTED_SECONDS), (7.0, 7.0), (86400.0, REFUSED_SECONDS)])
def test_a_key_over_its_limit_rests_as_long_as_the_provider_says(retry_after: float | None, rest: float) -> None:
    pool = KeyPool(["a", "b"])
    pool.refused("a", 429, retry_after, 0.0)
    assert {pool.first(rest - 0.1) for _ in range(4)} == {"b"}
    assert {pool.first(rest) for _ in range(4)} == {"a", "b"}


def test_where_all_rest_the_one_that_rests_least_is_asked_and_no_other_after_it() -> None:
    pool = KeyPool(["a", "b"])
    pool.refused("a", 401, None, 0.0)
    pool.refused("b", 429, None, 0.0)
    assert pool.first(1.0) == "b"
    assert pool.another(1.0, ["b"]) is None


# ── what is kept ──


def test_what_is_remembered_of_names_that_clients_make_up_is_bounded() -> None:
    health, provider = Health(5, 5.0), Provider("p", "http://p.test")
    for number in range(REMEMBERED + 10):
        health.of(Target(provider, f"m{number}")).measured(1.0)
    assert health.first_byte(Target(provider, "m0")) is None
    assert health.first_byte(Target(provider, f"m{REMEMBERED}")) == 1.0


def test_names_that_clients_make_up_do_not_push_out_a_target_in_use() -> None:
    health, provider = Health(5, 5.0), Provider("p", "http://p.test")
    used = health.of(Target(provider, "in use"))
    for number in range(3 * REMEMBERED):
        health.of(Target(provider, f"m{number}"))
        if number % 1000 == 0:
            assert health.of(Target(provider, "in use")) is used


def test_places_in_flight_are_counted_by_provider() -> None:
    health, provider = Health(5, 5.0), Provider("p", "http://p.test", max_in_flight=2)
    assert [health.take_seat(provider) for _ in range(3)] == [True, True, False]
    health.leave_seat(provider)
    assert health.take_seat(provider)
    assert all(health.take_seat(Provider("free", "http://p.test")) for _ in range(9))

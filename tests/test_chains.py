"""Chains: in order, within their time, each crash the crash of the plugin that made it and of nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from muxx import Chunk, Cost, Identity, InvalidRequest, MuxxError, PluginError, RateLimited, Reply, ToolCall
from muxx.chains import SLOW_SECONDS, Budget, first_price, first_result, run_all, run_chunk, run_isolated, run_step
from muxx.plugins import Chain, Step
from muxx.sqlite import Connection, Writer

LONG = 30.0
CRASHES = [
    ValueError,
    AssertionError,
    StopIteration,
    asyncio.CancelledError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    TimeoutError,
]
SECRET = "what an exception says may be a secret"


def step(call: Callable[..., Any], name: str = "one", **options: Any) -> Step:
    return Step(name, call, asyncio.iscoroutinefunction(call), **options)


def chain(*calls: Callable[..., Any]) -> Chain:
    return tuple(step(call, f"p{number}") for number, call in enumerate(calls))


def crashing(error: type[BaseException], how: str) -> Callable[..., Any]:
    """A hook that raises `error`: plain, async, or async after it has suspended."""

    def plain(*_: Any) -> None:
        raise error(SECRET)

    async def at_once(*_: Any) -> None:
        raise error(SECRET)

    async def later(*_: Any) -> None:
        await asyncio.sleep(0)
        raise error(SECRET)

    return {"def": plain, "async def": at_once, "after an await": later}[how]


every_crash = pytest.mark.parametrize("error", CRASHES)
every_way = pytest.mark.parametrize("how", ["def", "async def", "after an await"])


async def hangs(*_: Any) -> None:
    await asyncio.Event().wait()


# ── order and results ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_result_wins_and_later_steps_do_not_run() -> None:
    ran: list[int] = []

    def saying(number: int, result: Any) -> Callable[..., Any]:
        def hook() -> Any:
            ran.append(number)
            return result

        async def later() -> Any:
            await asyncio.sleep(0)
            return hook()

        return later if number % 2 else hook

    steps = chain(saying(0, None), saying(1, None), saying(2, None), saying(3, "here"), saying(4, "never"))
    assert await first_result(steps, (), LONG, str) == "here"
    assert ran == [0, 1, 2, 3]


async def test_no_result_is_none() -> None:
    assert await first_result((), (), LONG, str) is None
    assert await first_result(chain(lambda: None), (), LONG, str) is None


@pytest.mark.parametrize("result", [True, "a reply", Chunk("text"), {"status": 200}])
async def test_a_result_of_another_kind_is_a_crash_that_names_the_plugin(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Passing it over would pass over the plugin's decision, and whatever stands behind it in the chain."""
    for kind in (Reply, Identity):
        with pytest.raises(PluginError):
            await first_result(chain(lambda: result), (), LONG, kind)
    assert caplog.text.count("plugin p0") == 2


@pytest.mark.parametrize("result", [True, False, "a reply"])
async def test_a_result_of_a_hook_that_has_none_is_a_crash_that_names_the_plugin(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    with pytest.raises(PluginError):
        await run_all(chain(lambda: result, lambda: ran.append("after")), (), LONG)
    assert f"plugin p0 failed in a hook: it returned a {type(result).__name__}, and this hook returns nothing" in caplog.text
    assert ran == []


@pytest.mark.parametrize("status", [200, 302, 399, 600, True, "403"])
async def test_a_refusal_with_a_status_of_no_error_is_a_crash_that_names_the_plugin(status: Any, caplog: pytest.LogCaptureFixture) -> None:
    def refuses() -> None:
        raise InvalidRequest(SECRET, status=status)

    with pytest.raises(PluginError):
        await run_all(chain(refuses), (), LONG)
    assert re.search(r"plugin p0 failed in a hook: StatusOfNoError at .*, called at test_chains\.py:\d+ in refuses", caplog.text)
    assert SECRET not in caplog.text


async def test_every_step_gets_the_arguments_as_they_are() -> None:
    thing = object()
    seen: list[Any] = []

    async def hook(*args: Any) -> None:
        seen.append(args)

    await run_all(chain(hook, lambda *args: seen.append(args)), (thing, 1), LONG)
    assert seen == [(thing, 1), (thing, 1)]


async def test_run_all_ends_with_the_first_refusal() -> None:
    ran: list[str] = []

    def refuses() -> None:
        raise RateLimited("Slow down.")

    with pytest.raises(RateLimited):
        await run_all(chain(lambda: ran.append("before"), refuses, lambda: ran.append("after")), (), LONG)
    assert ran == ["before"]


# ── refusals and crashes ────────────────────────────────────────────────────────────────────────────────────────────────────


@every_way
async def test_a_refusal_passes_through_as_the_very_error_it_was(how: str) -> None:
    error = InvalidRequest("Not so.", code="no_swearing", param="messages[0]")

    async def raises(later: bool) -> None:
        if later:
            await asyncio.sleep(0)
        raise error

    def plain(*_: Any) -> None:
        raise error

    hooks: dict[str, Callable[..., Any]] = {
        "def": plain,
        "async def": lambda *_: raises(False),
        "after an await": lambda *_: raises(True),
    }
    refusing = Step("p", hooks[how], how != "def", on_error="ignore")
    runs: list[Callable[[], Awaitable[Any]]] = [
        lambda: first_result((refusing,), (), LONG, Reply),
        lambda: run_all((refusing,), (), LONG),
        lambda: run_chunk((refusing,), (None, None), Chunk("end"), 9),
    ]
    for run in runs:
        with pytest.raises(InvalidRequest) as caught:
            await run()
        assert caught.value is error


@every_crash
@every_way
async def test_whatever_a_plugin_raises_is_that_plugins_crash(
    error: type[BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the server nor the exchange takes a plugin's CancelledError, SystemExit or KeyboardInterrupt for its own."""
    with pytest.raises(PluginError) as caught:
        await first_result(chain(crashing(error, how)), (), LONG, Reply)
    assert SECRET not in str(caught.value)
    with pytest.raises(PluginError):
        await run_all(chain(crashing(error, how)), (), LONG)
    assert "plugin p0 failed" in caplog.text
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_crash_that_came_of_a_task_leaves_that_task_and_its_next_work_alone(tmp_path: Path) -> None:
    """Such as a write that found the database locked, and those behind it."""
    writer = Writer(path := tmp_path / "some.db", busy_ms=100)

    async def write(db: Connection) -> None:
        await db.execute("CREATE TABLE IF NOT EXISTS written (one)")

    async def hook() -> None:
        await writer.run(write)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        crash = asyncio.create_task(run_all(chain(hook), (), LONG))
        behind = [asyncio.create_task(writer.run(write)) for _ in range(3)]
        with pytest.raises(PluginError):
            await crash
        other.execute("ROLLBACK")
        assert await asyncio.gather(*behind) == [None] * 3
        assert other.execute("SELECT count(*) FROM written").fetchall() == [(0,)]
    await writer.close()


@every_crash
@every_way
async def test_on_error_ignore_goes_on_as_if_the_plugin_had_said_nothing(
    error: type[BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    steps = (step(crashing(error, how), "shaky", on_error="ignore"), step(lambda: "next", "next"))
    assert await first_result(steps, (), LONG, str) == "next"
    assert "plugin shaky failed" in caplog.text


@every_crash
@every_way
async def test_observers_are_isolated_from_one_another(
    error: type[BaseException], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    await run_isolated(chain(lambda: ran.append("a"), crashing(error, how), lambda: ran.append("c")), (), LONG)
    assert ran == ["a", "c"]
    assert "plugin p1 failed" in caplog.text


async def test_an_observer_that_refuses_is_isolated_too(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def refuses() -> None:
        raise MuxxError()

    await run_isolated(chain(refuses, lambda: ran.append("b")), (), LONG)
    assert ran == ["b"]
    assert "plugin p0" in caplog.text


@pytest.mark.parametrize("how", ["async def", "after an await"])
async def test_being_cancelled_from_outside_is_not_the_plugins_doing(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does `on_error = "ignore"` keep a cancelled exchange alive."""
    task = asyncio.create_task(run_all((step(hangs, on_error="ignore"),), (), LONG))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.text == ""


async def test_a_plugin_that_swallows_its_cancellation_keeps_no_exchange_alive() -> None:
    async def swallows() -> str:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            pass
        return "as if nothing had happened"

    task = asyncio.create_task(first_result(chain(swallows), (), LONG, str))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_crash_names_its_place_but_not_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PluginError):
        await run_all(chain(crashing(ValueError, "def")), (), LONG)
    assert "ValueError at test_chains.py:" in caplog.text
    assert "in plain" in caplog.text


async def test_a_crash_within_a_library_names_the_plugins_own_line_too(caplog: pytest.LogCaptureFixture) -> None:
    def reads() -> None:
        json.loads("no JSON")

    with pytest.raises(PluginError):
        await run_all(chain(reads), (), LONG)
    line = reads.__code__.co_firstlineno + 1
    assert re.search(rf"JSONDecodeError at decoder\.py:\d+ in raw_decode, called at test_chains\.py:{line} in reads$", caplog.messages[0])


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_step_that_hangs_is_cancelled_at_the_chains_limit(caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    cleaned: list[str] = []

    async def hook() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("up")

    with pytest.raises(PluginError):
        await run_all(chain(hook), (), 0.05)
    assert time.monotonic() - started < 2
    assert cleaned == ["up"]
    assert "plugin p0 failed in a hook: TimeoutError" in caplog.text


async def test_all_steps_share_one_limit() -> None:
    """Ten steps of a moment each do not get ten limits."""
    ran: list[int] = []

    def naps(number: int) -> Callable[..., Any]:
        async def hook() -> None:
            await asyncio.sleep(0.03)
            ran.append(number)

        return hook

    with pytest.raises(PluginError):
        await run_all(chain(*map(naps, range(10))), (), 0.1)
    assert 0 < len(ran) < 10


async def test_a_plugins_own_limit_is_shorter_but_never_longer() -> None:
    started = time.monotonic()
    with pytest.raises(PluginError):
        await run_all((step(hangs, timeout_s=0.03),), (), LONG)
    with pytest.raises(PluginError):
        await run_all((step(hangs, timeout_s=LONG),), (), 0.03)
    assert time.monotonic() - started < 2


async def test_a_hanging_step_that_may_be_ignored_leaves_no_time_but_still_its_turn_to_the_next() -> None:
    """A step that never suspends needs no time; one that does gets none of what the first used up."""
    ignorable = step(hangs, "slow", on_error="ignore")
    assert await first_result((ignorable, step(lambda: "quick", "quick")), (), 0.03, str) == "quick"

    async def late() -> str:
        await asyncio.sleep(0.05)
        return "late"

    with pytest.raises(PluginError):
        await first_result((ignorable, step(late, "late")), (), 0.03, str)


async def test_a_plugin_with_its_own_limit_leaves_the_rest_of_the_chains_time_to_the_next() -> None:
    async def late() -> str:
        await asyncio.sleep(0.05)
        return "late"

    slow = step(hangs, "slow", on_error="ignore", timeout_s=0.02)
    assert await first_result((slow, step(late, "late")), (), LONG, str) == "late"


async def test_observers_have_a_limit_each() -> None:
    ran: list[str] = []

    async def naps() -> None:
        await asyncio.sleep(0.06)
        ran.append("done")

    await run_isolated(chain(naps, hangs, naps), (), 0.1)
    assert ran == ["done", "done"]


async def test_a_step_that_never_suspends_costs_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quick() -> str:
        return "quick"

    def no_timer(*_: Any) -> None:
        raise AssertionError("a timer was made")

    monkeypatch.setattr(asyncio, "timeout_at", no_timer)
    assert await first_result(chain(quick), (), LONG, str) == "quick"


async def test_a_suspended_step_resumes_where_it_stood_with_what_it_waited_for() -> None:
    async def hook() -> list[str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, future.set_result, "waited")
        seen = [await future]
        async with asyncio.timeout(LONG):
            await asyncio.sleep(0)
            seen.append("slept")
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(LONG)
        except TimeoutError:
            seen.append("timed out by itself")
        seen.append(await asyncio.create_task(asyncio.sleep(0.001, "from a task")))
        return seen

    result = await first_result(chain(hook), (), LONG, list)
    assert result == ["waited", "slept", "timed out by itself", "from a task"]


async def test_a_plain_step_that_holds_the_loop_is_measured_and_named(caplog: pytest.LogCaptureFixture) -> None:
    await run_all(chain(lambda: None, lambda: time.sleep(SLOW_SECONDS + 0.02)), (), LONG)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "plugin p1 held the event loop for" in record.message
    assert "async def" in record.message


async def test_only_the_slow_one_of_several_is_named_and_for_its_own_time(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those that are slow only together, nor the time in which a step waits, nor what runs after the slow one."""
    part = SLOW_SECONDS / 2 + 0.01

    async def waits() -> None:
        await asyncio.sleep(SLOW_SECONDS + 0.02)

    def ignored() -> None:
        time.sleep(part)
        raise ValueError

    def slow() -> None:
        time.sleep(SLOW_SECONDS + 0.02)

    steps = chain(lambda: time.sleep(part), lambda: time.sleep(part), waits, lambda: None, lambda: time.sleep(part), slow, waits)
    await run_all((step(ignored, on_error="ignore"), *steps, step(ignored, on_error="ignore")), (), LONG)
    [record] = [record for record in caplog.records if "held the event loop" in record.message]
    assert "plugin p5 held the event loop for" in record.message
    assert float(record.message.partition(" ms")[0].rpartition(" ")[2]) < 1e3 * (SLOW_SECONDS + part)


async def test_a_slow_plain_step_is_named_when_it_crashes_too(caplog: pytest.LogCaptureFixture) -> None:
    def hook() -> None:
        time.sleep(SLOW_SECONDS + 0.02)
        raise ValueError

    with pytest.raises(PluginError):
        await run_all(chain(hook), (), LONG)
    assert "plugin p0 held the event loop for" in caplog.text


async def test_without_a_budget_a_step_may_take_as_long_as_it_wants() -> None:
    async def hook() -> str:
        await asyncio.sleep(0.01)
        return "done"

    assert await run_step(step(hook), (), None) == "done"
    assert await run_step(step(hook), (), Budget(LONG)) == "done"


# ── chunks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(chunk: Chunk, value: str) -> Chunk:
    return Chunk(chunk.kind, value)


def _of_chunk(call: Callable[..., Any], gateway: Any, exchange: Any, chunk: Chunk) -> Any:
    return call(chunk)


async def through(*calls: Callable[..., Any], chunk: Chunk | None = None, most: int = 1000) -> list[str]:
    """The texts the hooks make of one chunk; each hook is given the chunk alone."""
    steps = [Step(s.plugin, partial(_of_chunk, s.call), s.is_async, s.on_error) for s in chain(*calls)]
    chunks = await run_chunk(tuple(steps), (None, None), chunk or Chunk("text", "ab"), most)
    return [c.text for c in chunks]


async def test_none_leaves_the_very_chunk() -> None:
    chunk = Chunk("text", "as it was")
    [left] = await run_chunk(chain(lambda *_: None, lambda *args: [args[-1]]), (None, None), chunk, 1000)
    assert left is chunk


async def test_each_step_sees_what_the_one_before_let_through() -> None:
    def split(c: Chunk) -> list[Chunk]:
        return [text(c, letter) for letter in c.text]

    async def shout(c: Chunk) -> tuple[Chunk, ...]:
        return (text(c, c.text.upper()),)

    def drop_a(c: Chunk) -> Iterable[Chunk] | None:
        return [] if c.text == "A" else None

    assert await through(split, shout, drop_a) == ["B"]
    assert await through(drop_a, shout, split) == ["A", "B"]


async def test_what_is_dropped_is_seen_by_nobody_further_on() -> None:
    seen: list[Chunk] = []
    assert await through(lambda c: (), lambda c: seen.append(c)) == []
    assert seen == []


async def test_any_iterable_of_chunks_will_do() -> None:
    def generates(c: Chunk) -> Iterator[Chunk]:
        yield text(c, "x")
        yield text(c, "y")

    for hook in (
        generates,
        lambda c: iter([text(c, "x"), text(c, "y")]),
        lambda c: {"x": text(c, "x"), "y": text(c, "y")}.values(),
    ):
        assert await through(hook) == ["x", "y"]


@pytest.mark.parametrize(
    "result", ["a string", b"bytes", Chunk("text", "x"), 7, ["a string"], [None], [Chunk("text"), b"x"], object()]
)
async def test_anything_else_is_a_crash_that_names_the_plugin(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS P03."""
    with pytest.raises(PluginError):
        await through(lambda c: result)
    assert "plugin p0" in caplog.text


async def test_more_than_the_largest_event_is_a_crash() -> None:
    """FAULTS P03: what a plugin returns is bounded, as the provider's events are."""
    assert await through(lambda c: [text(c, "x" * 10)] * 10, most=200) == ["x" * 10] * 10
    with pytest.raises(PluginError):
        await through(lambda c: [text(c, "x" * 10)] * 20, most=200)
    with pytest.raises(PluginError):
        await through(lambda c: [Chunk("tool_call", tool_call=ToolCall(0, arguments="x" * 200))], most=200)


async def test_an_endless_generator_is_stopped_at_the_limit() -> None:
    def endless(c: Chunk) -> Iterator[Chunk]:
        while True:
            yield text(c, "x" * 10)

    with pytest.raises(PluginError):
        await through(endless, most=100)


async def test_an_endless_generator_of_empty_chunks_is_stopped_too() -> None:
    def endless(c: Chunk) -> Iterator[Chunk]:
        while True:
            yield Chunk("text")

    with pytest.raises(PluginError):
        await through(endless, most=100)


@pytest.mark.parametrize("error", [error for error in CRASHES if error not in (GeneratorExit, StopIteration)])
async def test_a_generator_that_raises_is_the_plugins_crash(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def breaks(c: Chunk) -> Iterator[Chunk]:
        yield c
        raise error(SECRET)

    with pytest.raises(PluginError):
        await through(breaks)
    assert "plugin p0" in caplog.text
    assert SECRET not in caplog.text


async def test_a_generator_may_refuse() -> None:
    def refuses(c: Chunk) -> Iterator[Chunk]:
        yield c
        raise InvalidRequest("No.", code="blocked")

    with pytest.raises(InvalidRequest, match=r"No\."):
        await through(refuses)


async def test_a_chunk_hook_that_may_be_ignored_leaves_the_chunk() -> None:
    shaky = step(crashing(ValueError, "def"), on_error="ignore")
    assert [c.text for c in await run_chunk((shaky,), (None, None), Chunk("text", "kept"), 100)] == ["kept"]


@pytest.mark.parametrize("result", ["a string", [None]])
async def test_a_wrong_result_that_may_be_ignored_leaves_the_chunk(result: Any) -> None:
    shaky = step(lambda c: result, on_error="ignore")
    assert [c.text for c in await run_chunk((shaky,), (None, None), Chunk("text", "kept"), 100)] == ["kept"]


# ── price ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

COST = Cost(1, 2, "test")


def test_the_first_cost_wins() -> None:
    assert first_price(chain(lambda: None, lambda: COST, lambda: Cost(9, 9, "never")), ()) is COST
    assert first_price((), ()) is None


@every_crash
def test_a_crash_in_price_is_logged_and_means_not_known(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    assert first_price(chain(crashing(error, "def")), ()) is None
    assert first_price(chain(crashing(error, "def"), lambda: COST), ()) is COST
    assert caplog.text.count("plugin p0 failed in price") == 2
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "result",
    [0, 0.5, "0.10", True, Cost(0.5, 1, "x"), Cost(1, -1, "x"), Cost(-1, 9, "x"), Cost(2**62, 2**62, "x")],  # type: ignore[arg-type]
)
def test_a_price_that_is_no_cost_is_not_known(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert first_price(chain(lambda: result), ()) is None
    assert "plugin p0" in caplog.text

"""FAULTS P02: a hook hangs or blocks. It is cancelled or named, `on_error` decides, and the others continue."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import error_code, serving
from hooks_kit import Seen, both_forms, delivered, plugin_config, watching
from process_kit import BROKEN, Upstream, gateway_process, messages, rows

from muxx import Chunk, Exchange, Gateway, Reply, hookimpl
from muxx.testing import eventually
from muxx.watchdog import Pulse, Silence

pytestmark = pytest.mark.holds_the_loop

HELLO = [{"role": "user", "content": "Hello"}]


def hanging(hook: str) -> type:
    async def hangs(self: Any) -> None:
        await asyncio.Event().wait()

    return type("Hanging", (), {hook: hookimpl(hangs)})


@pytest.mark.parametrize("hook", ["authenticate", "pre_request", "pre_attempt"])
async def test_P02_a_hook_that_waits_for_ever_is_cancelled_at_the_limit(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(config=plugin_config(), plugins={"hanging": hanging(hook)}) as gateway:
        started = time.monotonic()
        response = await gateway.chat()
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert 0.1 < time.monotonic() - started < 3
    assert f"plugin hanging failed in {hook}: TimeoutError" in caplog.text


async def test_P02_on_error_decides_and_the_others_continue() -> None:
    """Also when the one after it has to wait for something: a plugin that may be ignored does not use up the whole limit."""
    seen = Seen()
    ran: list[str] = []

    class After:
        @hookimpl
        async def pre_request(self) -> None:
            await asyncio.sleep(0.01)
            ran.append("after")

    plugins = {"a": hanging("pre_request"), "b": After, "watching": watching(seen)}
    async with serving(config=plugin_config(a={"on_error": "ignore"}), plugins=plugins) as gateway:
        assert delivered(await gateway.chat()) == "Hello there."
    assert ran == ["after"]


async def test_P02_an_observer_that_hangs_holds_up_neither_client_nor_the_other_observers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    plugins = {"a": hanging("post_response"), "watching": watching(seen)}
    async with serving(config=plugin_config(), plugins=plugins) as gateway:
        started = time.monotonic()
        assert (await gateway.chat()).status == 200
        assert time.monotonic() - started < 2
        await eventually(lambda: seen.after)
    assert "plugin a failed" in caplog.text


def sleeps(*_: Any) -> None:
    time.sleep(0.3)


def loops(*_: Any) -> None:
    """A loop of bytecode, which gives other threads their turn."""
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass


def holds_the_gil(*_: Any) -> None:
    """One long step of C code: no other thread of the process runs meanwhile."""
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        sum(range(4_000_000))


def as_def(work: Callable[..., None]) -> Callable[..., Any]:
    return lambda self: work()


def as_async(work: Callable[..., None]) -> Callable[..., Any]:
    async def hook(self: Any) -> None:
        work()

    return hook


def after_waiting(work: Callable[..., None]) -> Callable[..., Any]:
    async def hook(self: Any) -> None:
        await asyncio.sleep(0)
        work()

    return hook


def when_cancelled(work: Callable[..., None]) -> Callable[..., Any]:
    async def hook(self: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            work()

    return hook


def as_generator(work: Callable[..., None]) -> Callable[..., Any]:
    def hook(self: Any, chunk: Chunk) -> Iterator[Chunk]:
        if chunk.kind == "end":
            work()
        yield chunk

    return hook


BLOCKING: dict[str, tuple[str, Callable[..., Any], int]] = {
    "def": ("pre_request", as_def(sleeps), 200),
    "a CPU loop": ("pre_request", as_def(loops), 200),
    "the GIL": ("pre_attempt", as_def(holds_the_gil), 200),
    "authenticate": ("authenticate", as_def(sleeps), 200),
    "price": ("price", as_def(sleeps), 200),
    "async def": ("pre_request", as_async(loops), 200),
    "async def, once it has waited": ("pre_request", after_waiting(loops), 200),
    "async def, at its limit": ("pre_request", when_cancelled(loops), 500),
    "a generator": ("on_chunk", as_generator(loops), 200),
    "an observer": ("post_response", after_waiting(holds_the_gil), 200),
}
"""Hook, what it does, and the status of the answer."""


@pytest.mark.parametrize("how", BLOCKING)
async def test_P02_a_hook_that_blocks_the_loop_is_measured_and_named(how: str, caplog: pytest.LogCaptureFixture) -> None:
    hook, blocks, status = BLOCKING[how]
    blocking = type("Blocking", (), {hook: hookimpl(specname=hook)(blocks)})
    async with serving(config=plugin_config(), plugins={"blocking": blocking}) as gateway:
        assert (await gateway.chat()).status == status
        await eventually(lambda: "plugin blocking held the event loop for " in caplog.text)
    [milliseconds] = re.findall(r"plugin blocking held the event loop for (\d+) ms", caplog.text)[:1]
    assert int(milliseconds) >= 300


async def test_P02_requests_that_came_meanwhile_are_answered_after_it() -> None:
    class Blocks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            if exchange.request.user_id == "slow":
                holds_the_gil()

    async with serving(plugins={"blocks": Blocks}) as gateway:
        users = ["slow", *map(str, range(9))]
        responses = await asyncio.gather(*(gateway.chat(headers={"X-Muxx-User-Id": user}) for user in users))
        assert [delivered(response) for response in responses] == ["Hello there."] * 10


class Deaf:
    """Coroutines that do not hear their cancellation, and the end of it, for a test's loop waits for every task."""

    over = False


@pytest.fixture(autouse=True)
def deafness_ends() -> Iterator[None]:
    Deaf.over = False
    yield
    Deaf.over = True


async def waits_again() -> None:
    while not Deaf.over:
        try:
            await asyncio.Event().wait()
        except BaseException:
            continue


async def polls() -> None:
    """It never waits for anything but its next turn."""
    while not Deaf.over:
        try:
            await asyncio.sleep(0)
        except BaseException:
            continue


async def hear_at_last() -> None:
    """Tasks that were left end now: that nobody asks what became of them is no complaint."""
    Deaf.over = True
    for task in asyncio.all_tasks():
        if "waits_again" in repr(task.get_coro()):
            task.cancel()
    await asyncio.sleep(0.01)


async def in_a_task() -> None:
    await asyncio.gather(waits_again())


async def cleans_up_for_ever() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()


DEAF = [waits_again, polls, in_a_task, cleans_up_for_ever]
each_deaf = pytest.mark.parametrize("deaf", DEAF, ids=lambda deaf: deaf.__name__)
left_to_python = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Which says of some of them, once nobody has them any more, that they did not let themselves be closed."""


def deaf_plugin(hook: str, deaf: Callable[[], Awaitable[None]]) -> type:
    async def hangs(self: Any) -> None:
        await deaf()

    return type("Deaf", (), {hook: hookimpl(specname=hook)(hangs)})


@left_to_python
@each_deaf
async def test_P02_a_hook_that_does_not_hear_its_cancellation_is_left(
    deaf: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(config=plugin_config(), plugins={"deaf": deaf_plugin("pre_request", deaf)}) as gateway:
        async with asyncio.timeout(5):
            response = await gateway.chat()
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert (await gateway.get_row(response.request_id))["error_code"] == "plugin_error"
        assert "plugin deaf goes on in pre_request although it was cancelled, and is left there" in caplog.text


@left_to_python
@each_deaf
async def test_P02_a_client_that_leaves_a_deaf_hook_has_its_row(deaf: Callable[[], Awaitable[None]]) -> None:
    async with serving(plugins={"deaf": deaf_plugin("on_chunk", deaf)}) as gateway:
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, {"model": "gpt-4o", "messages": HELLO})
            await eventually(lambda: gateway.upstream.requests)
        await eventually(lambda: not len(gateway.gateway.calls), 5.0)


@left_to_python
@pytest.mark.parametrize("deaf", [waits_again, in_a_task])
async def test_P02_what_answers_and_does_not_hear_its_cancellation_is_left(deaf: Callable[[], Awaitable[None]]) -> None:
    async def goes_on() -> AsyncIterator[Chunk]:
        yield Chunk("text", "Hello")
        await deaf()

    class Replies:
        @hookimpl
        def pre_request(self) -> Reply:
            return Reply(goes_on())

    async with serving(plugins={"replies": Replies}) as gateway:
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, {"model": "gpt-4o", "stream": True, "messages": HELLO})
            await client.readuntil(b"Hello")
        await eventually(lambda: not len(gateway.gateway.calls), 5.0)
        await hear_at_last()
        gc.collect()  # no generator is found half way, which asyncio would try to close
        await asyncio.sleep(0.01)


async def test_P02_a_job_that_does_not_hear_its_end_keeps_nobody_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    class Works:
        @hookimpl
        async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
            gateway.every(0.01, waits_again, name="deaf job")
            yield
            ended.append("works")

    async with serving(plugins={"works": Works}):
        await asyncio.sleep(0.05)
    Deaf.over = True
    assert ended == ["works"]
    assert "task deaf job goes on although it was cancelled, and is left" in caplog.text


async def test_P02_a_hook_may_take_its_time_to_clean_up_and_to_handle_its_own_timeouts(caplog: pytest.LogCaptureFixture) -> None:
    """What it gave itself a limit for has been cancelled too, which is nobody else's affair."""
    done: list[str] = []

    class Careful:
        @hookimpl
        async def pre_request(self) -> None:
            for _ in range(3):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asyncio.gather(asyncio.Event().wait())
            await asyncio.gather(asyncio.sleep(1.2))
            done.append("handled")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.1)
                done.append("cleaned up")

    async with serving(config={"server": {"chain_timeout_s": 2}}, plugins={"careful": Careful}) as gateway:
        assert error_code(await gateway.chat()) == "plugin_error"
    assert done == ["handled", "cleaned up"]
    assert "although it was cancelled" not in caplog.text


@both_forms
async def test_P02_a_chunk_hook_that_waits_for_ever_ends_with_the_whole_requests_time(stream: bool) -> None:
    """Chunk hooks are measured and not timed: a plugin may hold an answer back, but not for longer than an answer may take."""
    config = {"models": [{"name": "gpt-4o", "targets": [{"target": "openai/gpt-4o", "request_timeout_s": 0.5}]}]}
    async with serving(config=config, plugins={"hanging": hanging("on_chunk")}) as gateway:
        started = time.monotonic()
        response = await gateway.chat(stream=stream)
        assert 0.4 < time.monotonic() - started < 5
        assert "upstream_timeout" in response.text
        assert not response.done
        assert (await gateway.get_row(response.request_id))["error_code"] == "upstream_timeout"


def folder_with(tmp_path: Path, name: str, source: str) -> str:
    """A folder for MUXX_PLUGINS_DIR with this plugin."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / f"{name}.py").write_text(source)
    return str(plugins)


HANGS_IN_LIFESPAN = """
import asyncio

import muxx

class Hangs:
    @muxx.hookimpl
    async def lifespan(self, gateway):
        {before}
        yield
        {after}
"""
FOR_EVER = "await asyncio.sleep(3600)"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (FOR_EVER, "pass", "worker 0 does not end, and is killed"),
        ("pass", FOR_EVER, "plugin hangs does not end its lifespan, and is given up"),
        ("pass", "import time; time.sleep(3600)", "worker 0 does not end, and is killed"),
    ],
)
async def test_P02_a_lifespan_that_hangs_cannot_keep_the_service_from_ending_in_a_hurry(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    """Neither while it starts nor while it stops: the second signal is obeyed."""
    plugins = folder_with(tmp_path, "hangs", HANGS_IN_LIFESPAN.format(before=before, after=after))
    async with Upstream() as upstream:
        gateway = gateway_process(tmp_path, upstream, MUXX_PLUGINS_DIR=plugins)
        starting = asyncio.create_task(gateway.start())
        try:
            if before == FOR_EVER:
                await eventually(lambda: (tmp_path / "stderr.log").exists() and "muxx listens" in gateway.stderr, 20.0)
            else:
                await starting
                assert (await gateway.chat()).status == 200
            gateway.terminate()
            await asyncio.sleep(0.2)
            gateway.terminate()
            assert await gateway.wait(10.0) == 0
            assert said in messages(gateway)
        finally:
            await asyncio.gather(starting, return_exceptions=True)
            await gateway.kill()


HANGS_IN_A_HOOK = """
import muxx

class Hangs:
    @muxx.hookimpl
    def pre_request(self, exchange):
        while exchange.request.user_id == "hang":
            {hangs}
"""


@pytest.mark.parametrize(("hangs", "named"), [("pass", True), ("sum(range(10**12))", False)])
async def test_P02_a_worker_whose_loop_is_held_for_ever_is_replaced_and_who_held_it_is_named(
    hangs: str, named: bool, tmp_path: Path
) -> None:
    """One long step of C code lets no other thread look; the supervisor needs none."""
    plugins = folder_with(tmp_path, "hangs", HANGS_IN_A_HOOK.format(hangs=hangs))
    async with Upstream() as upstream:
        gateway = gateway_process(tmp_path, upstream, {"server": {"hung_worker_s": 4}}, MUXX_PLUGINS_DIR=plugins)
        await gateway.start()
        try:
            hung = asyncio.ensure_future(gateway.chat(headers={"X-Muxx-User-Id": "hang"}))
            await eventually(lambda: "is killed" in gateway.stderr, 20.0)
            with pytest.raises(BROKEN):
                await hung
            assert (await gateway.chat()).status == 200
            told = [line for line in messages(gateway).splitlines() if "held the event loop" in line or "is killed" in line]
            if named:
                said = told.pop(0)
                assert said.startswith("plugin hangs, in pre_request, at hangs.py:")
                assert said.endswith(" in pre_request, has held the event loop for 2 s and still does: nobody is served meanwhile")
            assert [line.partition(",")[0] for line in told] == ["worker 0 has done nothing for 4 s"]
        finally:
            await gateway.kill()


def test_P02_a_pulse_is_missed_by_who_listens_and_not_while_everything_stands_still() -> None:
    pulse = Pulse()
    silence = Silence(pulse)
    assert [silence.seconds(now) for now in (1.0, 2.0)] == [0.0, 0.0], "it never beat, so nobody waits for it"
    pulse.beat()
    assert [silence.seconds(now) for now in (3.0, 4.0, 5.5, 600.0)] == [0.0, 1.0, 2.5, 4.5]
    pulse.beat()
    assert [silence.seconds(now) for now in (601.0, 602.0)] == [0.0, 1.0]
    pulse.forget()
    assert silence.seconds(603.0) == 0.0


LEAVES_SOMETHING = """
import asyncio
import time

import muxx

async def deaf():
    while True:
        try:
            await asyncio.sleep(3600)
        except {heard}:
            pass

class Leaves:
    @muxx.hookimpl
    async def pre_request(self, exchange):
        self.task = asyncio.create_task({what})
        await asyncio.sleep(0)
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("deaf()", "running deaf at leaves.py:7, goes on although it was cancelled, and is left; let asyncio.CancelledError pass"),
        ("asyncio.to_thread(time.sleep, 60)", "threads of asyncio.to_thread still run (1), and are left"),
    ],
)
@pytest.mark.parametrize("heard", ["asyncio.CancelledError", "BaseException"])
async def test_P02_what_a_plugin_begins_by_itself_keeps_no_worker_from_its_end(
    what: str, said: str, heard: str, tmp_path: Path
) -> None:
    """Neither a task that does not hear its cancellation nor a thread, which cannot: both are named, and the row is there."""
    plugins = folder_with(tmp_path, "leaves", LEAVES_SOMETHING.format(what=what, heard=heard))
    async with Upstream() as upstream:
        gateway = gateway_process(tmp_path, upstream, MUXX_PLUGINS_DIR=plugins)
        await gateway.start()
        try:
            asked = await gateway.chat()
            assert asked.status == 200
            gateway.terminate()
            assert await gateway.wait(15.0) == 0
        finally:
            await gateway.kill()
    assert said in messages(gateway)
    assert "is killed" not in messages(gateway)
    assert set(rows(tmp_path)) == {asked.request_id}

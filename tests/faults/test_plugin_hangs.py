"""FAULTS P02: a hook hangs or blocks. It is cancelled or named, `on_error` decides, and the others continue."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import error_code, serving
from hooks_kit import Seen, both_forms, delivered, plugin_config, watching
from process_kit import Upstream, gateway_process, messages

from muxx import Chunk, Exchange, hookimpl
from muxx.testing import eventually


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
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "hangs.py").write_text(HANGS_IN_LIFESPAN.format(before=before, after=after))
    async with Upstream() as upstream:
        gateway = gateway_process(tmp_path, upstream, MUXX_PLUGINS_DIR=str(plugins))
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

"""Run the compiled chains of the request hooks.

What holds for every chain: steps run in order; a `MuxxError` is a refusal and passes through as it is; anything else a step raises is
a crash of that plugin, named in the log, shown to the client as `plugin_error` and nothing more (an exception's text may hold a secret).
A chain that asks questions has one time limit; a step that never suspends pays for no timer. Plain `def` steps cannot be
interrupted, so they are measured, and the slow one is named.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any

from .errors import MuxxError, PluginError
from .exchange import Chunk
from .plugins import Chain, Step

SLOW_SECONDS = 0.25
"""A plain `def` step that holds the event loop longer than this is named in the log."""

log = logging.getLogger("muxx.plugins")


class _Resumed:
    """A coroutine that has already run to its first suspension; awaiting it goes on from there."""

    __slots__ = ("_coroutine", "_pending")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], pending: Any) -> None:
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._pending
        while True:
            try:
                value = yield pending
            except BaseException as error:
                step = self._throw(error)
            else:
                step = self._send(value)
            if step[0]:
                return step[1]
            pending = step[1]

    def _send(self, value: Any) -> tuple[bool, Any]:
        try:
            return False, self._coroutine.send(value)
        except StopIteration as done:
            return True, done.value

    def _throw(self, error: BaseException) -> tuple[bool, Any]:
        try:
            return False, self._coroutine.throw(error)
        except StopIteration as done:
            return True, done.value


class Budget:
    """The time one chain has. Counting starts when a step first suspends."""

    __slots__ = ("_deadline", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline: float | None = None

    def deadline(self, now: float) -> float:
        if self._deadline is None:
            self._deadline = now + self.seconds
        return self._deadline


async def run_step(step: Step, args: tuple[Any, ...], budget: Budget | None) -> Any:
    """One step's result. Crashes become `PluginError`; with `on_error = "ignore"` they are logged and the result is None."""
    try:
        if not step.is_async:
            return _measured(step, args)
        coroutine = step.call(*args)
        try:
            pending = coroutine.send(None)
        except StopIteration as done:
            return done.value
        if budget is None:
            return await _Resumed(coroutine, pending)
        async with asyncio.timeout_at(_loop_deadline(step, budget)):
            return await _Resumed(coroutine, pending)
    except MuxxError:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0:
            raise  # the exchange itself was cancelled: not the plugin's doing
        log.error("plugin %s failed in a hook: %s", step.plugin, describe_crash(error))
        if step.on_error == "ignore":
            return None
        raise PluginError() from error


def _loop_deadline(step: Step, budget: Budget) -> float:
    now = asyncio.get_running_loop().time()
    deadline = budget.deadline(now)
    return deadline if step.timeout_s is None else min(deadline, now + step.timeout_s)


def _measured(step: Step, args: tuple[Any, ...]) -> Any:
    started = time.monotonic()
    try:
        return step.call(*args)
    finally:
        seconds = time.monotonic() - started
        if seconds > SLOW_SECONDS:
            log.warning("plugin %s held the event loop for %.0f ms; make its hook `async def` or cheaper", step.plugin, seconds * 1e3)


async def first_result(chain: Chain, args: tuple[Any, ...], seconds: float) -> Any:
    """The first result that is not None; later steps do not run. None when there is none."""
    budget = Budget(seconds)
    for step in chain:
        result = await run_step(step, args, budget)
        if result is not None:
            return result
    return None


async def run_all(chain: Chain, args: tuple[Any, ...], seconds: float) -> None:
    """Every step in order; the first refusal or crash ends it."""
    budget = Budget(seconds)
    for step in chain:
        await run_step(step, args, budget)


async def run_isolated(chain: Chain, args: tuple[Any, ...], seconds: float) -> None:
    """Every step, whatever the others do: for hooks that only observe."""
    for step in chain:
        try:
            await run_step(step, args, Budget(seconds))
        except MuxxError as error:
            log.error("plugin %s failed after the answer: %s", step.plugin, error.code)


async def run_chunk(chain: Chain, args: tuple[Any, Any], chunk: Chunk, most_bytes: int) -> list[Chunk]:
    """What the steps make of one chunk, each seeing what the one before let through."""
    chunks = [chunk]
    for step in chain:
        results: list[Chunk] = []
        for item in chunks:
            result = await run_step(step, (*args, item), None)
            results.extend([item] if result is None else _checked(step, result, most_bytes))
        chunks = results
    return chunks


def _checked(step: Step, result: Any, most_bytes: int) -> list[Chunk]:
    """What a chunk hook returned, or `PluginError` when it is not an iterable of Chunks of a sane size."""
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | Chunk):
        items = list(result)
        chunks = [item for item in items if isinstance(item, Chunk)]
        if len(chunks) == len(items) and sum(len(chunk.text) for chunk in chunks) <= most_bytes:
            return chunks
    log.error("plugin %s: on_chunk must return None or an iterable of Chunks of at most %d characters", step.plugin, most_bytes)
    raise PluginError()


def first_price(chain: Chain, args: tuple[Any, ...]) -> Any:
    """The first cost; a crash is logged and counts as not knowing."""
    for step in chain:
        try:
            cost = step.call(*args)
        except Exception as error:
            log.error("plugin %s failed in price: %s", step.plugin, describe_crash(error))
            continue
        if cost is not None:
            return cost
    return None


def describe_crash(error: BaseException) -> str:
    """The error's type and place, without its text, which may quote a secret."""
    place = _innermost(error.__traceback__)
    return f"{type(error).__name__}{place}"


def _innermost(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f" at {code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} in {code.co_name}"

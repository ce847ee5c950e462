"""Run the compiled chains of the request hooks.

What holds for every chain: steps run in order; a `MuxxError` is a refusal and passes through as it is; anything else a step
raises is a crash of that plugin, named in the log, shown to the client as `plugin_error` and nothing more (an exception's text
may hold a secret). A chain that asks questions has one time limit; a step that never suspends pays for no timer. Plain `def`
steps cannot be interrupted, so they are measured, and the slow one is named.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import iscoroutine
from time import monotonic
from typing import Any, TypeVar, get_args

from .crashes import crash_of, describe_crash, let_go_of_frames
from .driving import SLOW_SECONDS, Driven, measure
from .errors import MuxxError, PluginError
from .money import Cost, is_sum
from .plugins import Chain, Step
from .reply import Chunk, ChunkKind, Reply, ToolCall

T = TypeVar("T")

LATE_SECONDS = 10.0
"""A hook without a time limit that everything waits for is named in the log after so long."""

HELD_BACK_EVENTS = 4
"""How many times the largest event a hook may return in bytes of other events: an answer it held back comes with its own."""

KINDS = get_args(ChunkKind)

log = logging.getLogger("muxx.plugins")


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


def start_step(step: Step, args: tuple[Any, ...]) -> Any:
    """Run a step as far as it goes without waiting: its result, or a `Driven` to be given to `finish_step`.

    Crashes become `PluginError`; with `on_error = "ignore"` they are logged and the result is None.
    """
    started = monotonic()
    try:
        result = step.call(*args)
        if step.is_async:
            try:
                return Driven(step, result, result.send(None))
            except StopIteration as done:
                return done.value
        return result
    except MuxxError:
        raise
    except BaseException as error:
        return _failed(step, error)
    finally:
        if monotonic() - started > SLOW_SECONDS:
            measure(step, started)


async def finish_step(step: Step, waiting: Driven, budget: Budget | None) -> Any:
    """The result of a step that had to wait, within the chain's time."""
    try:
        if budget is None:
            result = await waiting
        else:
            async with asyncio.timeout_at(_loop_deadline(step, budget)):
                result = await waiting
        if is_unwanted():
            raise asyncio.CancelledError  # a plugin that swallows its cancellation keeps no exchange alive
        return result
    except MuxxError:
        raise
    except BaseException as error:
        return _failed(step, error)


async def run_step(step: Step, args: tuple[Any, ...], budget: Budget | None) -> Any:
    """One step's result, whether or not it has to wait."""
    result = start_step(step, args)
    return await finish_step(step, result, budget) if type(result) is Driven else result


def _failed(step: Step, error: BaseException) -> None:
    if _ends_the_task(error):
        raise error
    crashed(step, describe_crash(error), error)


def is_plugins_own(error: BaseException) -> bool:
    """The error comes of a plugin's code, be it a SystemExit or a CancelledError; not of the exchange's own end."""
    return not isinstance(error, GeneratorExit) and not _ends_the_task(error)


def _ends_the_task(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError) and is_unwanted()


def is_unwanted() -> bool:
    """The running task itself was cancelled, which is not the plugin's doing, whatever the plugin made of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def crashed(step: Step, what: str, error: BaseException | None = None) -> None:
    """Name the plugin in the log; `PluginError` unless it is to be ignored. What the plugin's frames hold goes at once: the error
    lives as long as its exchange, and the exchange's own frames refer to both."""
    log.error("plugin %s failed in %s: %s", step.plugin, step.hook, what)
    let_go_of_frames(error)  # they are not cleared: among them may be one of a task that goes on, which that would end
    if step.on_error != "ignore":
        raise PluginError() from error


def _loop_deadline(step: Step, budget: Budget) -> float:
    """Until when a step may run. One that is ignored when it fails leaves those after it half of the time there is."""
    now = asyncio.get_running_loop().time()
    deadline = budget.deadline(now)
    if step.on_error == "ignore":
        deadline = (now + deadline) / 2
    return deadline if step.timeout_s is None else min(deadline, now + step.timeout_s)


async def first_result(chain: Chain, args: tuple[Any, ...], seconds: float, kind: type[T] | None) -> T | None:
    """The first result that is not None; later steps do not run. None when there is none. One of another kind is a crash.

    Where `kind` is None, steps return nothing, and all of them run.
    """
    budget: Budget | None = None
    started = monotonic()
    late = started + SLOW_SECONDS
    """Before it no step can have been slow. The clock is read once between two steps: this is on the path of every request."""
    for step in chain:
        try:  # as in `start_step`
            result = step.call(*args)
            if result is not None and step.is_async:
                try:
                    pending = result.send(None)
                except StopIteration as done:
                    result = done.value
                else:
                    result = Driven(step, result, pending)
        except MuxxError:
            measure(step, started)
            raise
        except BaseException as error:
            measure(step, started)
            _failed(step, error)
            started = monotonic()
        else:
            ended = monotonic()
            if ended > late:
                measure(step, started)
            started = ended
            if result is None:
                continue
            if type(result) is Driven:
                budget = budget or Budget(seconds)
                result = await finish_step(step, result, budget)
                started = monotonic()
            if kind is not None and result is not None:
                if isinstance(result, kind):
                    if isinstance(result, Reply):
                        result.plugin = step.plugin
                    return result
                crashed(step, f"it returned neither None nor a {kind.__name__}")
            elif iscoroutine(result):
                _refuse_unawaited(step, result)
            elif result is not None:
                crashed(step, f"it returned a {type(result).__name__}, and this hook returns nothing; raise to refuse")
    return None


def _refuse_unawaited(step: Step, result: Coroutine[Any, Any, Any]) -> None:
    """As a `def` around an `async def` returns it: what that would have refused must not pass."""
    result.close()
    crashed(step, "it is a plain `def` and returned a coroutine, which nothing awaits; make it an `async def`")


class CoroutineNobodyAwaits(TypeError):
    """A plugin gave an `async def` where it is asked for a `def`. Logs show the type of an error alone, so its name says it."""


def refuse_coroutine(result: Any) -> None:
    """Raise for what a plugin's function has returned, where nothing waits for it: it has not even begun."""
    if iscoroutine(result):
        result.close()
        raise CoroutineNobodyAwaits


run_all = partial(first_result, kind=None)
"""Every step in order; the first refusal or crash ends it. Takes a chain, the arguments and the seconds it may take."""


async def run_isolated(chain: Chain, args: tuple[Any, ...], seconds: float) -> None:
    """Every step, whatever the others do: for hooks that only observe."""
    for step in chain:
        try:
            result = await run_step(step, args, Budget(seconds))
            if iscoroutine(result):
                _refuse_unawaited(step, result)
        except MuxxError as error:
            log.error("plugin %s failed after the answer: %s", step.plugin, error.code)


@contextmanager
def named_when_late(plugin: str, hook: str) -> Iterator[None]:
    """Around a hook that has no time limit: the log says who it is that everything waits for."""
    text = "plugin %s has been in %s for %g s, and muxx waits for it"
    late = asyncio.get_running_loop().call_later(LATE_SECONDS, log.warning, text, plugin, hook, LATE_SECONDS)
    try:
        yield
    finally:
        late.cancel()


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of one that never waits, as those of chains without `async def` steps."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("it waits")


async def run_chunk(chain: Chain, args: tuple[Any, Any], chunk: Chunk, most_bytes: int) -> list[Chunk]:
    """What the steps make of one chunk, each seeing what the one before let through."""
    chunks = [chunk]
    for step in chain:
        results: list[Chunk] = []
        for item in chunks:
            returned = [start_step(step, (*args, item))]
            if type(returned[0]) is Driven:
                returned = [await finish_step(step, returned.pop(), None)]
            if returned[0] is None:
                results.append(item)
            else:
                results.extend(_checked(step, item, returned, most_bytes))
        chunks = results
    return chunks


def _checked(step: Step, item: Chunk, returned: list[Any], most: int) -> list[Chunk]:
    """What a chunk hook made of `item`; a crash when that is no iterable of Chunks, or too much. A generator runs here.

    `returned` holds what the hook returned, for this to take out: however large, it goes with the frame that judges it.
    """
    started = time.monotonic()
    try:
        return _taken(item, returned.pop(), most)
    except MuxxError:
        raise
    except _Unusable as error:
        crashed(step, str(error), error)
    except BaseException as error:
        crashed(step, describe_crash(error), error)
    finally:
        measure(step, started)
    return [item]


class _Unusable(Exception):
    """Why a result cannot be used, in our own words."""


def _taken(item: Chunk, result: Any, most: int) -> list[Chunk]:
    if not isinstance(result, Iterable) or isinstance(result, str | bytes):
        raise _Unusable("on_chunk must return None or an iterable of Chunks")
    chunks, most_raw = [], HELD_BACK_EVENTS * most
    for chunk in result:
        if not isinstance(chunk, Chunk):
            raise _Unusable("on_chunk must return Chunks only")
        if chunk is not item and not _is_sound(chunk):
            raise _Unusable("on_chunk returned a chunk whose kind, index or text is none")
        if chunk.raw is not None and chunk.raw is not item.raw:
            if not _is_whole(chunk.raw):
                raise _Unusable("on_chunk returned a chunk whose raw is no whole event")
            most_raw -= len(chunk.raw)
        most -= 1 + len(chunk.text) + (len(chunk.tool_call.arguments) if chunk.tool_call is not None else 0)
        if most < 0 or most_raw < 0:
            raise _Unusable("on_chunk returned more than one event may hold")
        chunks.append(chunk)
    return chunks


def _is_sound(chunk: Chunk) -> bool:
    """Whether every format can write the chunk. Ids, names and finish reasons are the provider's, who may have given numbers."""
    tool = chunk.tool_call
    if tool is not None and not (isinstance(tool, ToolCall) and type(tool.index) is int and _is_unicode(tool.arguments)):
        return False
    told = (chunk.finish_reason,) if tool is None else (chunk.finish_reason, tool.id, tool.name)
    names = [name for name in told if isinstance(name, str)]
    return type(chunk.index) is int and chunk.kind in KINDS and _is_unicode(chunk.text) and all(map(_is_unicode, names))


def _is_unicode(text: Any) -> bool:
    """A lone surrogate is in many a `str`, and cannot be sent."""
    if not isinstance(text, str):
        return False
    try:
        return text.isascii() or text.encode() != b""
    except UnicodeEncodeError:
        return False


def _is_whole(raw: bytes) -> bool:
    """Whether bytes may stand for an event of a stream: the blank line that ends it is there."""
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").endswith(b"\n\n")


def first_price(chain: Chain, args: tuple[Any, ...]) -> Cost | None:
    """The first cost; a crash is logged and counts as not knowing."""
    for step in chain:
        started = monotonic()
        try:
            cost = step.call(*args)
        except BaseException as error:  # plain `def`, so not even a cancellation is anybody else's
            measure(step, started)
            log.error("plugin %s failed in price: %s", step.plugin, describe_crash(error))
        else:
            if monotonic() - started > SLOW_SECONDS:
                measure(step, started)
            if is_sum(cost):
                return cost
            if cost is not None:
                text = "plugin %s failed in price: it returned neither None nor a Cost in whole pico-dollars, 0 to below 2**63"
                log.error(text, step.plugin)
    return None


def isolated(tap: Callable[[T], Any]) -> Callable[[T], None]:
    """`tap`, until it crashes: then the log says so, and it is called no more. It only looks on, so the answer goes on."""
    alive = True

    def take(data: T) -> None:
        nonlocal alive
        if alive:
            try:
                refuse_coroutine(tap(data))
            except BaseException as error:  # called by the event loop itself, so not even an exit may pass
                alive = False
                log.error("a plugin's tap failed: %s", crash_of(tap, error))

    return take

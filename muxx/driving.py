"""Drive what a plugin wants awaited, in the exchange's own task and yet so that nothing the plugin does can keep that task.

Who is awaited decides himself whether a cancellation ends him. Here the caller does: what was told to stop may clean up for
`UNWIND_SECONDS`; then it is left where it waits, and named. Each of its steps is measured, and the slow one is named too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from .plugins import Step

SLOW_SECONDS = 0.25
"""A step that holds the event loop longer than this is named in the log."""

UNWIND_SECONDS = 1.0
"""How long what was told to stop may take over it."""

log = logging.getLogger("muxx.plugins")


def measure(step: Step, started: float) -> None:
    """Name the plugin that has held the event loop since `started`, if that was too long."""
    seconds = time.monotonic() - started
    if seconds > SLOW_SECONDS:
        advice = "make its hook `async def` or cheaper"
        log.warning("plugin %s held the event loop for %.0f ms; %s", step.plugin, seconds * 1e3, advice)


_NOT_BEGUN = object()


class Driven:
    """Awaiting this awaits a plugin's coroutine, from where it waits for `pending` if it has run so far already.

    It has to be awaited in the task in which it began, for what it has entered by then, as a timeout, belongs to that task.
    """

    __slots__ = ("_coroutine", "_pending", "_step", "_until")

    def __init__(self, step: Step, coroutine: Any, pending: Any = _NOT_BEGUN) -> None:
        self._step = step
        self._coroutine = coroutine
        self._pending = pending
        self._until: float | None = None
        """By when it has to have ended, on the loop's clock; None while nobody told it to."""

    def __await__(self) -> Generator[Any, Any, Any]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        told_before = task.cancelling()
        ended, value = False, self._pending
        if value is _NOT_BEGUN:
            ended, value = self._go_on(partial(self._coroutine.send, None))
        while not ended:
            try:
                in_time = yield from self._wait(value, loop)
            except BaseException as error:
                ended, value = self._go_on(partial(self._coroutine.throw, error))
            else:
                if not in_time:
                    self._leave(value)
                ended, value = self._go_on(partial(self._coroutine.send, None))
            if task.cancelling() > told_before:
                self._note_told(loop)
            else:
                self._until = None  # it was a timeout of its own
        return value

    def _go_on(self, step: Callable[[], Any]) -> tuple[bool, Any]:
        """Whether it has ended, and its result or what it waits for now."""
        started = time.monotonic()
        try:
            return False, step()
        except StopIteration as done:
            return True, done.value
        finally:
            measure(self._step, started)

    def _note_told(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until = self._until or loop.time() + UNWIND_SECONDS

    def _wait(self, pending: Any, loop: asyncio.AbstractEventLoop) -> Generator[Any, Any, bool]:
        """Wait for what the coroutine waits for, whose outcome it asks for itself; False: not any longer.

        A plain future ends at once when the task is cancelled. Anything else, as a task of the plugin's, may not, nor what is
        waited for in order to clean up: there the task waits beside it.
        """
        if self._until is not None and loop.time() >= self._until:
            return False
        if not asyncio.isfuture(pending) or (self._until is None and type(pending) is asyncio.Future):
            yield pending
            return True
        pending._asyncio_future_blocking = False  # as a task notes that it has taken it
        while not pending.done():
            left = None if self._until is None else self._until - loop.time()
            if left is not None and left <= 0:
                return False
            try:
                yield from asyncio.wait((pending,), timeout=left).__await__()
            except asyncio.CancelledError:
                self._note_told(loop)
                pending.cancel()
        return True

    def _leave(self, pending: Any) -> NoReturn:
        """Give it up: whatever it still does, nobody waits for it."""
        text = "plugin %s goes on in %s although it was cancelled, and is left there; let asyncio.CancelledError pass"
        log.error(text, self._step.plugin, self._step.hook)
        if asyncio.isfuture(pending):
            pending.add_done_callback(_take_note)
            pending.cancel()
        with suppress(BaseException):  # it may not even let itself be closed; `close` of an `__anext__` would not try
            self._coroutine.throw(GeneratorExit)
        raise asyncio.CancelledError


def _take_note(outcome: asyncio.Future[Any]) -> None:
    """Whatever became of it, asyncio need not complain that nobody asked."""
    if not outcome.cancelled():
        outcome.exception()


class DrivenItems(AsyncIterator[Any]):
    """A plugin's async iterator, each item driven; its end too, where it is a generator."""

    def __init__(self, step: Step, items: AsyncIterator[Any]) -> None:
        self._step = step
        self._items = items

    async def __anext__(self) -> Any:
        return await Driven(self._step, self._items.__anext__().__await__())

    async def aclose(self) -> None:
        """Let the generator end, whoever ended it, unless it was left on its way."""
        if isinstance(self._items, AsyncGenerator) and not getattr(self._items, "ag_running", False):
            async with asyncio.timeout(UNWIND_SECONDS):
                await Driven(self._step, self._items.aclose().__await__())

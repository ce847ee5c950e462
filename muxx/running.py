"""The calls that run now, and their time limits without a timer per request.

One tick looks at every running call a few times a second. A limit is a field on the call: setting it costs an attribute store,
and it is kept to within `TICK` seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from .errors import MuxxError

TICK = 0.1


class Limited(Protocol):
    """What runs under limits. `check(now)` is called on every tick with the monotonic time."""

    def check(self, now: float) -> None: ...

    def abort(self, reason: MuxxError) -> None: ...


class _Answering:
    """A request that is no call, at a plugin's route."""

    reason: MuxxError | None = None

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abort(self, reason: MuxxError) -> None:
        self.reason = reason
        self._task.cancel()


class RunningCalls:
    """The calls of one gateway, and beside them its other requests. `tick()` runs as one task the gateway owns."""

    body_bytes = 0
    """Of their request bodies, but for those so small that they came with their heads."""

    def __init__(self) -> None:
        self._calls: set[Limited] = set()
        self._others: set[_Answering] = set()
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Limited) -> None:
        self._calls.add(call)

    def discard(self, call: Limited) -> None:
        self._calls.discard(call)
        self._note_end()

    def _note_end(self) -> None:
        if self._emptied is not None and not self._calls and not self._others:
            self._emptied.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around a request that is no call. It has no limits here, but is waited for; aborted, it raises the reason."""
        task = asyncio.current_task()
        assert task is not None
        other = _Answering(task)
        self._others.add(other)
        try:
            yield
        except asyncio.CancelledError:
            if other.reason is None:
                raise
            task.uncancel()
            raise other.reason from None
        finally:
            self._others.discard(other)
            self._note_end()

    async def idle(self) -> None:
        """Return when nothing runs."""
        while self._calls or self._others:
            self._emptied = self._emptied or asyncio.Event()
            self._emptied.clear()
            await self._emptied.wait()

    def abort_all(self, reason: MuxxError) -> None:
        for call in tuple(self._calls):
            call.abort(reason)
        for other in tuple(self._others):
            other.abort(reason)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._check_all(time.monotonic())

    def _check_all(self, now: float) -> None:
        """(In `tick` itself the loop would hold on to the last call until another one runs.)"""
        for call in tuple(self._calls):
            call.check(now)

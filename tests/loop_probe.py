"""X04 for every test: whatever muxx does in a test's event loop, no step of it holds the loop.

What counts is CPU time, which other processes of a busy machine hardly lengthen, less that of garbage collections: the heap they
go through is that of all tests before. Steps of the tests' own coroutines are not
looked at: they may make and compare what they like. Tests of plugins that hold the loop say so: `pytest.mark.holds_the_loop`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import thread_time
from types import CodeType
from typing import Any

MOST_SECONDS = 0.75
"""Three times what a step may take on a machine like those we measure on, for there are slower ones."""

_TESTS = str(Path(__file__).parent)
_KIT = str(Path(__file__).parents[1] / "muxx" / "testing")


class LoopProbe:
    """While it `watches`, `held` grows by each step of a loop that took too long."""

    def __init__(self, most: float = MOST_SECONDS) -> None:
        self.held: list[str] = []
        self._most = most
        self._collecting = self._collected = 0.0

    def _note_collection(self, phase: str, _: object) -> None:
        if phase == "start":
            self._collecting = thread_time()
        else:
            self._collected += thread_time() - self._collecting

    @contextmanager
    def watches(self) -> Iterator[None]:
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            begun, collected = thread_time(), self._collected
            run(handle)
            took = thread_time() - begun - (self._collected - collected)
            if took > self._most and not _is_a_tests(handle):
                self.held.append(f"{took:.2f} s of CPU in one step of the event loop: {handle!r}")

        asyncio.Handle._run = timed  # type: ignore[method-assign]
        gc.callbacks.append(self._note_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._note_collection)
            asyncio.Handle._run = run  # type: ignore[method-assign]


def _is_a_tests(handle: asyncio.Handle) -> bool:
    code = _code_of(handle._callback)
    return code is not None and code.co_filename.startswith((_TESTS, _KIT))


def _code_of(callback: Any) -> CodeType | None:
    """Of the function, or of the coroutine whose task has its turn."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "cr_code", None)
    return getattr(getattr(callback, "__func__", callback), "__code__", None)

"""Waiting for something to become true, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], object], within: float = 5.0) -> None:
    """Return as soon as `condition()` is true; fail the test, naming the condition, when it is not within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"still not true after {within} s: {name}")
        await asyncio.sleep(0.005)


def completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop of its own: in a thread, where a loop runs here already, which then waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()

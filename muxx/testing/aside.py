"""Running what a test needs beside it where it disturbs nothing: in a thread, with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def aside(context: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter an async context manager, such as a service, in a thread of its own, and leave it at the end.

    For fixtures that are not async, and for services whose tasks are not to be taken for those of what is tested.
    """
    entered: Future[T] = Future()
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        done = asyncio.Event()
        async with context as value:
            running.set_result((asyncio.get_running_loop(), done))
            entered.set_result(value)
            await done.wait()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=work, name="aside")
    thread.start()
    try:
        yield entered.result()
    finally:
        if running.done():
            loop, done = running.result()
            loop.call_soon_threadsafe(done.set)
        thread.join()

"""The event loop of whatever has to be fast, and its end, which nobody who was not asked for can put off."""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import _unregister_task
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

STRAY_SECONDS = 1.0
"""How long what still runs at the end may take to hear that it is over."""
THREADS = "muxx-to-thread"

log = logging.getLogger("muxx.plugins")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed.

    When `work` is done, so is this soon: tasks that nobody owns are cancelled, and those that do not hear it, as threads that
    cannot, are named and left.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_ending_soon(work))
    result: T = uvloop.run(_ending_soon(work))
    return result


async def _ending_soon(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(thread_name_prefix=THREADS)
    loop.set_default_executor(executor)
    try:
        return await work
    finally:
        await _end_strays()
        await _end_threads(executor)
        loop.set_default_executor(ThreadPoolExecutor())  # asyncio waits for the default one's threads, however long they take


async def _end_strays() -> None:
    strays = asyncio.all_tasks() - {asyncio.current_task()}
    for stray in strays:
        stray.cancel()
    if strays:
        await asyncio.wait(strays, timeout=STRAY_SECONDS)
    text = "task %s, begun by nobody muxx knows and running %s, goes on although it was cancelled, and is left; %s"
    for stray in strays:
        if not stray.done():
            log.error(text, stray.get_name(), _place_of(stray), "let asyncio.CancelledError pass, and begin it by gateway.spawn")
            _unregister_task(stray)  # asyncio would wait for it until it has ended


def _place_of(task: asyncio.Task[Any]) -> str:
    """The function a task runs, and where that is written."""
    code = getattr(task.get_coro(), "cr_code", None)
    return f"{code.co_qualname} at {code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}" if code else repr(task.get_coro())


async def _end_threads(executor: ThreadPoolExecutor) -> None:
    executor.shutdown(wait=False, cancel_futures=True)
    loop = asyncio.get_running_loop()
    latest = loop.time() + STRAY_SECONDS
    while running := [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]:
        if loop.time() >= latest:
            text = "threads of asyncio.to_thread still run (%d), and are left; give what they wait for a time limit"
            log.error(text, len(running))
            return
        await asyncio.sleep(0.01)

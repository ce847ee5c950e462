"""What a gateway leaves open: tasks and threads, counted by name."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from ..upstream import CONNECTION


def open_things() -> Counter[str]:
    """Tasks and threads by name, but for this task, the provider's, and the threads event loops share."""
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return open_tasks() + Counter(threads)


def open_tasks() -> Counter[str]:
    """Tasks by name, but for this one, the provider's, and those that own the database's writing connections."""
    names = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return Counter(name for name in names if name != CONNECTION and not name.startswith("write "))


def more(now: Counter[str], before: Counter[str]) -> list[str]:
    """The names of which there are more now, if there are more in all."""
    return [name for name, count in now.items() if count > before[name]] if now.total() > before.total() else []

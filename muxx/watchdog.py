"""See from outside an event loop that something holds it: a thread of the process says who, and the supervisor replaces it.

The loop beats: about each second it writes the time into a word of memory that its process shares with its supervisor. Code that
blocks cannot be interrupted, but as long as it gives other threads their turn it can be named while it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import sys
import threading
import time
from types import FrameType

from .plugins import Step

BEAT_SECONDS = 1.0
HELD_SECONDS = 2.0
"""A loop that has not turned for so long is told of; then after twice as long, and so on."""

log = logging.getLogger("muxx.plugins")


class Pulse:
    """The word: when the loop turned last, in monotonic seconds, which all processes of a host count alike; 0.0: it never did."""

    def __init__(self) -> None:
        self._word = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")

    @property
    def last(self) -> float:
        return self._word[0]

    def beat(self) -> None:
        self._word[0] = time.monotonic()

    def forget(self) -> None:
        """Before another process begins: its loop has not turned yet, and nobody wonders how long that takes."""
        self._word[0] = 0.0


class Silence:
    """How long a pulse has not been heard, by somebody who listens about each second.

    Time in which he did not run himself does not count: where everything stood still, nobody is to blame.
    """

    MOST_PER_LOOK = 2 * BEAT_SECONDS

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._last = 0.0
        self._looked = 0.0
        self._seconds = 0.0

    def seconds(self, now: float) -> float:
        last = self._pulse.last
        if last != self._last or not last:
            self._last, self._seconds = last, 0.0
        else:
            self._seconds += min(now - self._looked, self.MOST_PER_LOOK)
        self._looked = now
        return self._seconds


def watch(pulse: Pulse) -> None:
    """Let the running loop beat, as long as it lives, and a thread name whoever holds it."""
    _beat(asyncio.get_running_loop(), pulse)
    threading.Thread(target=_listen, args=(pulse, threading.get_ident()), name="muxx-watchdog", daemon=True).start()


def _beat(loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
    pulse.beat()
    loop.call_later(BEAT_SECONDS, _beat, loop, pulse)


def _listen(pulse: Pulse, thread: int) -> None:
    silence, told_after = Silence(pulse), HELD_SECONDS
    while True:
        time.sleep(BEAT_SECONDS)
        seconds = silence.seconds(time.monotonic())
        if seconds < HELD_SECONDS:
            told_after = HELD_SECONDS
        elif seconds >= told_after:
            told_after = 2 * seconds
            text = "%s has held the event loop for %.0f s and still does: nobody is served meanwhile"
            log.error(text, _holder(thread), seconds)


def _holder(thread: int) -> str:
    """Who runs in a thread just now, as far as its frames tell: a plugin's hook, and the place in its code."""
    frame = innermost = sys._current_frames().get(thread)
    if innermost is None:
        return "something"
    file = innermost.f_code.co_filename.rsplit("/", 1)[-1]
    place = f"{file}:{innermost.f_lineno} in {innermost.f_code.co_name}"
    while frame is not None:
        step = _step_of(frame)
        if step is not None:
            return f"plugin {step.plugin}, in {step.hook}, at {place},"
        frame = frame.f_back
    return f"what runs at {place}"


def _step_of(frame: FrameType) -> Step | None:
    """The plugin's step that a frame of the kernel's runs."""
    names = frame.f_locals
    for step in (names.get("step"), getattr(names.get("self"), "_step", None)):
        if isinstance(step, Step):
            return step
    return None

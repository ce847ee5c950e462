"""The probe that watches every test sees what holds an event loop, and what tests do themselves it leaves alone."""

from __future__ import annotations

import asyncio
from time import thread_time

from loop_probe import LoopProbe

SECONDS = 0.02
HOLDING = """
async def hold(burn, seconds):
    burn(seconds)

def hold_plainly(burn, seconds):
    burn(seconds)
"""


def burn(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


async def hold_in_a_test(seconds: float) -> None:
    burn(seconds)


async def test_a_step_that_holds_the_loop_is_seen_and_one_of_a_test_is_not() -> None:
    elsewhere: dict[str, object] = {}
    exec(compile(HOLDING, "muxx/holding.py", "exec"), elsewhere)
    probe = LoopProbe(SECONDS / 2)
    with probe.watches():
        await asyncio.create_task(hold_in_a_test(SECONDS))
        await asyncio.sleep(SECONDS)
        assert probe.held == []
        await asyncio.create_task(elsewhere["hold"](burn, SECONDS))  # type: ignore[operator]
        asyncio.get_running_loop().call_soon(elsewhere["hold_plainly"], burn, SECONDS)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(probe.held) == 2
    assert all("s of CPU in one step of the event loop" in words for words in probe.held)

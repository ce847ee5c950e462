"""What an exchange was made of goes when it is over, by its references alone.

A cycle would keep all of it, request and answer, until the garbage collector comes by: thousands of requests later, in memory
that no cache of the processor holds any more, and in a pause that everybody waits for.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from carrying_kit import STREAM, serving
from hooks_kit import Sees

from muxx import Attempt, Exchange, HttpRequest, Request
from muxx.call import Call
from muxx.flight import Flight
from muxx.reader import Reader
from muxx.relay import Relay
from muxx.running import TICK
from muxx.testing import RunningGateway, answers, chat, chat_body, sse

Way = Callable[[RunningGateway, int], Awaitable[None]]

CONFIG = {
    "project": {
        "limits": {"rpm": 1000, "tpm": 10_000_000, "user_rpm": 1000, "key_in_flight": 100},
        "spend_caps": [{"window": "day", "usd": "1000"}],
        "alerts": [{"limit": "rpm", "share": 0.9}],
    }
}
EACH = 4
OF_AN_EXCHANGE = (Attempt, Call, Exchange, Flight, HttpRequest, Reader, Relay, Request)


async def plain(gateway: RunningGateway, number: int) -> None:
    assert (await gateway.chat(f"Call {number}")).status == 200


async def streamed(gateway: RunningGateway, number: int) -> None:
    assert (await gateway.chat(f"Call {number}", stream=True)).complete


async def hit(gateway: RunningGateway, _: int) -> None:
    assert (await gateway.chat("The same")).status == 200


async def streamed_hit(gateway: RunningGateway, _: int) -> None:
    assert (await gateway.chat("The same stream", stream=True)).complete


async def joined(gateway: RunningGateway, number: int) -> None:
    for response in await asyncio.gather(*(gateway.chat(f"Shared {number}", stream=True) for _ in range(3))):
        assert response.complete


async def translated(gateway: RunningGateway, number: int) -> None:
    assert (await gateway.ask("messages", f"Call {number}", model="gpt-4o", stream=True)).complete


async def refused(gateway: RunningGateway, number: int) -> None:
    assert (await gateway.chat(f"Call {number}", model="no-such-model")).status == 404


async def broken(gateway: RunningGateway, number: int) -> None:
    gateway.upstream.script(answers.error(500))
    assert (await gateway.chat(f"Broken {number}")).status >= 500


async def aborted(gateway: RunningGateway, number: int) -> None:
    async with await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body(f"Call {number}", stream=True))
        await client.read_head()


WAYS: dict[str, Way] = {
    way.__name__: way for way in (plain, streamed, hit, streamed_hit, joined, translated, refused, broken, aborted)
}


@pytest.mark.parametrize("plugins", [{}, {"sees": Sees}], ids=["as it comes", "through a plugin"])
@pytest.mark.parametrize("name", WAYS)
async def test_nothing_of_an_exchange_waits_for_the_collector(name: str, plugins: dict[str, type]) -> None:
    way = WAYS[name]
    async with serving(config=CONFIG, plugins=plugins) as gateway:
        gateway.upstream.choose = chat("Hello there.")
        await way(gateway, 0)
        await asyncio.sleep(0.05)
        with left_to_the_collector() as left:
            for number in range(1, EACH + 1):
                await way(gateway, number)
            await asyncio.sleep(0.1)
    assert left == Counter()


async def test_who_watches_over_time_limits_holds_on_to_no_call() -> None:
    """The last one would be there until another runs: megabytes, perhaps, in a gateway that is idle."""
    async with serving() as gateway:
        gateway.upstream.choose = lambda _: sse(chunks=[STREAM[:50], STREAM[50:]], gap=3 * TICK)
        await gateway.chat(stream=True)
        await asyncio.sleep(2 * TICK)
        gc.collect()
        assert [item for item in gc.get_objects() if isinstance(item, Call) and item.gateway is gateway.gateway] == []


@contextmanager
def left_to_the_collector() -> Iterator[Counter[str]]:
    """Objects of an exchange that were unreachable, and still there, at the end of the block."""
    left: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left.update(type(item).__name__ for item in gc.garbage if isinstance(item, OF_AN_EXCHANGE))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


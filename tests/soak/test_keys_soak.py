"""FAULTS A05 and A07 in full: a hundred thousand wrong keys take as long as one another, and of a thousand keys none is anywhere."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

import pytest
from http_kit import PATH, add_key
from multidict import CIMultiDict, CIMultiDictProxy

from muxx import AuthenticationError, HttpRequest
from muxx.testing import RunningGateway, leak
from muxx_std.keys import format
from muxx_std.keys.plugin import Keys

CHECKS = 100_000
MADE = 1000

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


async def test_A05_a_near_miss_takes_as_long_as_any_other_wrong_key() -> None:
    """Welch's t of the two times, the slowest twentieth of each, which is the machine's, left out."""
    async with RunningGateway(mock=True) as gateway:
        keys = next(p.instance for p in gateway.gateway.plugins.plugins if isinstance(p.instance, Keys))
        near = gateway.key[:-8] + "zz"
        guesses = [near + format.checksum(near), format.generate("live")]
        times: list[list[float]] = [[], []]
        for which in itertools.islice(itertools.cycle((0, 1)), CHECKS):
            headers = CIMultiDictProxy(CIMultiDict({"X-Muxx-Api-Key": guesses[which]}))
            head = HttpRequest("POST", PATH, "", headers, None)
            started = time.perf_counter()
            with pytest.raises(AuthenticationError):
                await keys.authenticate(gateway.gateway, head)
            times[which].append(time.perf_counter() - started)
        one, two = (sorted(found)[: len(found) * 19 // 20] for found in times)
        spread = (statistics.variance(one) / len(one) + statistics.variance(two) / len(two)) ** 0.5
        assert abs(statistics.fmean(one) - statistics.fmean(two)) / spread < 4.5


async def test_A07_of_a_thousand_keys_made_over_http_none_is_anywhere_but_in_its_answer() -> None:
    async with RunningGateway(mock=True) as gateway:
        admin = await add_key(gateway, "admin", None)

        async def make(count: int) -> list[str]:
            made: list[str] = []
            async with await gateway.connect() as client:
                for _ in range(count):
                    headers = {"X-Muxx-Api-Key": admin, "Content-Type": "application/json"}
                    await client.request("POST", "/v1/keys", headers, b"{}")
                    made.append((await client.read_response()).json()["key"])
            return made

        keys = list(itertools.chain(*await asyncio.gather(*(make(MADE // 4) for _ in range(4)))))
        assert len(set(keys)) == MADE
        gateway.key = keys[-1]
        assert (await gateway.chat()).status == 200
        assert leak.find(keys, gateway.directory) == []

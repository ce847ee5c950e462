"""FAULTS C05 in full: a gigabyte of answers, no two alike, passes a cache that holds a sixteenth of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from muxx.testing import GatewayProcess, RecordedRequest, Script, ScriptedUpstream, answers, post_chat

MIB = 2**20
MOST = 64 * MIB
ANSWER = 128 * 1024
ANSWERS = 8 * 1024
"""A gigabyte of them."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


def resident(group: int) -> int:
    """Bytes of memory the largest process of a group has."""
    sizes = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                sizes.append(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
        except OSError:
            continue
    return max(sizes)


async def test_C05_a_gigabyte_of_answers_takes_no_more_memory_than_the_cache_may_hold(tmp_path: Path) -> None:
    def choose(request: RecordedRequest) -> Script:
        number = request.json()["messages"][0]["content"]
        text = f"{number} ".ljust(ANSWER, ".")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return answers.json({"id": number, "model": "gpt-4o", "choices": [choice]})

    config = {"plugins": {"cache": {"max_bytes": MOST}}, "project": {"store_content": False}}
    async with ScriptedUpstream() as upstream, GatewayProcess(tmp_path, upstream.base_url, config) as gateway:
        upstream.choose = choose
        before = resident(gateway.process.pid)
        turns = asyncio.Semaphore(16)

        async def ask(number: int) -> None:
            async with turns:
                assert (await post_chat(gateway.base_url, gateway.key, f"n{number}", within=60.0)).status == 200

        for start in range(0, ANSWERS, 512):
            await asyncio.gather(*(ask(number) for number in range(start, start + 512)))
            upstream.requests.clear()
        grown = resident(gateway.process.pid) - before
        assert 0.8 * MOST < grown < 1.1 * MOST + 48 * MIB
        assert (await post_chat(gateway.base_url, gateway.key, f"n{ANSWERS - 1}")).header("x-muxx-cache") == "HIT"
        assert (await post_chat(gateway.base_url, gateway.key, "n0")).header("x-muxx-cache") == "MISS"

"""FAULTS X02: a process that runs out of files refuses in words, stays healthy, and serves again as soon as it can."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from carrying_kit import both_transports
from process_kit import HOLD, Upstream, gateway_process, open_files, workers_of

from muxx.testing import RawClient, RawResponse, chat_body, eventually, get

FILES = 320
"""So few that each worker takes 32 calls at a time, and 160 connections."""
CALLS = 32


@contextmanager
def few_files() -> Iterator[None]:
    """Processes that are started meanwhile may open no more than `FILES`."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_X02_idle_connections_keep_nobody_out(sent: bytes, tmp_path: Path, upstream: Upstream) -> None:
    """More of them than the process has files: silent ones, some with half a head, and those of clients that were answered."""
    gateway = gateway_process(tmp_path, upstream)
    with few_files():
        await gateway.start()
    try:
        workers = workers_of(gateway)
        async with AsyncExitStack() as stack:
            for _ in range(FILES + 100):
                client = await stack.enter_async_context(await gateway.connect())
                await client.send(sent)
            for streamed in (False, True):
                assert (await get(gateway.base_url, "/healthz")).status == 200
                assert (await get(gateway.base_url, "/readyz")).status == 200
                assert (await gateway.chat(stream=streamed)).status == 200
            assert len(open_files(workers[0])) < FILES
        assert workers_of(gateway) == workers
    finally:
        await gateway.kill()


@both_transports
async def test_X02_calls_beyond_what_there_are_files_for_are_refused_and_their_connections_closed(
    transport: str, tmp_path: Path, upstream: Upstream
) -> None:
    gateway = gateway_process(tmp_path, upstream, {"server": {"transport": transport}})
    with few_files():
        await gateway.start()
    try:
        workers = workers_of(gateway)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await gateway.connect()) for _ in range(3 * CALLS)]

            async def ask(client: RawClient) -> RawResponse:
                await client.post_chat(gateway.key, chat_body(HOLD, stream=True))
                return await client.read_head()

            heads = await asyncio.gather(*map(ask, clients))
            refused = [(client, head) for client, head in zip(clients, heads, strict=True) if head.status != 200]
            assert len(refused) == 2 * CALLS
            for client, head in refused:
                async for piece in client.body(head):
                    head.body += piece
                assert (head.status, head.error["code"], head.header("connection")) == (503, "overloaded", "close")
                assert head.header("x-should-retry") == "true"
                assert await client.closed()
            assert (await get(gateway.base_url, "/healthz")).status == 200
            upstream.release.set()
            held = [client for client, head in zip(clients, heads, strict=True) if head.status == 200]
            await asyncio.gather(*(client.readuntil(b"[DONE]") for client in held))
        await eventually(lambda: len(open_files(workers[0])) < FILES // 2)
        assert (await gateway.chat()).status == 200
        assert workers_of(gateway) == workers
    finally:
        await gateway.kill()

"""FAULTS X02 and X05: who runs out of files, memory or processes stays healthy, refuses in words, and serves again soon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
from carrying_kit import both_transports
from orjson import dumps
from process_kit import HOLD, Upstream, gateway_process, open_files, workers_of

from muxx.testing import RawClient, RawResponse, RunningGateway, chat_body, eventually, get
from muxx.testing.settings import clean_environment

PATH = "/v1/chat/completions"
FILES = 320
"""So few that each worker takes 32 calls at a time, and 160 connections."""
CALLS = 32


@contextmanager
def files_for(directory: Path, limit: str) -> Iterator[None]:
    """Interpreters that are started meanwhile get this limit, as options of sh's `ulimit`."""
    limited = directory / "python-with-few-files"
    limited.write_text(f'#!/bin/sh\nulimit {limit}\nexec "{sys.executable}" "$@"\n')
    limited.chmod(0o700)
    with mock.patch.object(sys, "executable", str(limited)):
        yield


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_X02_idle_connections_keep_nobody_out(sent: bytes, tmp_path: Path, upstream: Upstream) -> None:
    """More of them than the process has files: silent ones, some with half a head, and those of clients that were answered."""
    gateway = gateway_process(tmp_path, upstream)
    with files_for(tmp_path, f"-n {FILES}"):
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
    with files_for(tmp_path, f"-n {FILES}"):
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


def test_X02_where_not_a_single_call_has_its_files_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("server = {port = 0}\n")
    with files_for(tmp_path, "-n 256"):
        command = [sys.executable, "-m", "muxx", "serve", "--config", str(tmp_path / "muxx.toml")]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "LimitNOFILE" in done.stderr


async def test_X02_the_limit_meant_for_programs_that_use_select_is_raised(tmp_path: Path, upstream: Upstream) -> None:
    """A soft limit of so many would be good for 32 calls."""
    async with AsyncExitStack() as stack:
        gateway = gateway_process(tmp_path, upstream)
        with files_for(tmp_path, f"-Sn {FILES}"):
            await stack.enter_async_context(gateway)
        clients = [await stack.enter_async_context(await gateway.connect()) for _ in range(2 * CALLS)]
        for client in clients:
            await client.post_chat(gateway.key, chat_body(HOLD, stream=True))
        assert [(await client.read_head()).status for client in clients] == [200] * len(clients)
        upstream.release.set()
        await asyncio.gather(*(client.readuntil(b"[DONE]") for client in clients))


NO_PROCESSES = """
import errno
import os

import muxx

fork = os.fork

def fork_where_there_is_room():
    if os.path.exists(os.environ["NO_ROOM"]):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = fork_where_there_is_room

class NoProcesses:
    @muxx.hookimpl
    def register_providers(self):
        return []
"""


async def test_a_worker_that_cannot_be_started_for_want_of_memory_takes_no_other_with_it(
    tmp_path: Path, upstream: Upstream
) -> None:
    plugins, no_room = tmp_path / "plugins", tmp_path / "no-room"
    plugins.mkdir()
    (plugins / "own.py").write_text(NO_PROCESSES)
    environment = {"MUXX_PLUGINS_DIR": str(plugins), "NO_ROOM": str(no_room)}
    async with gateway_process(tmp_path, upstream, workers=2, **environment) as gateway:
        victim, spared = workers_of(gateway)
        no_room.touch()
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: gateway.stderr.count("cannot be started") >= 2)
        assert workers_of(gateway) == [spared]
        no_room.unlink()
        await eventually(lambda: len(workers_of(gateway)) == 2, 10.0)
        assert spared in workers_of(gateway)
        assert {(await gateway.chat()).status for _ in range(8)} == {200}
        gateway.terminate()
        assert await gateway.wait() == 0


LARGE = 2**20
"""Bytes of each body; there is room for four of them."""


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("way", ["answered", "left"])
async def test_X05_bodies_beyond_the_room_for_them_are_refused_unread(chunked: bool, way: str) -> None:
    """Whether the calls that held it are answered or their clients leave, there is room again afterwards."""
    config = {"server": {"max_body_bytes": LARGE, "max_bodies_bytes": 4 * LARGE}}
    async with Upstream() as upstream, RunningGateway(config, upstream=upstream) as gateway:
        body = dumps(chat_body(HOLD, stream=True, padding="x" * (LARGE - 1000)))

        async def ask(client: RawClient) -> RawResponse:
            fields = {"Authorization": f"Bearer {gateway.key}"}
            if chunked:
                await client.request("POST", PATH, fields | {"Transfer-Encoding": "chunked"})
                await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            else:
                await client.request("POST", PATH, fields, body)
            return await client.read_head()

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await gateway.connect()) for _ in range(4)]
            assert [(await ask(client)).status for client in clients] == [200] * 4
            async with await gateway.connect() as client:
                fields = {"Authorization": f"Bearer {gateway.key}", "Content-Length": str(LARGE)}
                await client.request("POST", PATH, fields)
                refusal = await client.read_response()
                assert (refusal.status, refusal.error["code"], refusal.header("connection")) == (503, "overloaded", "close")
            assert (await gateway.get_row(refusal.request_id))["error_code"] == "overloaded"
            assert (await gateway.chat()).status == 200, "a small one needs no room"
            if way == "answered":
                upstream.release.set()
                await asyncio.gather(*(client.readuntil(b"[DONE]") for client in clients))
        await eventually(lambda: len(gateway.gateway.calls) == 0)
        assert gateway.gateway.calls.body_bytes == 0
        upstream.release.set()
        async with await gateway.connect() as client:
            assert (await ask(client)).status == 200

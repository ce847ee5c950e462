"""The socket a worker listens on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from muxx import StartError
from muxx.worker import ACCEPTS_PER_TURN, accept, listen

uvloop = pytest.importorskip("uvloop", reason="without uvloop there is one loop only: pip install uvloop")

AT_ONCE = 4 * ACCEPTS_PER_TURN


class Counted(asyncio.Protocol):
    """A connection that says when it was made."""

    made: list[int]
    turn: Callable[[], int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(type(self).turn())
        transport.close()


async def turns_to_accept_all() -> int:
    """How many turns of the loop pass between the first and the last of many connections that came at once."""
    made: list[int] = []
    turns = 0
    protocol = type("Here", (Counted,), {"made": made, "turn": lambda: turns})
    listener = listen("127.0.0.1", 0)
    servers = await accept(listener, protocol)
    with ExitStack() as clients:
        for _ in range(AT_ONCE):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        async with asyncio.timeout(10):
            while len(made) < AT_ONCE:
                await asyncio.sleep(0)
                turns += 1
    for server in servers:
        server.close()
        await server.wait_closed()
    return made[-1] - made[0]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_connections_that_come_at_once_do_not_wait_for_a_turn_each(run: Callable[[Coroutine[Any, Any, int]], int]) -> None:
    assert run(turns_to_accept_all()) < AT_ONCE // 4


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "\udcff"])
def test_what_can_be_no_name_of_a_host_is_refused_with_exit_code_4(host: str) -> None:
    with pytest.raises(StartError, match="is no address to listen on") as refused:
        listen(host, 80)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EADDRINUSE, "another server"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EACCES, "below 1024"),
        (errno.ENOBUFS, "another address"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def bind(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "socket", lambda *_: SimpleNamespace(setsockopt=lambda *_: None, bind=bind, close=lambda: None))
    with pytest.raises(StartError, match=words) as refused:
        listen("127.0.0.1", 80)
    assert refused.value.exit_code == 4
    assert os.strerror(code) in str(refused.value)

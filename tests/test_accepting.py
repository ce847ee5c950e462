"""Connections as they come off a listening socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import pytest

from muxx.accepting import ACCEPTS_PER_TURN, Accepting
from muxx.connection import SEND_BUFFER
from muxx.testing import eventually
from muxx.worker import listen

uvloop = pytest.importorskip("uvloop", reason="without uvloop there is one loop only: pip install uvloop")

AT_ONCE = 4 * ACCEPTS_PER_TURN
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
Run = Callable[[Coroutine[Any, Any, int]], int]


class Counted(asyncio.Protocol):
    """A connection that says when it was made."""

    made: list[int]
    turn: Callable[[], int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(type(self).turn())
        transport.close()


class Optioned(asyncio.Protocol):
    """A connection that says whether it does not wait with small writes, holds little, and finds out that its client is gone."""

    seen: list[bool]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        def has(level: int, option: int) -> int:
            return int(transport.get_extra_info("socket").getsockopt(level, option))

        at_once, known = has(socket.IPPROTO_TCP, socket.TCP_NODELAY), has(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        self.seen.append(bool(at_once and known) and SEND_BUFFER <= has(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER)
        transport.close()


class Looked(socket.socket):
    """A listening socket that counts how often it was asked for a connection."""

    looks = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.looks += 1
        return super().accept()


async def turns_to_accept_all() -> int:
    """How many turns of the loop pass between the first and the last of many connections that came at once."""
    made: list[int] = []
    turns = 0
    protocol = type("Here", (Counted,), {"made": made, "turn": lambda: turns})
    listener = listen("127.0.0.1", 0)
    accepting = Accepting(listener, protocol)
    await accepting.start()
    with ExitStack() as clients:
        for _ in range(AT_ONCE):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        async with asyncio.timeout(10):
            while len(made) < AT_ONCE:
                await asyncio.sleep(0)
                turns += 1
        accepting.close()
        await asyncio.sleep(0.05)  # until what was accepted is closed
    return made[-1] - made[0]


async def looks_for_one() -> int:
    """How often the socket is asked for further connections when one comes alone."""
    made: list[int] = []
    plain = listen("127.0.0.1", 0)
    listener = Looked(fileno=plain.detach())
    listener.setblocking(False)
    accepting = Accepting(listener, type("Here", (Counted,), {"made": made, "turn": lambda: 0}))
    await accepting.start()
    with socket.create_connection(listener.getsockname()):
        await eventually(lambda: bool(made))
        accepting.close()
        await asyncio.sleep(0.05)
    return listener.looks


async def connections_without_their_options() -> int:
    """Of those the loop takes and those that are looked for."""
    seen: list[bool] = []
    listener = listen("127.0.0.1", 0)
    accepting = Accepting(listener, type("Here", (Optioned,), {"seen": seen}))
    await accepting.start()
    with ExitStack() as clients:
        for _ in range(AT_ONCE):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        await eventually(lambda: len(seen) == AT_ONCE)
        accepting.close()
        await asyncio.sleep(0.05)
    return seen.count(False)


@LOOPS
def test_connections_that_come_at_once_do_not_wait_for_a_turn_each(run: Run) -> None:
    assert run(turns_to_accept_all()) < AT_ONCE // 4


def test_of_a_connection_that_comes_alone_one_more_is_looked_for() -> None:
    assert uvloop.run(looks_for_one()) == 1


@LOOPS
def test_what_is_accepted_has_the_options_of_a_clients_connection(run: Run) -> None:
    """Nobody sets them on it: the loop has, and the listener."""
    assert run(connections_without_their_options()) == 0

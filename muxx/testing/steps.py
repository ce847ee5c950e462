"""What a scripted upstream does with a connection, step by step.

A script is any iterable of steps. A `bytes` is a step: it is sent as it is, so a script can say anything at all, HTTP or not.
An endless generator is a script too; it stops when the peer goes away.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .waiting import eventually

if TYPE_CHECKING:
    from .upstream import Connection, RecordedRequest

FOREVER = 3600.0
SIOCOUTQNSD = 0x894B
"""linux/sockios.h: bytes in a socket's send queue that have not been sent (TIOCOUTQ counts those not yet acknowledged too)."""


class Action(Protocol):
    """A step that is more than bytes. Write your own by giving a class a `play`."""

    async def play(self, connection: Connection) -> None: ...


Step = bytes | Action
Script = Iterable[Step]
Chooser = Callable[["RecordedRequest"], Script]
"""A callable that picks the script for one request."""


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float

    async def play(self, connection: Connection) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Wait:
    event: asyncio.Event

    async def play(self, connection: Connection) -> None:
        await self.event.wait()


class Hold:
    async def play(self, connection: Connection) -> None:
        await eventually(lambda: connection.left_at is not None, FOREVER)
        connection.transport.close()


class Fin:
    async def play(self, connection: Connection) -> None:
        connection.transport.close()


class Rst:
    async def play(self, connection: Connection) -> None:
        await delivered(connection.transport)
        reset(connection.transport)


def pause(seconds: float) -> Pause:
    """Do nothing for so long."""
    return Pause(seconds)


def wait(event: asyncio.Event) -> Wait:
    """Go on when the test sets the event."""
    return Wait(event)


def hold() -> Hold:
    """Say nothing more until the peer leaves."""
    return Hold()


def fin() -> Fin:
    """Close the connection cleanly, after everything before has been sent."""
    return Fin()


def rst() -> Rst:
    """Reset the connection, after everything before has reached the peer's kernel."""
    return Rst()


async def delivered(transport: asyncio.Transport, seconds: float = 1.0) -> None:
    """Wait until the kernel has nothing left to send: a reset throws away what it still holds. Elsewhere than on Linux, guess."""
    sock = transport.get_extra_info("socket")
    for _ in range(int(seconds / 0.001)):
        try:
            left = fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4))
        except OSError:
            await asyncio.sleep(0.01)
            return
        if not any(left):
            return
        await asyncio.sleep(0.001)


def reset(transport: asyncio.Transport) -> None:
    """Close with a TCP RST: lingering for no time at all makes the kernel abort the connection."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

"""Connections as they come off a listening socket: one that comes alone costs little, and of a burst none waits long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from .connection import SEND_BUFFER

BACKLOG = 2048

ACCEPTS_PER_TURN = 16
"""uvloop takes one connection of a listening socket in a turn of its loop. Where many come at once, as after a restart, the last
ones would wait for as many turns, each of them full of the first ones' requests: so whoever takes one looks for more.

(uvloop could be given copies of the socket. Each connection that comes alone would cost a vain system call for every copy.)
"""


class Accepting:
    """Serves the connections of a listening socket, which is its own from then on, each with one of `protocols`."""

    def __init__(self, listener: socket.socket, protocols: Callable[[], asyncio.Protocol]) -> None:
        # What is accepted has these from its listener: so nobody has to set them on each connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._listener = listener
        self._protocols = protocols
        self._loop = asyncio.get_running_loop()
        self._looks = False
        """This turn ends with a look for more."""
        self._adopting: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._server = await self._loop.create_server(self._first, sock=self._listener, backlog=BACKLOG)

    def close(self) -> None:
        """Accept no more. What was accepted goes on."""
        self._server.close()

    def _first(self) -> asyncio.Protocol:
        """The protocol of a connection that the loop has taken."""
        if not self._looks:
            self._looks = True
            self._loop.call_soon(self._take_more)
        return self._protocols()

    def _take_more(self) -> None:
        self._looks = False
        for _ in range(ACCEPTS_PER_TURN - 1):
            try:
                accepted, _ = self._listener.accept()
            except OSError:  # nearly always: there are no more. The loop finds whatever else it is by itself
                return
            adopting = self._loop.create_task(self._loop.connect_accepted_socket(self._protocols, accepted))
            self._adopting.add(adopting)
            adopting.add_done_callback(self._adopted)

    def _adopted(self, adopting: asyncio.Task[Any]) -> None:
        self._adopting.discard(adopting)
        if not adopting.cancelled():
            adopting.exception()  # that of a client that has left meanwhile: its socket is closed as it is let go

"""How a supervisor and its children change over to something new: all of them, or none.

Each child is asked to make ready, and says that it is, or why it cannot be. When all are, they are told to change over; when one
is not, to let go of it. Who is asked anew lets go of what it was asked before.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

from .stderr import LONGEST

MAKE_READY, CHANGE_OVER, LET_GO = "make-ready", "change-over", "let-go"
"""What a child is told."""
READY, REFUSED = "ready", "refused"
"""What it answers."""

_PACKET_BYTES = 4 * LONGEST + 64
"""A reason is no longer than the log would show it."""


class Message(NamedTuple):
    word: str
    number: int
    """Of the change it is about."""
    text: str = ""
    """Why, where it is refused."""
    data: bytes = b""
    """What to make ready for."""


class Channel:
    """One end of what passes between a supervisor and a child, for as long as both live. Never waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, word: str, number: int, text: str = "", file: int | None = None) -> None:
        """`file` is one of memory: a packet would hold too little, and who sends does not wait for who reads."""
        packet = f"{word} {number} {text[:LONGEST]}".encode(errors="replace")
        with suppress(ConnectionError):  # the other end has died, and is missed elsewhere
            socket.send_fds(self._socket, [packet], [] if file is None else [file])

    def receive(self) -> Message | None:
        """The next message, where there is one; None when the other end has died."""
        try:
            packet, files, _, _ = socket.recv_fds(self._socket, _PACKET_BYTES, 1)
        except ConnectionError:
            return None
        data = b"".join(_read(file) for file in files)
        if not packet:
            return None
        word, number, text = packet.decode().split(" ", 2)
        return Message(word, int(number), text, data)

    def close(self) -> None:
        self._socket.close()


def _read(file: int) -> bytes:
    try:
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


class Change(NamedTuple):
    """What the children are to change over to, and what its fate means to the supervisor's own."""

    data: bytes
    take: Callable[[], None]
    """All are ready. Called before they change over, so that whoever starts from now on has it."""
    refuse: Callable[[str], None]
    """One is not, for this reason."""


class Agreement:
    """A change that children are asked about, until it is settled. `number` tells it from others."""

    def __init__(self, number: int, change: Change) -> None:
        self.number = number
        self._change = change
        self._file = os.memfd_create("muxx-change")
        try:
            with open(self._file, "wb", closefd=False) as file:
                file.write(change.data)
        except OSError:
            os.close(self._file)
            raise
        self._asked: set[Channel] = set()
        self._awaited: set[Channel] = set()

    @property
    def is_unanimous(self) -> bool:
        return not self._awaited

    def concerns(self, child: Channel | None) -> bool:
        return child in self._asked

    def ask(self, child: Channel) -> None:
        """Raises `OSError` where it cannot be asked."""
        self._asked.add(child)
        self._awaited.add(child)
        child.send(MAKE_READY, self.number, file=self._file)

    def is_ready(self, child: Channel) -> None:
        self._awaited.discard(child)

    def conclude(self) -> None:
        self._change.take()
        self._tell(CHANGE_OVER)

    def refuse(self, reason: str) -> None:
        self._change.refuse(reason)
        self._tell(LET_GO)

    def withdraw(self) -> None:
        """It is not to be settled: something newer has come."""
        self._tell(LET_GO)

    def _tell(self, word: str) -> None:
        for child in self._asked:
            with suppress(BlockingIOError):  # who has been deaf for hundreds of changes
                child.send(word, self.number)
        os.close(self._file)

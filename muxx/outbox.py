"""What may leave only once the journal's lines are in the kernel's hands: a request behind its trace, an answer behind its row.

Lines and bytes are gathered for one turn of the event loop and go out together: first the lines of all its requests, in one
write, then the bytes, in order. Under load a turn serves many requests, and a system call costs several times as much on its own
as in a row of its kind. The first of a turn waits for no others while its call is the only one under way: it leaves at once, and
what is left to do of the call is done behind it.

Invariant: nothing that was put here after a line leaves before that line is written; if it cannot be written, it does not leave.
So whoever notes a line puts what is to follow it in the same turn, or calls `write_now` before waiting for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

from .errors import LogUnavailable, MuxxError

if TYPE_CHECKING:
    from .journal import Journal

Send = Callable[[bytes], None]
Failed = Callable[[MuxxError], None]


class Outbox:
    """Belongs to one journal, and with it to one event loop."""

    __slots__ = ("_due", "_first_left", "_items", "_journal", "running")

    def __init__(self, journal: Journal) -> None:
        self.running: Sized = ()
        """The calls that are under way."""
        self._journal = journal
        self._items: list[tuple[Send, bytes, Failed]] = []
        self._due = False
        """This turn ends with a flush."""
        self._first_left = False
        """Something left at once in this turn: what follows is gathered."""

    def put(self, send: Send, data: bytes, failed: Failed) -> None:
        """Call `send(data)` behind the lines that are there now, or `failed` with the reason why they could not be written.

        Neither may raise. At once, where the journal does not gather, and for the first bytes of a turn with only one call under
        way. Without `data`, `send` is only told.
        """
        if not self._journal.gathers:
            send(data)
            return
        self._items.append((send, data, failed))
        if data and not self._first_left and len(self.running) == 1:
            self._first_left = True
            self.flush()
        self.schedule()

    def schedule(self) -> None:
        """Flush in this turn of the loop, when what is ready now has had its go."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._due = self._first_left = False
        self.flush()

    def flush(self) -> None:
        """Write and send now. Who put something hears of a failure by its `failed`."""
        try:
            self.write_now()
        except LogUnavailable:
            pass

    def write_now(self) -> None:
        """Write and send now, for somebody who has a line but nothing to put yet; raises `LogUnavailable`."""
        items, self._items = self._items, []
        try:
            self._journal.flush()
        except LogUnavailable as error:
            for _, _, failed in items:
                failed(error)
            raise
        for send, data, _ in items:
            send(data)

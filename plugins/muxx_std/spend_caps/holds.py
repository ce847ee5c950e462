"""Who holds what: one hold for each request that is under way, written by the process that carries it.

A process takes blocks of holds as it needs them, from tables that are made as they are needed: where one says that it is full
(`filled`), there is a next one. Words of a block, from its first on: until when it has to be kept, the process whose it is, then
its holds, of six words each:

    0   the request's id, two words; the first is 0: there is no hold here
    2   the day whose window it is of
    3   pico-dollars
    4   the account's key, two words

A hold begins with its id, when the rest is there, and ends with it. What is left of a place serves the next request of the same
project and day: so where one after the other comes, its id is all that is written.

A block is its process's alone while that lives. Later whoever finds it settles what is still held there, and frees it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import TYPE_CHECKING, NamedTuple

from muxx import StartError, lives, this_process

from .account import FOR_EVER, HOLDS, Change
from .tally import AccountKey, Held, Tally

if TYPE_CHECKING:
    from muxx import Counters, Shared

_OWNER, _FIRST = 1, 2
_DAY, _PICO, _KEY, _HOLD_WORDS = 2, 3, 4, 6
_HOLDS_PER_BLOCK = 84
WORDS = _FIRST + _HOLDS_PER_BLOCK * _HOLD_WORDS
BLOCKS = 64
"""Of a table: room for 5,376 holds in 260 KiB of the shared file."""
MOST_TABLES = 64

NOBODY = 1
"""The process of holds that no living process has: of requests that were open when the host went down."""

_TABLE_SHIFT = 32
_IN_TABLE = (1 << _TABLE_SHIFT) - 1
_ID_PREFIX = "req_"
_ID_AT = len(_ID_PREFIX)
_bytes_of = bytes.fromhex


class NoRoom(Exception):
    """More is under way, or more projects spend, than the tables have room for."""


class Hold(NamedTuple):
    """A hold as it stands; `at` is its place: the number of its table, and its first word there."""

    at: int
    day: int
    pico: int
    key: AccountKey
    request_id: str


class Holds:
    """The holds of this process, and how to find those of dead ones. Any number of these may be in a process."""

    def __init__(self, shared: Shared, owner: int | None = None) -> None:
        self._shared = shared
        self._owner = this_process() if owner is None else owner
        self._salt = token_bytes(16)
        self._tables: list[Counters] = []
        self._blocks: list[int] = []
        self._free: list[Held] = []

    def _table(self, number: int) -> Counters:
        """That table; made where it is not there. `StartError` when there is no room on the disk."""
        while len(self._tables) <= number:
            self._tables.append(self._shared.counters(f"spend.held.{len(self._tables)}", BLOCKS, WORDS))
        return self._tables[number]

    def open(self) -> None:
        """Have the first table there."""
        self._table(0)

    def write(self, at: int, value: int) -> None:
        """Change the word at that place."""
        self._table(at >> _TABLE_SHIFT).table[at & _IN_TABLE] = value

    def end(self, places: Sequence[int]) -> None:
        """The holds at these places have ended."""
        self._table(max(places) >> _TABLE_SHIFT)
        tables = [counters.table for counters in self._tables]
        for at in places:
            tables[at >> _TABLE_SHIFT][at & _IN_TABLE] = 0

    def take(self, tally: Tally, request_id: str) -> Held:
        """This request's hold, of no money yet. Raises `NoRoom`."""
        free = self._free or self._grow(tally)
        held = free.pop()
        if held.tally is not tally:
            self._label(held, tally)
        held.table[held.id_words] = array("Q", _bytes_of(request_id[_ID_AT:]))
        return held

    def _label(self, held: Held, tally: Tally) -> None:
        """Say whose the holds of this place are, while there is none."""
        table, at = held.table, held.at & _IN_TABLE
        table[at + _DAY], table[at + _PICO] = tally.day, 0
        table[at + _KEY], table[at + _KEY + 1] = tally.account.words
        held.tally = tally

    def give_back(self, ended: Iterable[Held]) -> None:
        """These holds of nothing have ended: other requests may have their places."""
        self._free.extend(ended)

    def let_go(self, held: Held) -> None:
        """This hold has ended, or is to end now, whatever it was of."""
        at = held.at & _IN_TABLE
        held.table[at] = held.table[at + _PICO] = held.pico = 0
        self._free.append(held)

    def _grow(self, tally: Tally) -> list[Held]:
        """Have places for more holds. Raises `NoRoom`."""
        name = blake2b(self._salt + len(self._blocks).to_bytes(4), digest_size=16).digest()
        try:
            found = next((block for number in range(MOST_TABLES) if (block := self._block(number, name)) is not None), None)
        except StartError:  # a full disk
            raise NoRoom from None
        if found is None:
            raise NoRoom
        self._blocks.append(found)
        table, first = self._tables[found >> _TABLE_SHIFT].table, found + _FIRST
        for at in reversed(range(first, first + _HOLDS_PER_BLOCK * _HOLD_WORDS, _HOLD_WORDS)):
            id_at = at & _IN_TABLE
            held = Held(at, table, slice(id_at, id_at + 2), tally)
            self._label(held, tally)
            self._free.append(held)
        return self._free

    def _block(self, number: int, name: bytes) -> int | None:
        """A block of that table; None when it is full, and then there is a next one."""
        counters = self._table(number)
        with self._shared.holding([counters.place(name)]):
            block = counters.find(name, 0)
            if block is not None:
                counters.table[block + _OWNER] = self._owner
                counters.table[block] = FOR_EVER
                return number << _TABLE_SHIFT | block
        counters.filled = True
        return None

    def abandoned(self) -> Iterator[tuple[int, list[Hold]]]:
        """The blocks of dead processes, each with what is still held there."""
        return ((block, held) for block, owner, held in self.blocks() if not lives(owner))

    def blocks(self) -> Iterator[tuple[int, int, list[Hold]]]:
        """Every block, with its process and what is held there."""
        for number in range(MOST_TABLES):
            counters = self._table(number)
            table, start = counters.table, number << _TABLE_SHIFT
            for block in list(counters.records()):
                owner = table[block + _OWNER]
                if table[block] and owner:
                    places = range(block + _FIRST, block + _FIRST + _HOLDS_PER_BLOCK * _HOLD_WORDS, _HOLD_WORDS)
                    yield start | block, owner, [self.read(start | at) for at in places if table[at]]
            if not counters.filled:
                return

    def read(self, place: int) -> Hold:
        table, at = self._table(place >> _TABLE_SHIFT).table, place & _IN_TABLE
        key = table[at + _KEY], table[at + _KEY + 1]
        return Hold(place, table[at + _DAY], table[at + _PICO], key, _ID_PREFIX + table[at : at + 2].tobytes().hex())

    def accounts_in(self, block: int) -> set[AccountKey]:
        """Whose holds the places of this block are, or were."""
        table, first = self._table(block >> _TABLE_SHIFT).table, (block & _IN_TABLE) + _FIRST + _KEY
        places = range(first, first + _HOLDS_PER_BLOCK * _HOLD_WORDS, _HOLD_WORDS)
        return {(table[at], table[at + 1]) for at in places}

    def free(self, block: int) -> None:
        """Nothing is held in this block any more, and nobody will."""
        self.write(block + _OWNER, 0)
        self.write(block, 0)

    def close(self) -> None:
        """Give the blocks back. What is still held in one stays until this process has ended."""
        for block in self._blocks:
            table, at = self._table(block >> _TABLE_SHIFT).table, block & _IN_TABLE
            if not any(table[at + _FIRST : at + WORDS : _HOLD_WORDS]):
                self.free(block)
        self._blocks, self._free = [], []


def amount_of(at: int, pico: int) -> Change:
    """The change that makes a hold one of so many pico-dollars."""
    return HOLDS + at + _PICO, pico


def end_of(at: int) -> Change:
    """The change that ends a hold."""
    return HOLDS + at, 0

"""Holds money before a request goes up and settles what it came to: exactly, in whatever process and however that ends.

A request that goes up has a hold, of the most it may cost where a cap may refuse it, else of nothing. The hold ends in the moment
in which its cost is added to what is spent. The row is in the journal before that: so a hold whose process has died is settled by
its row, and one without row and trace was never sent.

Where no cap waits for it, a request takes its hold in its process's own memory of places (`holds.take`) and no lock at all; what
such requests came to is added up together now and then (`flush`), and always before this process asks a cap.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from . import account, holds
from .account import Accounts, Windows
from .holds import NOBODY, Hold, Holds, NoRoom
from .lists import MOST, HoldLists
from .tally import Account, AccountKey, Held, Tally

if TYPE_CHECKING:
    from muxx import Counters, Shared, SpendCap

ACCOUNTS = 4096
"""Projects that can spend on one host: 1.2 MiB of the shared file."""


class Reached(NamedTuple):
    """A cap that a request might go beyond; `current_pico` is what is spent and held already."""

    cap: SpendCap
    current_pico: int


_place_of = attrgetter("at")


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class SpendLedger:
    """The money of this host's projects. Any number of these, in any number of processes, keep the same accounts.

    Invariants: what is spent and held in a window of a block cap is never more than the cap when a hold is taken; each hold is
    settled once; what is spent is the sum of the costs of the rows.
    """

    def __init__(self, shared: Shared, now: Callable[[], int] = monotonic_ms) -> None:
        self._shared = shared
        self._now = now
        self._known: dict[str, Account] = {}
        self.tallies: dict[str, Tally] = {}
        """By project, that of the day in which its last request counts."""
        self._due: list[Tally] = []

    @cached_property
    def table(self) -> Counters:
        return self._shared.counters("spend.accounts", ACCOUNTS, account.WORDS)

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self.table.table, self.holds.write, self._end_listed)

    @cached_property
    def _lists(self) -> HoldLists:
        return HoldLists(self._shared)

    def _end_listed(self, ending: int) -> None:
        self.holds.end(self._lists.read(ending))

    @cached_property
    def holds(self) -> Holds:
        return Holds(self._shared)

    @cached_property
    def _nobodys(self) -> Holds:
        return Holds(self._shared, NOBODY)

    def open(self) -> None:
        """Have every table there: a request is no time to find that there is no room on the disk. Raises `StartError`."""
        _ = self.accounts, self._lists
        self.holds.open()

    def account(self, project: str) -> Account:
        known = self._known.get(project)
        if known is None:
            key = blake2b(project.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            known = self._known[project] = self._account_of((int.from_bytes(key[:8]), int.from_bytes(key[8:])))
        return known

    def _account_of(self, words: AccountKey) -> Account:
        key = words[0].to_bytes(8) + words[1].to_bytes(8)
        return Account(key, words, self._shared.holding((self.table.place(key),)))

    def tally(self, project: str, day: int) -> Tally:
        """Where this process adds up the project's requests of that day (since 1970)."""
        tally = self.tallies.get(project)
        if tally is None or tally.day != day:
            tally = self.tallies[project] = Tally(self.account(project), day, self._due)
        return tally

    def hold(self, project: str, caps: Iterable[SpendCap], day: int, request_id: str, pico: int) -> Held | Reached:
        """Hold so much for a request that began on that day (since 1970), unless one of the caps is in the way.

        Raises `NoRoom`.
        """
        held = self.holds.take(self.tally(project, day), request_id)
        reached = None
        try:
            reached = self._raise(held, caps, pico)
        except BaseException:
            self.holds.let_go(held)
            raise
        if reached is None:
            return held
        self.holds.let_go(held)
        return reached

    def raise_to(self, held: Held, caps: Iterable[SpendCap], pico: int) -> Held | Reached:
        """Hold more for a request, for its next attempt may cost more; what it holds stays when a cap is in the way."""
        return (self._raise(held, caps, pico) if pico > held.pico else None) or held

    def _raise(self, held: Held, caps: Iterable[SpendCap], pico: int) -> Reached | None:
        owner = held.tally.account
        if owner.is_due:  # a cap that is new has to know what was spent before
            self._settle_due([tally for tally in self._due if tally.account is owner])
        with owner.holding:
            record, windows = self._open(held.tally, self._now())
            more = pico - held.pico
            for cap in caps:
                spent, others = self.accounts.figures_in(windows[cap.window == "month"])
                if spent + others + more > cap.usd_pico:
                    return Reached(cap, spent + others)
            self.accounts.change(record, windows, 0, more, [holds.amount_of(held.at, pico)])
            held.pico = pico
        return None

    def day_for(self, project: str, day: int) -> int:
        """The day in whose windows a request of that day counts: as a rule its own. See `Accounts.day_for`."""
        owner = self.account(project)
        if owner.record is None:
            owner.record = self.table.peek(owner.key)
        return day if owner.record is None else self.accounts.day_for(owner.record, day, self._now())

    def settle(self, held: Held, pico: int) -> None:
        """The request came to so much: its hold ends, and that is spent."""
        with held.tally.account.holding:
            record, windows = self._open(held.tally, self._now())
            self.accounts.change(record, windows, pico, -held.pico, [holds.end_of(held.at)])
        self.holds.let_go(held)

    def flush(self) -> None:
        """Settle what is over (`Tally.settle_soon`)."""
        self._settle_due(self._due.copy())

    def _settle_due(self, due: list[Tally]) -> None:
        """Settle what is over of these. Should that fail for one, the next request of each is due anew all the same: what was not
        added up stays held until this process has ended."""
        taken = [(tally, tally.take_over()) for tally in due]
        for tally, over in taken:
            for start in range(0, len(over), MOST):
                self._settle_all(tally, over[start : start + MOST])

    def _settle_all(self, tally: Tally, over: list[tuple[Held, int]]) -> None:
        now = self._now()
        helds, picos = zip(*over, strict=True)
        ending = self._lists.write(array("Q", map(_place_of, helds)), now)
        if not ending:
            for held, pico in over:
                self.settle(held, pico)
            return
        with tally.account.holding:
            record, windows = self._open(tally, now)
            self.accounts.change(record, windows, sum(picos), 0, (), ending)
            if self.accounts.newest(record) > tally.day:
                self.tallies.clear()  # for the next request the day is asked for anew
        self.holds.give_back(helds)

    def keep(self, held: Held, pico: int) -> None:
        """The request came to so much, but there is no row that says so, and there will be none before this process has ended: so
        much stays held until then."""
        with held.tally.account.holding:
            record, windows = self._open(held.tally, self._now())
            self.accounts.change(record, windows, 0, pico - held.pico, [holds.amount_of(held.at, pico)])

    def _open(self, tally: Tally, now: int) -> tuple[int, Windows]:
        """The record of an account, and the windows of a day, while they are held. Raises `NoRoom`."""
        owner = tally.account
        if owner.record is None:
            owner.record = self.table.find(owner.key, now)
            if owner.record is None:
                raise NoRoom
        return owner.record, self.accounts.open(owner.record, tally.day, now)

    def figures(self, project: str, day: int) -> dict[str, tuple[int, int]]:
        """By kind of window, what is spent and held, in pico-dollars, in the one that the day is in."""
        owner = self.account(project)
        with owner.holding:
            record = self.table.peek(owner.key)
            if record is None:
                return {"day": (0, 0), "month": (0, 0)}
            return {"day": self.accounts.figures(record, "day", day), "month": self.accounts.figures(record, "month", day)}

    def add(self, project: str, day: int, pico: int, adjusted: int = 0) -> None:
        """Add to what a project has spent on a day, of either sign: a sum of rows, or a price that was corrected. `adjusted` is
        the number of the last correction in it; one that is counted already is not counted again."""
        tally = self.tally(project, day)
        with tally.account.holding:
            record, windows = self._open(tally, self._now())
            if not adjusted:
                self.accounts.change(record, windows, pico, 0)
            elif adjusted > self.accounts.adjusted(record):
                self.accounts.change(record, windows, pico, 0, [account.adjusted_to(record, adjusted)])

    # What the dead leave behind.

    def abandoned(self) -> dict[int, list[Hold]]:
        """By block, the holds of processes that have died."""
        return dict(self.holds.abandoned())

    def settle_abandoned(self, block: int, costs: Mapping[str, int]) -> None:
        """Settle those holds of a block whose request came to a known cost, and free the block when no other is left."""
        for _, left in [found for found in self.holds.abandoned() if found[0] == block]:
            for hold in left:
                if hold.request_id in costs:
                    self._settle_once(hold, costs[hold.request_id])
        with self._shared.holding([self.table.head]):
            if any(found == block and not left for found, left in self.holds.abandoned()):
                self._complete_begun(block)
                self.holds.free(block)

    def _complete_begun(self, block: int) -> None:
        """Nothing that the dead process began may be done later, when the block's places are somebody else's."""
        for words in self.holds.accounts_in(block):
            owner = self._account_of(words)
            with owner.holding:
                record = self.table.peek(owner.key)
                if record is not None:
                    self.accounts.complete(record)

    def _settle_once(self, hold: Hold, pico: int) -> None:
        """Unless another process has just done so."""
        owner = self._account_of(hold.key)
        with owner.holding:
            record, windows = self._open(Tally(owner, hold.day, self._due), self._now())
            now_there = self.holds.read(hold.at)  # its amount may have been changed by what was left to do
            if now_there.day == hold.day and now_there.request_id == hold.request_id:
                change = [holds.end_of(hold.at)]
                self.accounts.change(record, windows, pico, -now_there.pico, change)

    def leave_open(self, project: str, day: int, request_id: str, pico: int) -> None:
        """A request that was open when the host went down: its hold is one of nobody, until its row says what it came to."""
        self._raise(self._nobodys.take(self.tally(project, day), request_id), (), pico)

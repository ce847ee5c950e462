"""Holds money before a request goes up and settles what it came to: exactly, in whatever process and however that ends.

A request that goes up has a hold, of the most it may cost where a cap may refuse it, else of nothing. The hold ends in the moment
in which its cost is added to what is spent. The row is in the journal before that: so a hold whose process has died is settled by
its row, and one without row and trace was never sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from . import account, holds
from .account import Accounts, Windows
from .holds import NOBODY, AccountKey, Hold, Holds
from .lists import MOST, HoldLists

if TYPE_CHECKING:
    from muxx import Counters, Holding, Shared, SpendCap

ACCOUNTS = 4096
"""Projects that can spend on one host: 1.2 MiB of the shared file."""


class Account:
    """Where a project's account is looked for, and held; `record` is its first word, once it was found. It stays there."""

    __slots__ = ("holding", "key", "record", "words")

    def __init__(self, key: bytes, holding: Holding) -> None:
        self.key = key
        self.words: AccountKey = (int.from_bytes(key[:8]), int.from_bytes(key[8:]))
        self.holding = holding
        self.record: int | None = None


class Held(NamedTuple):
    """A request's hold: of how many pico-dollars, in the window of which day."""

    account: Account
    at: int
    day: int
    pico: int


class Reached(NamedTuple):
    """A cap that a request might go beyond; `current_pico` is what is spent and held already."""

    cap: SpendCap
    current_pico: int


class NoRoom(Exception):
    """More is under way, or more projects spend, than the tables have room for."""


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
        self._over: list[tuple[Held, int]] = []

    @cached_property
    def table(self) -> Counters:
        return self._shared.counters("spend.accounts", ACCOUNTS, account.WORDS)

    @cached_property
    def accounts(self) -> Accounts:
        return Accounts(self.table.table, self.holds.write, self._lists.read)

    @cached_property
    def _lists(self) -> HoldLists:
        return HoldLists(self._shared)

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
            known = self._known[project] = self._account_of(key)
        return known

    def _account_of(self, key: bytes) -> Account:
        return Account(key, self._shared.holding((self.table.place(key),)))

    def hold(self, project: str, caps: Iterable[SpendCap], day: int, request_id: str, pico: int) -> Held | Reached:
        """Hold so much for a request that began on that day (since 1970), unless one of the caps is in the way.

        Without caps nothing has to be compared, so the account is not even looked for. Raises `NoRoom`.
        """
        owner = self.account(project)
        at = self.holds.take(owner.words, day, request_id)
        if at is None:
            raise NoRoom
        held = Held(owner, at, day, 0)
        if not caps:
            return held
        reached = None
        try:
            reached = self._raise(held, caps, pico)
        except BaseException:
            self.settle(held, 0)
            raise
        if isinstance(reached, Reached):
            self.settle(held, 0)
        return reached

    def raise_to(self, held: Held, caps: Iterable[SpendCap], pico: int) -> Held | Reached:
        """Hold more for a request, for its next attempt may cost more; what it holds stays when a cap is in the way."""
        return self._raise(held, caps, pico) if pico > held.pico and caps else held

    def _raise(self, held: Held, caps: Iterable[SpendCap], pico: int) -> Held | Reached:
        with held.account.holding:
            now = self._now()
            record, windows = self._open(held.account, held.day, now)
            more = pico - held.pico
            for cap in caps:
                spent, others = self.accounts.figures_in(windows[cap.window == "month"])
                if spent + others + more > cap.usd_pico:
                    return Reached(cap, spent + others)
            self.accounts.change(record, windows, 0, more, [holds.amount_of(held.at, pico)])
            return held._replace(pico=pico)

    def day_for(self, project: str, day: int) -> int:
        """The day in whose windows a request of that day counts: as a rule its own. See `Accounts.day_for`."""
        owner = self.account(project)
        if owner.record is None:
            owner.record = self.table.peek(owner.key)
        return day if owner.record is None else self.accounts.day_for(owner.record, day, self._now())

    def settle(self, held: Held, pico: int) -> None:
        """The request came to so much: its hold ends, and that is spent."""
        with held.account.holding:
            record, windows = self._open(held.account, held.day, self._now())
            self.accounts.change(record, windows, pico, -held.pico, [holds.end_of(held.at)])
        self.holds.give_back(held.at)

    def settle_soon(self, held: Held, pico: int) -> bool:
        """As `settle`, at the next `flush`, for a hold of nothing that no cap waits for: many cost little more than one. True
        when it is the first since then."""
        self._over.append((held, pico))
        return len(self._over) == 1

    def flush(self) -> None:
        """Settle what is over."""
        over, self._over = self._over, []
        groups: dict[tuple[Account, int], list[tuple[Held, int]]] = {}
        for one in over:
            groups.setdefault((one[0].account, one[0].day), []).append(one)
        for (owner, day), ended in groups.items():
            for start in range(0, len(ended), MOST):
                self._settle_all(owner, day, ended[start : start + MOST])

    def _settle_all(self, owner: Account, day: int, ended: list[tuple[Held, int]]) -> None:
        now = self._now()
        places = [held.at for held, _ in ended]
        ending = self._lists.write(places, now)
        if not ending:
            for held, pico in ended:
                self.settle(held, pico)
            return
        with owner.holding:
            record, windows = self._open(owner, day, now)
            self.accounts.change(record, windows, sum(pico for _, pico in ended), 0, (), ending)
        for place in places:
            self.holds.give_back(place)

    def keep(self, held: Held, pico: int) -> None:
        """The request came to so much, but there is no row that says so, and there will be none before this process has ended: so
        much stays held until then."""
        with held.account.holding:
            record, windows = self._open(held.account, held.day, self._now())
            self.accounts.change(record, windows, 0, pico - held.pico, [holds.amount_of(held.at, pico)])

    def _open(self, owner: Account, day: int, now: int) -> tuple[int, Windows]:
        if owner.record is None:
            owner.record = self.table.find(owner.key, now)
            if owner.record is None:
                raise NoRoom
        return owner.record, self.accounts.open(owner.record, day, now)

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
        owner = self.account(project)
        with owner.holding:
            record, windows = self._open(owner, day, self._now())
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
                self.holds.free(block)

    def _settle_once(self, hold: Hold, pico: int) -> None:
        """Unless another process has just done so."""
        owner = self._account_of(hold.key[0].to_bytes(8) + hold.key[1].to_bytes(8))
        with owner.holding:
            record, windows = self._open(owner, hold.day, self._now())
            now_there = self.holds.read(hold.at)  # its amount may have been changed by what was left to do
            if now_there.day == hold.day and now_there.request_id == hold.request_id:
                change = [holds.end_of(hold.at)]
                self.accounts.change(record, windows, pico, -now_there.pico, change)

    def leave_open(self, project: str, day: int, request_id: str, pico: int) -> None:
        """A request that was open when the host went down: its hold is one of nobody, until its row says what it came to."""
        owner = self.account(project)
        at = self._nobodys.take(owner.words, day, request_id)
        if at is None:
            raise NoRoom
        self._raise(Held(owner, at, day, 0), (), pico)

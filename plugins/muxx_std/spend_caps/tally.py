"""What a process knows of the accounts it counts in: values of its own, beside the words that all processes see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxx import Holding

AccountKey = tuple[int, int]


class Account:
    """Where a project's account is looked for, and held; `record` is its first word, once it was found. It stays there."""

    __slots__ = ("holding", "is_due", "key", "record", "words")

    def __init__(self, key: bytes, words: AccountKey, holding: Holding) -> None:
        """`words` are the key's."""
        self.key = key
        self.words = words
        self.holding = holding
        self.record: int | None = None
        self.is_due = False
        """Whether something is over in this process that is not added up yet."""


class Tally:
    """A project's requests of one day (since 1970) in this process: those that are over and not added up yet, each with what it
    came to, in pico-dollars."""

    __slots__ = ("_due", "account", "day", "over")

    def __init__(self, account: Account, day: int, due: list[Tally]) -> None:
        """`due` is where it is found when something is over."""
        self.account = account
        self.day = day
        self.over: list[tuple[Held, int]] = []
        self._due = due

    def settle_soon(self, held: Held, pico: int) -> bool:
        """Settle a hold of nothing, that no cap waits for, at the next `SpendLedger.flush`: many cost little more than one. True
        when it is the first since then."""
        if self.over:
            self.over.append((held, pico))
            return False
        self.over.append((held, pico))
        self._due.append(self)
        self.account.is_due = True
        return len(self._due) == 1

    def take_over(self) -> list[tuple[Held, int]]:
        """What is over, for the caller to add up."""
        over, self.over = self.over, []
        self._due.remove(self)
        self.account.is_due = False
        return over


class Held:
    """A request's hold: of how many pico-dollars, in whose windows. It is its place's: once it is settled, it is another
    request's."""

    __slots__ = ("at", "id_words", "pico", "table", "tally")

    def __init__(self, at: int, table: memoryview, id_words: slice, tally: Tally) -> None:
        """`at` is the place, by which every process knows it; `id_words` are those of `table` that say whose hold it is."""
        self.at = at
        self.table = table
        self.id_words = id_words
        self.tally = tally
        self.pico = 0

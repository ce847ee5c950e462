"""Counts a request in everything that limits it, or in nothing: under the locks of all of it at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import muxx

from . import day, flying, minute
from .day import Days
from .flying import Flying
from .minute import Minutes
from .subject import OWNER_BYTES, Day, Minute, Standing, Subject, Ticket, Verdict, key_of

if TYPE_CHECKING:
    from muxx import Counters, Limits, Shared

MINUTE_RECORDS = 65_536
DAY_RECORDS = 262_144
KEY_RECORDS = 4_096
"""Projects and users that can be counted at a time, in a minute and in a day, and keys; together 52 MiB of the shared file."""

HOUR = 3_600_000
"""Milliseconds."""
UNKNOWN_WAIT = 1_000
"""Milliseconds to wait for what ends nobody knows when: another request of the key, or room in a table."""


def monotonic_ms() -> int:
    """The clock of limits."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """The clock of days."""
    return time.time_ns() // 1_000_000


FoundMinute = tuple["Minute", int, int, int, int]
"""A limit of a minute, where its record is, and the moment it was brought up to, with the requests and tokens of then."""


class Found(NamedTuple):
    """The records of a subject, brought up to now; of each day its limit, where it is, and its requests."""

    minutes: list[FoundMinute]
    days: list[tuple[Day, int, int]]
    flying: int | None
    now: int
    wall: int


class Ledger:
    """What is counted on this host. Any number of them, in any number of processes, count in the same records.

    Invariants: a request is counted in all that limits it or in none, and so are its tokens; the clock is read while everything
    is held, so what is counted earlier is never earlier than what was counted before; no project has no room because of another's
    users.
    """

    def __init__(self, shared: Shared, now: Callable[[], int] = monotonic_ms, wall: Callable[[], int] = wall_ms) -> None:
        """`now` is the monotonic clock, `wall` Unix time, both in milliseconds."""
        self._shared = shared
        self._now = now
        self._wall = wall
        self._owner = muxx.this_process()

    # A table is made when something is first counted in it.

    @cached_property
    def minute_table(self) -> Counters:
        return self._shared.counters("limits.minute", MINUTE_RECORDS, minute.WORDS)

    @cached_property
    def day_table(self) -> Counters:
        return self._shared.counters("limits.day", DAY_RECORDS, day.WORDS)

    @cached_property
    def key_table(self) -> Counters:
        return self._shared.counters("limits.key", KEY_RECORDS, flying.WORDS)

    @cached_property
    def minutes(self) -> Minutes:
        return Minutes(self.minute_table.table)

    @cached_property
    def days(self) -> Days:
        return Days(self.day_table.table)

    @cached_property
    def flying(self) -> Flying:
        return Flying(self.key_table.table)

    def begin(self) -> None:
        """What is counted so far is all there is to count, and nothing needs to be counted again from the rows."""
        tables = [self.minute_table, self.day_table]
        with self._shared.holding(sorted(table.head for table in tables)):
            for table in tables:
                table.filled = True

    def subject(self, limits: Limits, project: str, user: str | None, key_id: str | None) -> Subject | None:
        """What limits the requests of this project, user and key; None: nothing."""
        minutes, days = [], []
        own, users = key_of("project", project), key_of("user", project, user or "")
        if limits.rpm or limits.tpm:
            minutes.append(Minute("", own, limits.rpm, limits.tpm))
        if limits.rpd:
            days.append(Day("", own, limits.rpd))
        if user is not None and (limits.user_rpm or limits.user_tpm):
            minutes.append(Minute("user_", users, limits.user_rpm, limits.user_tpm))
        if user is not None and limits.user_rpd:
            days.append(Day("user_", users, limits.user_rpd))
        flies = (key_of("key", project, key_id), limits.key_in_flight) if limits.key_in_flight and key_id else None
        of_minutes = {self.minute_table.place(limit.key) for limit in minutes}
        places = of_minutes | {self.day_table.place(limit.key) for limit in days}
        if flies is not None:
            places.add(self.key_table.place(flies[0]))
        if not places:
            return None
        most_tokens = min((limit.tpm for limit in minutes if limit.tpm), default=0)
        holding, holding_minutes = (self._shared.holding(sorted(held)) for held in (places, of_minutes))
        return Subject(tuple(minutes), tuple(days), flies, holding, holding_minutes, most_tokens)

    def admit(self, subject: Subject, tokens: int = 0, *, tell: bool = False) -> Verdict:
        """Count a request, or say how long it has to wait, where it may come to so many tokens: those are not counted before
        `reserve`. `tell`: and how every limit stands then, but for requests under way."""
        with subject.holding:
            found = self._look(subject)
            if found is None:
                return Verdict(None, UNKNOWN_WAIT, None)
            wait = self._wait(subject, found, 0) and self._wait(subject, found, tokens)
            ticket = None if wait else self._take(subject, found)
            more = 0 if wait else 1
            return Verdict(ticket, wait, self._tightest(found, more), self._told(found, more, 0) if tell else ())

    def _take(self, subject: Subject, found: Found) -> Ticket:
        take_minute, take_day, now = self.minutes.take, self.days.take, found.now
        seconds = tuple([take_minute(at, moment, 1, 0) for _, at, moment, _, _ in found.minutes])
        days = tuple([take_day(at, now, 1) for _, at, _ in found.days])
        if found.flying is not None:
            self.flying.take(found.flying, now, self._owner)
        return Ticket(subject, seconds, days)

    def reserve(self, ticket: Ticket, tokens: int | None, *, tell: bool = False) -> Verdict:
        """Count so many tokens for a request that was admitted. Where its limits do not allow them now, or never will (None), it
        is refused after all, and counted no more."""
        subject = ticket.subject
        with subject.holding if tell else subject.holding_minutes:
            found = self._look(subject, only_minutes=not tell)
            wait = UNKNOWN_WAIT if found is None else 0 if tokens is None else self._wait_for_tokens(found, tokens)
            if found is not None and tokens is not None and not wait:
                take = self.minutes.take
                reserved = tuple([take(at, moment, 0, tokens) for _, at, moment, _, _ in found.minutes])
                told = self._told(found, 0, tokens) if tell else ()
                return Verdict(ticket._replace(reserved=reserved, tokens=tokens), 0, None, told)
        with subject.holding:
            self._take_back(ticket, self._now())
            found = self._look(subject)
            if found is None:
                return Verdict(None, wait, None)
            return Verdict(None, wait, self._tightest(found, 0), self._told(found, 0, 0) if tell else ())

    def settle(self, ticket: Ticket, tokens: int, *, counts: bool = True) -> None:
        """The request has ended and came to so many tokens. `counts`: it remains a request; else it was refused after all."""
        subject = ticket.subject
        less = ticket.tokens - tokens if subject.most_tokens else 0
        if counts and not less and subject.flying is None:
            return
        with subject.holding_minutes if counts and subject.flying is None else subject.holding:
            now = self._now()
            if less:
                self._settle_tokens(ticket, now, less)
            if not counts:
                self._take_back(ticket, now)
            elif subject.flying is not None:
                self._land(subject.flying[0], now)

    def _settle_tokens(self, ticket: Ticket, now: int, less: int) -> None:
        """Take so many tokens back from where they are reserved; what is more than that counts now."""
        minutes, find = self.minutes, self.minute_table.find
        for number, limit in enumerate(ticket.subject.minutes):
            if (place := find(limit.key, now)) is None:
                continue
            if less < 0:
                minutes.take(place, minutes.look(place, now)[0], 0, -less)
            else:
                minutes.give_back(place, ticket.reserved[number], 0, less)

    def _take_back(self, ticket: Ticket, now: int) -> None:
        """The request was none."""
        subject = ticket.subject
        for limit, second in zip(subject.minutes, ticket.seconds, strict=True):
            if (place := self.minute_table.find(limit.key, now)) is not None:
                self.minutes.give_back(place, second, 1, 0)
        for daily, of_day in zip(subject.days, ticket.days, strict=True):
            if (place := self.day_table.find(daily.key, now)) is not None:
                self.days.give_back(place, of_day)
        if subject.flying is not None:
            self._land(subject.flying[0], now)

    def _land(self, key: bytes, now: int) -> None:
        """A request of this key is under way no more."""
        if (flies := self.key_table.find(key, now)) is not None:
            self.flying.give_back(flies, self._owner)

    def recount_minute(self, subject: Subject, moment: int, requests: int, tokens: int) -> None:
        """Count what was admitted at a moment of the monotonic clock that is past. Of a record count earlier ones first."""
        with subject.holding:
            for limit in subject.minutes:
                place = self.minute_table.find(limit.key, moment)
                if place is not None:
                    self.minutes.take(place, self.minutes.look(place, moment)[0], requests, tokens)

    def recount_day(self, key: bytes, requests: int) -> None:
        """Count what was admitted before on this UTC day; the key is that of a limit."""
        with self._shared.holding([self.day_table.place(key)]):
            now = self._now()
            place = self.day_table.find(key, now)
            if place is not None:
                self.days.look(place, now, self._wall())
                self.days.take(place, now, requests)

    def counted_today(self, key: bytes) -> int:
        """What is counted of this UTC day in the limit of that key."""
        with self._shared.holding([self.day_table.place(key)]):
            place = self.day_table.peek(key)
            return 0 if place is None else self.days.look(place, self._now(), self._wall())

    def standings(self, subject: Subject) -> list[Standing]:
        """How every limit stands. Counts nothing."""
        with subject.holding:
            found = self._look(subject)
            if found is None:
                return []
            told = self._request_standings(found, 0)
            for limit, at, moment, _, used in found.minutes:
                if limit.tpm:
                    reset = found.wall + self.minutes.wait(at, moment, 0, 1)
                    told.append(Standing(f"{limit.name}tpm", limit.tpm, used, reset))
            if found.flying is not None and subject.flying is not None:
                told.append(Standing("key_in_flight", subject.flying[1], self.flying.count(found.flying), found.wall))
            return told

    def _told(self, found: Found, requests: int, tokens: int) -> tuple[muxx.Standing, ...]:
        """As `exchange.standings` has them, with so many more than were found. A minute slides and has no end of its own: there
        it is that of the UTC hour."""
        told = []
        hour_end = (found.wall // HOUR + 1) * HOUR
        for limit, _, _, used, used_tokens in found.minutes:
            if limit.rpm:
                told.append(muxx.Standing(limit.name + "rpm", limit.rpm, used + requests, hour_end))
            if limit.tpm:
                told.append(muxx.Standing(limit.name + "tpm", limit.tpm, used_tokens + tokens, hour_end))
        for daily, at, used in found.days:
            told.append(muxx.Standing(daily.name + "rpd", daily.rpd, used + requests, self.days.end(at)))
        return tuple(told)

    def _look(self, subject: Subject, *, only_minutes: bool = False) -> Found | None:
        """The records of a subject, or those of its minutes, for which less is to be held. None when one has no room in its
        table."""
        now, wall = self._now(), self._wall()
        minutes: list[FoundMinute] = []
        days: list[tuple[Day, int, int]] = []
        flies = None
        for limit in subject.minutes:
            if (at := _place(self.minute_table, limit.key, now)) is None:
                return None
            minutes.append((limit, at, *self.minutes.look(at, now)))
        if only_minutes:
            return Found(minutes, days, flies, now, wall)
        for daily in subject.days:
            if (at := _place(self.day_table, daily.key, now)) is None:
                return None
            days.append((daily, at, self.days.look(at, now, wall)))
        if subject.flying is not None and (flies := self.key_table.find(subject.flying[0], now)) is None:
            return None
        return Found(minutes, days, flies, now, wall)

    def _wait(self, subject: Subject, found: Found, tokens: int) -> int:
        """Milliseconds until one more request of so many tokens could be admitted; 0: now."""
        wait = self._wait_for_tokens(found, tokens)
        for limit, at, moment, used, _ in found.minutes:
            if limit.rpm and used >= limit.rpm:
                wait = max(wait, 1, self.minutes.wait(at, moment, used + 1 - limit.rpm, 0))
        for daily, at, used in found.days:
            if used >= daily.rpd:
                wait = max(wait, 1, self.days.wait(at, found.now, found.wall))
        flies = subject.flying
        if flies is not None and found.flying is not None and not self.flying.has_room(found.flying, flies[1], self._owner):
            wait = max(wait, UNKNOWN_WAIT)
        return wait

    def _wait_for_tokens(self, found: Found, tokens: int) -> int:
        """Milliseconds until so many more could be reserved; 0: now."""
        wait = 0
        for limit, at, moment, _, used in found.minutes:
            if tokens and limit.tpm and used + tokens > limit.tpm:
                wait = max(wait, 1, self.minutes.wait(at, moment, 0, used + tokens - limit.tpm))
        return wait

    def _tightest(self, found: Found, more: int) -> Standing | None:
        """How the limit of requests stands that has least left, with so many more than were found; None where there is none."""
        standings = self._request_standings(found, more)
        return min(standings, key=_left) if len(standings) > 1 else standings[0] if standings else None

    def _request_standings(self, found: Found, more: int) -> list[Standing]:
        """How every limit of requests stands, with so many more than were found."""
        standings = []
        for limit, at, moment, used, _ in found.minutes:
            if limit.rpm:
                leaving = max(1, used + more + 1 - limit.rpm)
                reset = found.wall + self.minutes.wait(at, moment, leaving, 0)
                standings.append(Standing(limit.name + "rpm", limit.rpm, used + more, reset))
        for daily, at, used in found.days:
            reset = found.wall + self.days.wait(at, found.now, found.wall)
            standings.append(Standing(daily.name + "rpd", daily.rpd, used + more, reset))
        return standings


def _place(counters: Counters, key: bytes, now: int) -> int | None:
    """The record of a key, which nothing else that is looked for at this moment takes the place of."""
    at = counters.find(key, now, OWNER_BYTES)
    if at is not None and counters.table[at] <= now:
        counters.table[at] = now + 1
    return at


def _left(standing: Standing) -> tuple[int, int]:
    """What the tightest limit has least of: what remains of it, and time in which nothing comes back."""
    return standing.limit - standing.used, -standing.reset

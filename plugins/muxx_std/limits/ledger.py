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
from .subject import Day, Minute, Standing, Subject, Ticket, Verdict, key_of

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


class Found(NamedTuple):
    """The records of a subject: of each minute with the moment it was brought up to."""

    minutes: list[tuple[int, int]]
    days: list[int]
    flying: int | None
    now: int
    wall: int


class Ledger:
    """What is counted on this host. Any number of them, in any number of processes, count in the same records.

    Invariants: a request is counted in all that limits it or in none; the clock is read while everything is held, so what is
    counted earlier is never earlier than what was counted before.
    """

    def __init__(self, shared: Shared, now: Callable[[], int] = monotonic_ms, wall: Callable[[], int] = wall_ms) -> None:
        """`now` is the monotonic clock, `wall` Unix time, both in milliseconds."""
        self._shared = shared
        self._now = now
        self._wall = wall
        self._owner = flying.own()

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
        places = {self.minute_table.place(limit.key) for limit in minutes} | {self.day_table.place(limit.key) for limit in days}
        if flies is not None:
            places.add(self.key_table.place(flies[0]))
        return Subject(tuple(minutes), tuple(days), flies, tuple(sorted(places))) if places else None

    def admit(self, subject: Subject, tokens: int, *, tell: bool = False) -> Verdict:
        """Count a request that may come to so many tokens, or say how long it has to wait. `tell`: and how every limit stands
        then, but for requests under way."""
        with self._shared.holding(subject.places):
            found = self._look(subject)
            if found is None:
                return Verdict(None, UNKNOWN_WAIT, None)
            wait = self._wait(subject, found, tokens)
            ticket = None if wait else self._take(subject, found, tokens)
            standings = self._request_standings(subject, found)
            if len(standings) > 1:
                standings.sort(key=lambda one: (one.remaining, -one.reset))
            told = self._told(subject, found) if tell else ()
            return Verdict(ticket, wait, standings[0] if standings else None, told)

    def _take(self, subject: Subject, found: Found, tokens: int) -> Ticket:
        seconds = tuple([self.minutes.take(place, moment, 1, tokens) for place, moment in found.minutes])
        days = tuple([self.days.take(place, found.now, 1) for place in found.days])
        if found.flying is not None:
            self.flying.take(found.flying, found.now, self._owner)
        return Ticket(subject, seconds, days, tokens)

    def settle(self, ticket: Ticket, tokens: int, *, counts: bool = True) -> None:
        """The request has ended and came to so many tokens. `counts`: it remains a request; else it was refused after all."""
        subject = ticket.subject
        less = ticket.tokens - tokens if subject.most_tokens else 0
        if counts and not less and subject.flying is None:
            return
        with self._shared.holding(subject.places):
            found = self._look(subject)
            if found is None:
                return
            for (place, moment), second in zip(found.minutes, ticket.seconds, strict=True):
                self.minutes.give_back(place, second, int(not counts), max(less, 0))
                if less < 0:
                    self.minutes.take(place, moment, 0, -less)
            for place, of_day in zip(found.days, ticket.days, strict=True):
                if not counts:
                    self.days.give_back(place, of_day)
            if found.flying is not None:
                self.flying.give_back(found.flying, self._owner)

    def recount_minute(self, subject: Subject, moment: int, requests: int, tokens: int) -> None:
        """Count what was admitted at a moment of the monotonic clock that is past. Of a record count earlier ones first."""
        with self._shared.holding(subject.places):
            for limit in subject.minutes:
                place = self.minute_table.find(limit.key, moment)
                if place is not None:
                    self.minutes.take(place, self.minutes.look(place, moment), requests, tokens)

    def recount_day(self, subject: Subject, requests: int) -> None:
        """Count what was admitted before on this UTC day."""
        with self._shared.holding(subject.places):
            now = self._now()
            for limit in subject.days:
                place = self.day_table.find(limit.key, now)
                if place is not None:
                    self.days.look(place, now, self._wall())
                    self.days.take(place, now, requests)

    def standings(self, subject: Subject) -> list[Standing]:
        """How every limit stands. Counts nothing."""
        with self._shared.holding(subject.places):
            found = self._look(subject)
            if found is None:
                return []
            told = self._request_standings(subject, found)
            for limit, (place, moment) in zip(subject.minutes, found.minutes, strict=True):
                if limit.tpm:
                    reset = found.wall + self.minutes.wait(place, moment, 0, 1)
                    told.append(Standing(f"{limit.name}tpm", limit.tpm, self.minutes.tokens(place), reset))
            if found.flying is not None and subject.flying is not None:
                told.append(Standing("key_in_flight", subject.flying[1], self.flying.count(found.flying), found.wall))
            return told

    def _told(self, subject: Subject, found: Found) -> tuple[muxx.Standing, ...]:
        """As `exchange.standings` has them. A minute slides and has no end of its own: there it is that of the UTC hour."""
        told = []
        hour_end = (found.wall // HOUR + 1) * HOUR
        for limit, (place, _) in zip(subject.minutes, found.minutes, strict=True):
            if limit.rpm:
                told.append(muxx.Standing(limit.name + "rpm", limit.rpm, self.minutes.requests(place), hour_end))
            if limit.tpm:
                told.append(muxx.Standing(limit.name + "tpm", limit.tpm, self.minutes.tokens(place), hour_end))
        for daily, place in zip(subject.days, found.days, strict=True):
            told.append(muxx.Standing(daily.name + "rpd", daily.rpd, self.days.requests(place), self.days.end(place)))
        return tuple(told)

    def _look(self, subject: Subject) -> Found | None:
        """The records of a subject, brought up to now. None when one has no room in its table."""
        now, wall = self._now(), self._wall()
        minutes, days, flies = [], [], None
        for limit in subject.minutes:
            if (place := self.minute_table.find(limit.key, now)) is None:
                return None
            minutes.append((place, self.minutes.look(place, now)))
        for daily in subject.days:
            if (place := self.day_table.find(daily.key, now)) is None:
                return None
            self.days.look(place, now, wall)
            days.append(place)
        if subject.flying is not None and (flies := self.key_table.find(subject.flying[0], now)) is None:
            return None
        return Found(minutes, days, flies, now, wall)

    def _wait(self, subject: Subject, found: Found, tokens: int) -> int:
        """Milliseconds until one more request of so many tokens could be admitted; 0: now."""
        waits = [0]
        for limit, (place, moment) in zip(subject.minutes, found.minutes, strict=True):
            over = self.minutes.requests(place) + 1 - limit.rpm if limit.rpm else 0
            too_many = self.minutes.tokens(place) + tokens - limit.tpm if limit.tpm and tokens else 0
            if over > 0 or too_many > 0:
                waits.append(max(1, self.minutes.wait(place, moment, over, too_many)))
        for daily, place in zip(subject.days, found.days, strict=True):
            if self.days.requests(place) >= daily.rpd:
                waits.append(max(1, self.days.wait(place, found.now, found.wall)))
        flies = subject.flying
        if flies is not None and found.flying is not None and not self.flying.has_room(found.flying, flies[1], self._owner):
            waits.append(UNKNOWN_WAIT)
        return max(waits)

    def _request_standings(self, subject: Subject, found: Found) -> list[Standing]:
        standings = []
        for limit, (place, moment) in zip(subject.minutes, found.minutes, strict=True):
            if limit.rpm:
                used = self.minutes.requests(place)
                reset = found.wall + self.minutes.wait(place, moment, max(1, used + 1 - limit.rpm), 0)
                standings.append(Standing(limit.name + "rpm", limit.rpm, used, reset))
        for daily, place in zip(subject.days, found.days, strict=True):
            reset = found.wall + self.days.wait(place, found.now, found.wall)
            standings.append(Standing(daily.name + "rpd", daily.rpd, self.days.requests(place), reset))
        return standings

"""What limits a caller, and how it stands: values."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import muxx

if TYPE_CHECKING:
    from muxx import Holding


class Minute(NamedTuple):
    """The limits of one minute; 0: none."""

    name: str
    """What stands before `rpm` and `tpm`: nothing, or `user_`."""
    key: bytes
    rpm: int
    tpm: int


class Day(NamedTuple):
    name: str
    key: bytes
    rpd: int


class Subject(NamedTuple):
    """All that limits a caller's requests."""

    minutes: tuple[Minute, ...]
    days: tuple[Day, ...]
    flying: tuple[bytes, int] | None
    holding: Holding
    """What is to be held to count in all of it."""
    holding_minutes: Holding
    most_tokens: int
    """The tightest limit of tokens; 0 where there is none."""


class Ticket(NamedTuple):
    """Where an admitted request is counted, and the tokens reserved for it."""

    subject: Subject
    seconds: tuple[int, ...]
    days: tuple[int, ...]
    reserved: tuple[int, ...] = ()
    """The seconds in which its tokens are counted; none where it has reserved none."""
    tokens: int = 0


class Standing(NamedTuple):
    """How a limit stands. `reset` is when more of it comes back, in milliseconds of Unix time."""

    name: str
    limit: int
    used: int
    reset: int

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


class Verdict(NamedTuple):
    """Of a request: its ticket, or how many milliseconds it has to wait; `tightest` is of the limits of requests. `told` is for
    who is told of shares of limits."""

    ticket: Ticket | None
    wait: int
    tightest: Standing | None
    told: tuple[muxx.Standing, ...] = ()


OWNER_BYTES = 4


def key_of(kind: str, project: str, of: str = "") -> bytes:
    """The key of what belongs to a project: its first bytes are the project's, and nobody finds others for the rest."""
    return _digest(project, size=OWNER_BYTES) + _digest(kind, project, of, size=16 - OWNER_BYTES)


def _digest(*words: str, size: int) -> bytes:
    return blake2b(b"".join(b"%d:%b" % (len(data), data) for data in map(_utf8, words)), digest_size=size).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

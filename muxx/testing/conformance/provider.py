"""What the provider does in each case: the scripts of the matrix's `upstream`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from ..answers import head, json, sse
from ..cutting import SIZES, cuts
from ..said import Pieces, letters, words
from ..speaking import failed, plain, refused, streamed
from ..steps import Script, Step, hold, rst, wait
from .cases import NO_LUCK

if TYPE_CHECKING:
    from .cases import Case
    from .evidence import Subject

BYTE_BY_BYTE = 150
"""Bytes at each end of an answer."""
SMALL = 17

PIECES: dict[str, Pieces] = {"said letter by letter": letters, "said at once": lambda text: [text] if text else []}


class Gates:
    """What the provider of a shared call waits for: everybody's being there, and what is to happen in the middle of it."""

    def __init__(self) -> None:
        self.begin = asyncio.Event()
        self.rest = asyncio.Event()


def written(case: Case, subject: Subject) -> list[bytes]:
    """The answer's bytes as they are sent: the events of a stream, or a plain body in one piece."""
    said = subject.said(case.asked_at)
    if not case.stream:
        return [plain(case.asked_at, said, "gpt-4o")]
    return streamed(case.asked_at, said, "gpt-4o", pieces=PIECES.get(case.upstream, words))


def script_for(case: Case, turn: int, subject: Subject) -> Script:
    """The script of this case for its provider's `turn`-th request, which is counted from 1."""
    pieces = written(case, subject)
    if case.upstream.startswith("refuses with "):
        return _refuses(case, int(case.upstream[-3:]))
    if case.upstream == "fails once" and turn == 1:
        return _refuses(case, 503)
    broken = _BROKEN.get(case.upstream)
    if broken is not None:
        return broken(case, pieces)
    return _in_pieces(case, pieces)


def script_of_shared(case: Case, subject: Subject, gates: Gates) -> Script:
    """The script of a call that several exchanges share."""
    if case.upstream != "pauses in the middle":
        return [wait(gates.begin), *script_for(case, 1, subject)]
    pieces = written(case, subject)
    if not case.stream:
        middle, last = len(pieces[0]) // 2, pieces[0]
        return [wait(gates.begin), _plain_head(last) + last[:middle], wait(gates.rest), last[middle:]]
    middle = len(pieces) // 2
    first, *rest = sse(chunks=pieces)
    return [wait(gates.begin), first, *rest[:middle], wait(gates.rest), *rest[middle:]]


def _in_pieces(case: Case, pieces: list[bytes]) -> Script:
    data = b"".join(pieces)
    if case.upstream == "cut byte by byte":
        cut = _finely(data)
    elif case.upstream == "cut anywhere":
        cut = list(cuts(data, case.number, SIZES[1:]))
    else:
        return sse(chunks=pieces) if case.stream else json(data)
    return sse(chunks=cut) if case.stream else [_plain_head(data), *cut]


def _finely(data: bytes) -> list[bytes]:
    """Byte by byte where an answer begins and ends, and in small pieces between: thousands of writes show nothing more, and take
    seconds for each plugin."""
    size = len(data)
    first = min(BYTE_BY_BYTE, size)
    last = max(first, size - BYTE_BY_BYTE)
    return [data[at:end] for at, end in pairwise([*range(first), *range(first, last, SMALL), *range(last, size), size])]


def _plain_head(data: bytes) -> bytes:
    return head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})


def _middle(case: Case, pieces: list[bytes]) -> list[Step]:
    """A head, and half of an answer."""
    if case.stream:
        return list(sse(chunks=pieces[: len(pieces) // 2]))[:-1]
    return [_plain_head(pieces[0]) + pieces[0][: len(pieces[0]) // 2]]


def _refuses(case: Case, status: int) -> Script:
    return json(refused(case.asked_at, status, "No luck.", NO_LUCK), status)


def _garbage(case: Case, pieces: list[bytes]) -> Iterator[Step]:
    if not case.stream:
        return iter(json(b'{"choices": [{'))
    return iter(sse(chunks=[*pieces[: len(pieces) // 2], b"data: {no json\n\n"]))


_BROKEN: dict[str, Callable[[Case, list[bytes]], Script]] = {
    "resets": lambda case, pieces: [*_middle(case, pieces), rst()],
    "sends garbage": _garbage,
    "ends early": lambda case, pieces: sse(chunks=pieces[: len(pieces) // 2]),
    "tells of an error": lambda case, pieces: sse(chunks=[*pieces[: len(pieces) // 2], failed(case.asked_at, code=NO_LUCK)]),
    "waits before the head": lambda case, pieces: [hold()],
    "waits in the middle": lambda case, pieces: [*_middle(case, pieces), hold()],
    "waits before the end": lambda case, pieces: [*list(sse(chunks=pieces[:-1]))[:-1], hold()],
}

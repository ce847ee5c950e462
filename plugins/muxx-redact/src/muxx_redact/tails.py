"""Where a text may end in the middle of something.

An `Open` function gives the first place, at or after `start`, from which on characters still to come could make a match, or
change one; `len(text)` when there is none. Matches are made of few characters, so what is open lies in the run of such characters
at the text's end, and no further back than the longest match. These functions may say too much is open, never too little.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Open = Callable[[str, int], int]

LATIN = "\u00c0-\u024f"
"""Letters of European languages beyond ASCII: in names before an @, and in domains."""

WORD_REACH = 700
"""More than the longest e-mail address (641) and the longest key (305)."""
NUMBER_REACH = 64
"""More than the longest telephone number (44), and the digit that would be one too many."""

_WORD = re.compile(rf"[0-9A-Za-z{LATIN}._%+@:-]*+")
_NUMBER = re.compile("[0-9 .()+/\u00a0-]*+")
_BEGINS_NUMBER = re.compile(r"[0-9(+]")


def open_word(text: str, start: int) -> int:
    """A key, an e-mail address, an IP address, the first letters of anything: all that is written without a blank."""
    return len(text) - run_before(_WORD, text, len(text), max(start, len(text) - WORD_REACH))


def open_number(text: str, start: int) -> int:
    """Digits in groups: a card, a telephone or a social security number."""
    size = len(text)
    begin = _BEGINS_NUMBER.search(text, max(start, size - NUMBER_REACH))
    if begin is not None:
        begin = _BEGINS_NUMBER.search(text, size - run_before(_NUMBER, text, size, begin.start()))
    return size if begin is None else begin.start()


def open_last(count: int) -> Open:
    """For a pattern of which nothing but the length of its longest match is known."""
    return lambda text, start: max(start, len(text) - count)


def open_literal(literals: tuple[str, ...]) -> Open:
    """The beginning of one of some given texts."""
    firsts = re.compile("|".join(sorted({re.escape(literal[0]) for literal in literals})))
    reach = max(map(len, literals)) - 1

    def find(text: str, start: int) -> int:
        for first in firsts.finditer(text, max(start, len(text) - reach)):
            tail = text[first.start() :]
            if any(literal.startswith(tail) for literal in literals):
                return first.start()
        return len(text)

    return find


def run_length(run: re.Pattern[str], text: str, start: int = 0) -> int:
    """How many characters from `start` on are of the kind `run` repeats."""
    found = run.match(text, start)
    return 0 if found is None else found.end() - start


def run_before(run: re.Pattern[str], text: str, end: int, start: int = 0) -> int:
    """How many characters before `end`, and not before `start`, are. A little is looked at first, for mostly they are few."""
    size = 32
    while True:
        begin = max(start, end - size)
        length = run_length(run, text[begin:end][::-1])
        if length < end - begin or begin == start:
            return length
        size *= 4

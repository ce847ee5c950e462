"""Masks in the arguments of a tool call: JSON text stays JSON text.

Inside a string a mask is put where the match stood; a mask holds nothing that JSON would escape. Outside of strings, where a card
number may stand as a number, the whole value becomes a string that holds the mask. A match that reaches over the end of a string
leaves the quotes, and the signs between strings, where they are. Arguments that are no JSON are masked as any other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .scanner import Span
from .tails import run_before, run_length

Edit = tuple[int, int, str]
Scan = Callable[[str, int, int], tuple[list[Span], int]]
Replace = Callable[[str, int, int], tuple[list[Edit], int]]
"""What a `muxx.TextWindow` asks."""

_QUOTE = re.compile(r'(?:[^"\\]|\\.)*+(")', re.DOTALL)
"""Up to the next quote that is not escaped."""
_VALUE = re.compile(r'[^\s",:\[\]{}]*+')
"""A number or word outside of strings, or what is left of one."""


class Arguments:
    """A function for a `muxx.TextWindow`: it follows the arguments of one tool call from the first piece to the last."""

    def __init__(self, scan: Scan, mask: Callable[[str], str]) -> None:
        self._scan = scan
        self._mask = mask
        self._is_json: bool | None = None
        self._inside = False
        """Whether what is not decided yet begins inside a string."""

    def __call__(self, text: str, start: int, due: int) -> tuple[list[Edit], int]:
        if self._is_json is None and (first := text[start:].lstrip()[:1]):
            self._is_json = first in '{["'
        spans, settled = self._scan(text, start, due)
        if not self._is_json:
            return [(begin, end, self._mask(name)) for begin, end, name in spans], settled
        settled = self._between_values(text, start, due, settled, spans)
        edits = list(self._edits(text, start, [span for span in spans if span[0] < settled]))
        self._inside ^= _odd_quotes(text, start, max(settled, edits[-1][1] if edits else start))
        return edits, settled

    def _between_values(self, text: str, start: int, due: int, settled: int, spans: list[Span]) -> int:
        """`settled`, or a place before it, where neither a match nor a value outside of strings is cut in two."""
        while settled > due:
            before = settled
            if not self._inside ^ _odd_quotes(text, start, settled):
                settled -= _unfinished(text, start, settled)
            settled = min([settled, *(begin for begin, end, _ in spans if begin < settled < end)])
            if settled == before:
                break
        return max(settled, due)

    def _edits(self, text: str, start: int, spans: list[Span]) -> Iterator[Edit]:
        inside, counted, free = self._inside, start, start
        for begin, end, name in spans:
            if free >= end:
                continue  # in a value that has been replaced as a whole
            inside ^= _odd_quotes(text, counted, begin)
            counted = begin
            for edit in _span_edits(text, max(begin, free), end, inside, self._mask(name)):
                yield max(edit[0], free), edit[1], edit[2]
                free = edit[1]


def _span_edits(text: str, begin: int, end: int, inside: bool, mask: str) -> Iterator[Edit]:
    """The edits that hide one match: the mask stands in the first string it touches, and for every value outside of strings."""
    in_string = mask
    while begin < end:
        quote = _QUOTE.match(text, begin, end)
        part_end = quote.start(1) if quote else end
        if inside and begin < part_end:
            yield begin, part_end, in_string
            in_string = ""
        elif not inside:
            yield from _value_edits(text, begin, part_end, mask)
        begin, inside = part_end + 1, not inside


def _value_edits(text: str, begin: int, end: int, mask: str) -> Iterator[Edit]:
    """Every value a match outside of strings touches, from its first character to its last."""
    begin -= run_before(_VALUE, text, begin)
    while begin < end:
        length = run_length(_VALUE, text, begin)
        if length:
            yield begin, begin + length, f'"{mask}"'
        begin += length + 1


def _unfinished(text: str, start: int, end: int) -> int:
    """How much of a value outside of strings stands before `end`, where the value goes on or may do so."""
    if end < len(text) and not run_length(_VALUE, text, end):
        return 0
    return run_before(_VALUE, text, end, start)


def _odd_quotes(text: str, begin: int, end: int) -> bool:
    """Whether an odd number of unescaped quotes stands between two places, neither of them in an escape."""
    if "\\" not in text:
        return text.count('"', begin, end) % 2 == 1
    count = 0
    while quote := _QUOTE.match(text, begin, end):
        count += 1
        begin = quote.end()
    return count % 2 == 1

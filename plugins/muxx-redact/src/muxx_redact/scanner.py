"""All detectors over one text: what they find, and up to where that is final.

Matches that overlap become one, so that hiding one never leaves the rest of another. A match means the same however much text
follows it, so a text may be scanned as it comes: `scan` tells how far it is decided, and the next scan starts there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from .detectors import Detector, Find
from .escapes import Unescaped
from .tails import Open

Span = tuple[int, int, str]
"""From where, up to where, and the detector's name."""

ESCAPED = 6
r"""Characters an escape such as `\u0040` takes for one."""


Decided = tuple[list[Span], int]
"""Spans, and up to where they are all there are."""


class Scanner:
    """The detectors that are on. Frozen, and shared by all requests."""

    def __init__(self, detectors: Iterable[Detector], blocked: Collection[str] = ()) -> None:
        detectors = tuple(detectors)
        self.hold = ESCAPED * max((detector.reach for detector in detectors), default=1)
        """No match is longer, however it is written."""
        self._blocked = frozenset(blocked)
        self._all = _Search(detectors)
        self._as_written = _Search([detector for detector in detectors if detector.as_written])

    def scan(self, text: str, start: int, due: int, *, is_json: bool = False) -> Decided:
        """What begins at or after `start` and is decided, and up to where it is: at least up to `due`.

        A backslash is read as JSON reads it, because keys and addresses are pasted, logged and called with as JSON. Unless the
        text is JSON, it may as well stand for itself, as in what an operator looks for: a path, or a name in a domain.
        """
        if "\\" not in text:
            return self._decided(self._all.find(text, start, due), due)
        read = Unescaped(text, start, whole=due == len(text))
        found, settled = self._all.find(read.text, read.start, read.position(due))
        spans, settled = [(read.source(begin), read.source(end), name) for begin, end, name in found], read.source(settled)
        if not is_json and self._as_written:
            more, up_to = self._as_written.find(text, start, due)
            spans, settled = [*spans, *more], min(settled, read.boundary(up_to, due))
        return self._decided((spans, settled), due)

    def _decided(self, found: Decided, due: int) -> Decided:
        spans, settled = found
        if not spans:
            return found
        joined = list(self._joined(sorted(spans)))
        for begin, end, _ in joined:
            if due <= begin < settled < end:
                settled = begin  # what is not decided may still join it
        return [span for span in joined if span[0] < settled], settled

    def _joined(self, spans: list[Span]) -> Iterator[Span]:
        """Overlapping matches as one, named after one that is blocked, or else after the longest."""
        whole, best = spans[0], spans[0]
        for span in spans[1:]:
            if span[0] < whole[1]:
                best = max(best, span, key=self._weight)
                whole = (whole[0], max(whole[1], span[1]), best[2])
            else:
                yield whole
                whole = best = span
        yield whole

    def _weight(self, span: Span) -> tuple[bool, int]:
        return span[2] in self._blocked, span[1] - span[0]


class _Search:
    """Detectors over one text as it is given."""

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._opens: tuple[Open, ...] = ()
        self._groups: dict[re.Pattern[str] | None, list[tuple[str, Find]]] = {}
        for detector in detectors:
            self._opens = tuple(dict.fromkeys((*self._opens, *detector.opens)))
            self._groups.setdefault(detector.hint, []).append((detector.name, detector.find))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def find(self, text: str, start: int, due: int) -> Decided:
        """All spans from `start` on, and up to where they are decided."""
        settled = self._settled(text, start, due)
        if settled <= start:
            return [], start
        spans: list[Span] = []
        for hint, finds in self._groups.items():
            if hint is None or hint.search(text, start):
                for name, find in finds:
                    spans += [(begin, end, name) for begin, end in find(text, start)]
        return spans, settled

    def _settled(self, text: str, start: int, due: int) -> int:
        settled = size = len(text)
        if due < size:
            for open_ in self._opens:
                settled = min(settled, open_(text, start))
        return max(settled, due)

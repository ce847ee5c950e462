"""All detectors over one text: what they find, and up to where that is final.

Matches that overlap become one, so that hiding one never leaves the rest of another. A match means the same however much text
follows it, so a text may be scanned as it comes: `scan` tells how far it is decided, and the next scan starts there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from .detectors import Detector, Find
from .escapes import Unescaped

Span = tuple[int, int, str]
"""From where, up to where, and the detector's name."""

ESCAPED = 6
r"""Characters an escape such as `\u0040` takes for one."""


class Scanner:
    """The detectors that are on. Frozen, and shared by all requests."""

    def __init__(self, detectors: Iterable[Detector], blocked: Collection[str] = ()) -> None:
        detectors = tuple(detectors)
        self.hold = ESCAPED * max((detector.reach for detector in detectors), default=1)
        """No match is longer, however it is written."""
        self._blocked = frozenset(blocked)
        self._opens = tuple(dict.fromkeys(open_ for detector in detectors for open_ in detector.opens))
        self._groups: dict[re.Pattern[str] | None, list[tuple[str, Find]]] = {}
        for detector in detectors:
            self._groups.setdefault(detector.hint, []).append((detector.name, detector.find))

    def scan(self, text: str, start: int, due: int) -> tuple[list[Span], int]:
        """What begins at or after `start` and is decided, and up to where it is: at least up to `due`.

        A backslash is read as JSON reads it, because keys and addresses are pasted, logged and called with as JSON.
        """
        if "\\" not in text:
            return self._scan(text, start, due)
        read = Unescaped(text, start, whole=due == len(text))
        spans, settled = self._scan(read.text, read.start, read.position(due))
        return [(read.source(begin), read.source(end), name) for begin, end, name in spans], read.source(settled)

    def _scan(self, text: str, start: int, due: int) -> tuple[list[Span], int]:
        settled = self._settled(text, start, due)
        if settled <= start:
            return [], start
        spans: list[Span] = []
        for hint, finds in self._groups.items():
            if hint is None or hint.search(text, start):
                for name, find in finds:
                    spans += [(begin, end, name) for begin, end in find(text, start)]
        if not spans:
            return spans, settled
        joined = list(self._joined(sorted(spans)))
        for begin, end, _ in joined:
            if due <= begin < settled < end:
                settled = begin  # what is not decided may still join it
        return [span for span in joined if span[0] < settled], settled

    def _settled(self, text: str, start: int, due: int) -> int:
        settled = size = len(text)
        if due < size:
            for open_ in self._opens:
                settled = min(settled, open_(text, start))
        return max(settled, due)

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

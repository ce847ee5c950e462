r"""Text with JSON's escapes read as what they stand for, and the way back.

In `ada\u0040example.org` or `"-----BEGIN PRIVATE KEY-----\nMIIE…"` nothing is found before the escapes are read; and a mask must
never be put behind half an escape.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/bfnrt]))')
_CUT = re.compile(r"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_MEANS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Unescaped:
    """`text` as JSON reads it from position `start` on; what stands before is context. A backslash that begins no escape is one.

    Unless `whole`, an escape that is cut off at the end is left out: what it will mean is not known.
    """

    def __init__(self, text: str, start: int, *, whole: bool) -> None:
        before = _ESCAPE.sub(_meaning, text[:start])
        self.start = length = len(before)
        self._views, self._sources = [length], [start]
        pieces, at = [before], start
        for escape in _ESCAPE.finditer(text, start):
            pieces += text[at : escape.start()], _meaning(escape)
            length += escape.start() - at + 1
            at = escape.end()
            self._views.append(length)
            self._sources.append(at)
        cut = None if whole else _CUT.search(text, at)
        pieces.append(text[at : cut.start() if cut else len(text)])
        self.text = "".join(pieces)

    def source(self, position: int) -> int:
        """Where in the source the character at `position` begins."""
        entry = bisect_right(self._views, position) - 1
        return self._sources[entry] + position - self._views[entry]

    def boundary(self, source: int, due: int) -> int:
        """A place in the source that is not within an escape: `source`, or else one before it; after it, where that were before
        `due`."""
        at = self.position(source)
        place = self.source(at)
        if place != source and at > self.start and self.source(at - 1) >= due:
            return self.source(at - 1)
        return max(place, source)

    def position(self, source: int) -> int:
        """The position of a place in the source; of one within an escape, the next."""
        entry = bisect_right(self._sources, source) - 1
        position = self._views[entry] + source - self._sources[entry]
        following = self._views[entry + 1] if entry + 1 < len(self._views) else len(self.text)
        return min(position, following)


def _meaning(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _MEANS.get(escape[2], escape[2])

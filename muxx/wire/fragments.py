"""Text that comes in pieces, kept as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .halves import begins_with_half, whole
from .large import LARGE

_FIRST_HALF = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\Z")
"""UTF-8 of the first half of a character, where UTF-8 could have that."""


def utf8_length(text: str) -> int:
    """How many bytes of UTF-8 a text is."""
    if text.isascii():
        return len(text)
    return sum(len(text[at : at + LARGE].encode("utf-8", "surrogatepass")) for at in range(0, len(text), LARGE))


class Fragments:
    """What `append` was given, one after the other. Iterating brings all of it at once, so `"".join` and `*` work as with a list.

    A piece of a stream is a word or less, and as an object of its own several times as large as what it says. Thousands of
    streams that run for minutes would hold little else. A piece of megabytes stays the object it is: a copy would double it.
    """

    __slots__ = ("_before", "_before_bytes", "_utf8", "append_utf8")

    def __init__(self) -> None:
        self._before: tuple[str, ...] = ()
        """What came up to the last large piece."""
        self._before_bytes = 0
        self._utf8 = bytearray()
        """What came after it."""
        self.append_utf8: Callable[[bytes], None] = self._utf8.extend
        """Appends a small piece that is UTF-8 already."""

    def append(self, text: str) -> None:
        if len(text) > LARGE:
            self._begin_anew(whole(text))
            return
        try:
            self._utf8 += text.encode()
        except UnicodeEncodeError:
            self._append_halves(text)

    def _append_halves(self, text: str) -> None:
        """Append a text that begins or ends with half of a character, whose other half may be there already, or still to come."""
        if begins_with_half(text) and _FIRST_HALF.search(self._utf8[-3:]):
            text = self._utf8[-3:].decode("utf-8", "surrogatepass") + text
            del self._utf8[-3:]
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self._utf8 += joined.encode("utf-8", "surrogatepass")

    def _said(self) -> str:
        """What came after the last large piece. A half that stands alone is U+FFFD, which takes as many bytes."""
        try:
            return self._utf8.decode()
        except UnicodeDecodeError:
            return whole(self._utf8.decode("utf-8", "surrogatepass"))

    def __len__(self) -> int:
        """How many bytes of UTF-8 there are."""
        return self._before_bytes + len(self._utf8)

    def __iter__(self) -> Iterator[str]:
        if not self._before:
            return iter((self._said(),))
        if self._utf8:
            self._begin_anew()
        self._before = ("".join(self._before),)  # of one it is that one itself
        return iter(self._before)

    def _begin_anew(self, *large: str) -> None:
        self._before += (self._said(), *large) if self._utf8 else large
        self._before_bytes += len(self._utf8) + sum(map(utf8_length, large))
        self._utf8.clear()

"""Text that comes in pieces, kept as one."""

from __future__ import annotations

from collections.abc import Iterator


class Fragments:
    """What `append` was given, one after the other. Iterating brings all of it at once, so `"".join` and `*` work as with a list.

    A piece of a stream is a word or less, and as an object of its own several times as large as what it says. Thousands of
    streams that run for minutes would hold little else.
    """

    __slots__ = ("_utf8",)

    def __init__(self) -> None:
        self._utf8 = bytearray()

    def append(self, text: str) -> None:
        self._utf8 += text.encode("utf-8", "surrogatepass")

    def append_utf8(self, text: bytes) -> None:
        self._utf8 += text

    def __len__(self) -> int:
        """How many bytes of UTF-8 there are."""
        return len(self._utf8)

    def __iter__(self) -> Iterator[str]:
        return iter((self._utf8.decode("utf-8", "surrogatepass"),))

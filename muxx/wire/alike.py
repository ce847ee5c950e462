"""Events that are alike but for what they say: nearly all of a stream, told without parsing each as a whole.

A model's words come in events of some 300 bytes, of which only the word is new. Once one has been parsed, the next ones that
begin and end with the same bytes need no more than their word read.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from orjson import JSONDecodeError, loads

from .fragments import Fragments

_TEXT = re.compile(rb' *"((?:[^"\\]|\\.)*)"')

PROBE = "(a text)"

MOST_BYTES = 4096
"""Of an event that others may be like. In a long one, as with an image in its text, finding where the text ends would hold up the
event loop, for a second or more, and take a hundred times as much memory as it has bytes."""


class Padding(NamedTuple):
    """What a provider adds to its events so that their length does not tell their words."""

    behind: bytes
    """What it stands behind: the first such bytes after the text, and the last ones in an event."""
    fill: bytes
    """The bytes it is made of."""


_PLAIN = bytes(byte for byte in range(32, 127) if byte not in b'"\\')
"""What stands in a JSON string for itself."""

_SHORT = 64
"""Bytes of a text up to which it takes less to look each of them up in that than to translate all."""


class Alike:
    """What an event has in common with those that follow it.

    Invariant: what `take` takes is what parsing each event would have brought. The bytes around a text are those of an event
    that was parsed, from the quote that begins its text and from the one that ends it; and a text is the inside of a JSON string.
    """

    __slots__ = ("_add", "_after", "_before", "_behind", "_fill", "_joint", "_most", "_one", "_several", "said")

    def __init__(self, before: bytes, behind: bytes, fill: bytes, after: bytes, said: Fragments) -> None:
        """Use `likeness`. `behind` is what stands between a text and its padding; empty where there is none."""
        self._before = before
        self._behind = behind
        self._fill = fill
        self._after = after
        self._joint = after + before
        """What stands between two texts: the end of one event and the beginning of the next."""
        self._one = len(self._joint)
        """Bytes of an event that says nothing."""
        self._several = 0 if behind else self._one + min(self._one, _SHORT)
        """Bytes from which on there may be more to it than one short text."""
        self._most = sys.maxsize
        self.said = said
        self._add = said.append_utf8

    def bound(self, most: int) -> None:
        """Take no more than so many bytes at once."""
        self._most = most
        self._several = min(self._several, most + 1)

    def looks_like(self, raw: bytes) -> bool:
        """Whether an event begins and ends as they do."""
        return raw.startswith(self._before) and raw.endswith(self._after)

    def take(self, data: bytes) -> bool:
        """Add what these events say to what has been said. False, and nothing is added, unless all are whole and alike."""
        # What is cut off, and not looked for first: so is nothing of an event of another kind, and the length tells.
        said = data.removeprefix(self._before).removesuffix(self._after)
        size = len(data)
        if size - len(said) != self._one:
            return False
        if size >= self._several:
            return size <= self._most and self._take_several(said)
        if said.lstrip(_PLAIN):
            return self._take_escaped([said])
        self._add(said)
        return True

    def _take_several(self, said: bytes) -> bool:
        """Texts, with all that stands between them."""
        pieces = [self._unpadded(piece) for piece in said.split(self._joint)] if self._behind else said.split(self._joint)
        said = b"".join(pieces)
        if said.translate(None, _PLAIN):
            return self._take_escaped(pieces)
        self._add(said)
        return True

    def events(self, data: bytes) -> list[tuple[bytes, str]] | None:
        """Each of these events and what it says, which is not added to `said`; None unless all are whole and alike, and each says
        something."""
        said = data.removeprefix(self._before).removesuffix(self._after)  # as in `take`
        size = len(data)
        if size - len(said) != self._one or size > self._most:
            return None
        try:
            if size < self._several:
                text = loads(b'"%b"' % said)
                return [(data, text)] if text else None
            return self._several_events(data, said)
        except JSONDecodeError:
            return None

    def _several_events(self, data: bytes, said: bytes) -> list[tuple[bytes, str]] | None:
        found, at = [], 0
        for piece in said.split(self._joint):
            end = at + self._one + len(piece)
            text = loads(b'"%b"' % (self._unpadded(piece) if self._behind else piece))
            if not text:
                return None
            found.append((data[at:end], text))
            at = end
        return found

    def _take_escaped(self, pieces: list[bytes]) -> bool:
        """Texts of which not every byte stands for itself."""
        try:
            texts = [loads(b'"%b"' % piece) for piece in pieces]
        except JSONDecodeError:
            return False
        for text in texts:
            self.said.append(text)
        return True

    def _unpadded(self, piece: bytes) -> bytes:
        """The text of a piece; what is no text, where its padding is not as it should be."""
        text, found, padding = piece.rpartition(self._behind)
        return text if found and not padding.strip(self._fill) else b'"'


def likeness(raw: bytes, member: bytes, padding: Padding, said: Fragments) -> tuple[Alike | None, Any]:
    """What the event `raw` has in common with those that say something else in `member`, and its JSON with the text `PROBE`, for
    the caller to compare; neither where it cannot be told. `said` takes what they say."""
    if len(raw) > MOST_BYTES or not raw.endswith(b"\n\n"):
        return None, None
    text = _TEXT.match(raw, raw.find(member) + len(member))
    if text is None:
        return None, None
    before, after = raw[: text.start(1)], raw[text.end(1) :]
    data = 6 if raw.startswith(b"data: ") else raw.find(b"\ndata: ") + 7
    try:
        probe = loads(before[data:] + PROBE.encode() + after)
    except JSONDecodeError:
        return None, None
    unpadded, found, padded = after.partition(padding.behind)
    if not found:
        return Alike(before, b"", b"", after, said), probe
    return Alike(before, unpadded + padding.behind, padding.fill, padded.lstrip(padding.fill), said), probe

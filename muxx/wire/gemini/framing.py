"""The stream of a client that did not ask for events: one JSON array, sent piece by piece."""

from __future__ import annotations

import sys

from ..large import Data
from ..sse import EventSplitter, is_done

_BREAK = b"\r\n"


class ArrayFraming:
    """Turns the bytes of an event stream into those of an array of what its events say.

    Only whole events go out. Comments and events without data vanish, and so does a `[DONE]`. Whatever was fed, what `feed` and
    then `end` returned is one JSON array; an error is its last element, as it would be the last event.
    """

    def __init__(self) -> None:
        self._splitter = EventSplitter(sys.maxsize)  # what comes here has been under a limit already
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        """The elements that these bytes complete."""
        return b"".join([self._element(event[1]) for event in self._splitter.feed(data)])

    def end(self) -> bytes:
        """The end of the array, with an event that the end of the stream completes."""
        tail = self._splitter.finish()
        left = self._element(tail[1]) if tail is not None else b""
        return left + (b"]" if self._begun else b"[]")

    def _element(self, data: Data | None) -> bytes:
        if not data or is_done(data):
            return b""
        before = b"," + _BREAK if self._begun else b"["
        self._begun = True
        return before + data + _BREAK

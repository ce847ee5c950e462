"""`TextWindow`: text that a streamed answer brings in pieces, seen whole.

A provider cuts an answer anywhere, so a word may come as two chunks. The window lets text go only when it is decided: when
nothing that is still to come can make it part of something to be replaced.

Invariants, for every channel (one kind of text of one choice, or the arguments of one tool call):

- However the text was cut, the texts of the chunks that leave, joined, are the same: the whole text with its edits made.
- Every chunk that was fed leaves exactly once, in its order, with all it carries. A chunk whose text did not change is the very
  object that came, so it leaves as the provider's own bytes. What is put in place of a text that came in several chunks stands in
  the first of them, and the others lose their part of it.
- A finish reason, and the `end`, leave after all text before them.
- The parts of a choice keep their order: where another text or call begins, what waits leaves before it. So a channel's text is
  seen as one for as long as nothing else of its choice is said, calls whose arguments take turns excepted.
- A signature leaves after the words it seals.
- No more than `hold` characters and one chunk wait. A chunk without text never does.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace as changed

from .reply import Chunk

Edit = tuple[int, int, str]
"""From where, up to where, and what to put there."""

Replace = Callable[[str, int, int], tuple[Iterable[Edit], int]]
"""`replace(text, start, due)` gives the edits, and up to where the text is decided. See `TextWindow`."""

CONTEXT = 32
"""Characters already let go that are still shown before `start`, for a look behind."""

Key = tuple[str, int, int]


class TextWindow:
    """Holds text back across the chunks of one answer, so that what was cut in two is seen, and replaced, as one.

    One window serves one answer; keep it in `exchange.state`. `feed` takes every chunk and returns what `on_chunk` returns.

    A finish reason ends the texts of its choice, and so does a part of another kind, or a call that begins: what comes after it
    is a new text, not seen as one with what came before.

    `sub` is all most plugins need. With a function of your own, `replace(text, start, due)` gets the text of one channel: what
    stands before `start` has left and is only context (the last 32 characters of it), and the rest waits. It returns edits
    `(begin, end, new)`, in order and apart from each other, none before `start`, and a position `settled`: every edit that
    begins before `settled` is among them and will not change, whatever text follows. Those that begin later are not made yet;
    they are asked for again with more text. Everything before `due` has to be decided at once, because `hold` characters wait
    already, or, where `due` is `len(text)`, because the channel has ended; so `settled` is at least `due`.
    """

    __slots__ = ("_channels", "_choose", "_hold")

    def __init__(self, replace: Replace, *, hold: int) -> None:
        if hold < 1:
            raise ValueError("hold must be at least 1 character")
        self._hold = hold
        self._choose: Callable[[Chunk], Replace | None] = lambda chunk: replace
        self._channels: dict[Key, _Channel] = {}

    @classmethod
    def sub(cls, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], *, hold: int) -> TextWindow:
        """Replace what `pattern` matches, as `pattern.sub` would on the whole text. Empty matches replace nothing.

        `hold` is the length of the longest match, look-aheads included: a longer one may be seen in part only. That much text
        is always held back.
        """
        return cls(substitution(pattern, replacement), hold=hold)

    @classmethod
    def per_channel(cls, choose: Callable[[Chunk], Replace | None], *, hold: int) -> TextWindow:
        """For functions that remember, or differ: `choose` gets the first chunk with text of every channel, and returns the
        function for this channel, or None to let the channel pass as it is."""
        window = cls(_nothing, hold=hold)
        window._choose = choose
        return window

    def feed(self, chunk: Chunk) -> list[Chunk] | None:
        """What leaves now that `chunk` has come; None when it is `chunk` alone, unchanged."""
        if chunk.kind == "end":
            out = self._finish(None)
        else:
            tool = chunk.tool_call
            text, number = (chunk.text, 0) if tool is None else (tool.arguments, tool.index)
            key = (chunk.kind, chunk.index, number)
            out = [] if tool is None else self._finish_other_call(key, chunk)
            over = self.parts_before(self._channels, key, chunk, text)
            out += [waiting for other in over for waiting in self._channels.pop(other).finish()]
            if chunk.finish_reason:
                out += self._finish(chunk.index, but=key if text else None)
            if text:
                last = bool(chunk.finish_reason) or _is_plain(chunk.raw)
                return _told(out + self._take(key, chunk, text, last), chunk)
        return [*out, chunk] if out else None

    def _take(self, key: Key, chunk: Chunk, text: str, last: bool) -> list[Chunk]:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(self._choose(chunk), self._hold)
        if channel.replace is None:
            return [chunk]
        if last:
            del self._channels[key]
        return channel.take(chunk, text, last)

    def _finish_other_call(self, key: Key, chunk: Chunk) -> list[Chunk]:
        """Some providers give every call of an answer the same index: a new id that comes with a name is a new call.

        An id alone is none: others send a new one with every fragment.
        """
        tool, channel = chunk.tool_call, self._channels.get(key)
        if channel is None or tool is None or not (tool.id and tool.name) or tool.id == channel.call_id:
            return []
        return self._channels.pop(key).finish()

    @staticmethod
    def parts_before(waiting: Collection[Key], key: Key, chunk: Chunk, text: str) -> list[Key]:
        """Of the channels in which something waits, each (kind, choice, number of the call or 0), those that `chunk` ends, whose
        `text` is of the channel `key`: the choice's other parts.

        Who writes the answer in another format closes one part when the next begins, and has no place for the rest of it then. A
        signature that comes by itself ends the part it seals.
        """
        tool = chunk.tool_call
        begins = tool is not None and bool(tool.id and tool.name) and key not in waiting
        seals = bool(chunk.signature) and not text
        if not waiting or not (text or begins or seals):
            return []
        taking_turns = () if begins else ("tool_call",) if tool is not None else ()
        others = [other for other in waiting if other[1] == key[1] and other != key and other[0] not in taking_turns]
        return [*others, key] if seals and key in waiting else others

    def _finish(self, index: int | None, but: Key | None = None) -> list[Chunk]:
        """All that waits in the channels of one choice, or of all; they are over, except `but`."""
        over = [key for key in self._channels if index in (None, key[1]) and key != but]
        return [chunk for key in over for chunk in self._channels.pop(key).finish()]


def substitution(pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]) -> Replace:
    """`pattern.sub` as a function for a window."""

    def new(match: re.Match[str]) -> str:
        return replacement(match) if callable(replacement) else match.expand(replacement)

    def replace(text: str, start: int, due: int) -> tuple[Iterable[Edit], int]:
        matches = pattern.finditer(text, start) if start < due else ()
        return ((match.start(), match.end(), new(match)) for match in matches if match[0]), due

    return replace


def _nothing(text: str, start: int, due: int) -> tuple[Iterable[Edit], int]:
    return (), len(text)


def _told(out: list[Chunk], chunk: Chunk) -> list[Chunk] | None:
    return None if len(out) == 1 and out[0] is chunk else out


def _is_plain(raw: bytes | None) -> bool:
    """A plain answer's chunks carry its whole body, an object, and each is all of its channel. An event begins with a field."""
    return raw is not None and raw[:1] == b"{"


class _Channel:
    """The text of one channel that is not decided yet, and the chunks that brought it.

    Positions count from the channel's first character; `cut` of them are no longer kept.
    """

    __slots__ = ("at", "call_id", "cut", "front", "hold", "replace", "text", "waiting")

    def __init__(self, replace: Replace | None, hold: int) -> None:
        self.replace = replace
        self.hold = hold
        self.text = ""
        """The end of what has been decided, as context, and all that has not."""
        self.cut = 0
        self.at = 0
        """Up to where the text is decided."""
        self.waiting: deque[tuple[Chunk, int]] = deque()
        """Chunks of which some text is not decided, and where each one's text ends."""
        self.front: list[str] = []
        """What has been decided of the first chunk waiting, with its edits made."""
        self.call_id: str | None = None

    def take(self, chunk: Chunk, text: str, last: bool) -> list[Chunk]:
        """Add a chunk's text; the chunks that are decided with it."""
        if chunk.tool_call is not None and chunk.tool_call.id:
            self.call_id = chunk.tool_call.id
        self.text += text
        self.waiting.append((chunk, self.cut + len(self.text)))
        return self._decide(last)

    def finish(self) -> list[Chunk]:
        """No more text comes: the chunks that still waited."""
        return self._decide(last=True) if self.waiting else []

    def _decide(self, last: bool) -> list[Chunk]:
        assert self.replace is not None, "a channel without a function holds nothing"
        surplus = self.at - self.cut - CONTEXT
        if surplus > 0:
            self.text = self.text[surplus:]
            self.cut += surplus
        size, start, cut = len(self.text), self.at - self.cut, self.cut
        due = size if last else max(start, size - self.hold)
        edits, settled = self.replace(self.text, start, due)
        settled = min(max(settled, due), size)
        out: list[Chunk] = []
        for begin, end, new in edits:
            if begin >= settled:
                break
            if not start <= begin <= end <= size:
                raise ValueError("the edits of a TextWindow must lie in the text that waits, in order and apart from each other")
            self._go(cut + begin, out, keep=True)
            self.front.append(new)
            self._go(cut + end, out, keep=False)
            start = end
        if start < settled:
            self._go(cut + settled, out, keep=True)
        return out

    def _go(self, to: int, out: list[Chunk], *, keep: bool) -> None:
        """The text up to `to` is decided: it stays as it was, or is left out. Chunks that lie wholly before it go to `out`."""
        while self.waiting and self.waiting[0][1] <= to:
            chunk, end = self.waiting.popleft()
            if keep:
                self.front.append(self.text[self.at - self.cut : end - self.cut])
            out.append(_with_text(chunk, "".join(self.front)))
            self.front, self.at = [], end
        if keep:
            self.front.append(self.text[self.at - self.cut : to - self.cut])
        self.at = to


def _with_text(chunk: Chunk, text: str) -> Chunk:
    """`chunk` saying `text`: itself when it says so already, for its own bytes are kept then."""
    tool = chunk.tool_call
    if tool is None:
        return chunk if chunk.text == text else changed(chunk, text=text)
    return chunk if tool.arguments == text else changed(chunk, tool_call=changed(tool, arguments=text))

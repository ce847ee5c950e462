"""An answer in windows: text waits until the service has seen it, and leaves as it says.

A `muxx.TextWindow` does the holding back: it knows the channels of an answer (a text, a line of reasoning, the arguments of a
tool call, of each choice), keeps untouched chunks as the provider's bytes, and lets all text out before the finish reason behind
it. It asks a plain function what to let go, and a service cannot be asked in one. So the question comes first: `take` looks what
a chunk will make due, asks about that, and only then feeds the chunk, when the function knows its answer.

Invariant: no character leaves that the service has not allowed, or that `on_failure = "allow"` has not allowed in its stead.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from muxx import Chunk, PluginError, TextWindow

from .protocol import Edit, Text, settled
from .settings import GuardConfig

Judge = Callable[[Sequence[Text]], Awaitable[list[list[Edit]]]]
"""Gives the edits of each text, or raises."""
Key = tuple[str, int, int]

WHOLE = 2**62
"""More than any answer: the window itself decides nothing."""

_SENTENCE_END = re.compile(r"(?:[.!?\u2026\u3002\uff01\uff1f][\"')\]\u201d\u2019\xbb]*|\n)\s*\Z")
_TAIL = 16
"""Characters of a text's end in which the end of a sentence is looked for."""


class Channel:
    """The text of one channel that waits. Of it `seen` characters were asked about, and the first `allowed` may leave."""

    def __init__(self, key: Key, config: GuardConfig) -> None:
        self.kind, self.index, _ = key
        self.call_id: str | None = None
        self.waiting = ""
        self.is_over = False
        self._config = config
        self._seen = self._allowed = 0
        self._edits: list[Edit] = []
        self._postponed = False
        """The last answer changed something in what is held back: it has to be asked for again."""
        self._since = 0.0

    def add(self, text: str) -> None:
        if self._seen == len(self.waiting):
            self._since = time.monotonic()
        self.waiting += text

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask about what is new."""
        config, new = self._config, len(self.waiting) - self._seen
        if self.is_over or not new:
            return self.is_over and (new > 0 or self._postponed)
        if new >= config.window_chars or time.monotonic() - self._since >= config.window_s:
            return True
        tail = self.waiting[-min(new, _TAIL) :]
        return 0 < config.sentence_chars <= new and self.kind != "tool_call" and _SENTENCE_END.search(tail) is not None

    def text(self) -> Text:
        """What is asked about."""
        kind = "tool_arguments" if self.kind == "tool_call" else self.kind
        return Text("assistant", kind, f"choices[{self.index}]", self.waiting, self.is_over)

    def allow(self, edits: Sequence[Edit]) -> None:
        """What was asked about is allowed with these edits made; its end is held back unless nothing follows it."""
        size = len(self.waiting)
        held = 0 if self.is_over else self._config.overlap_chars
        self._seen = size
        self._edits, self._allowed = settled(edits, max(0, size - held))
        self._postponed = len(self._edits) < len(edits)

    def allow_rest(self) -> None:
        """The channel is over, and all of it was seen already."""
        self._allowed = len(self.waiting)

    def let_go(self, text: str, start: int, due: int) -> tuple[list[Edit], int]:
        """The function of the window: up to where the text may leave, and with which edits."""
        end = min(self._allowed, len(text) - start)
        end = min([end, *(begin for begin, until, _ in self._edits if begin < end < until)])
        if start + end < due:
            raise PluginError("The gateway's guard lost its place in an answer, so it was stopped.")
        made = [(start + begin, start + until, new) for begin, until, new in self._edits if until <= end]
        self._edits = [(begin - end, until - end, new) for begin, until, new in self._edits if until > end]
        self.waiting = self.waiting[end:]
        self._allowed -= end
        self._seen = max(0, self._seen - end)
        return made, start + end


class Windows:
    """One answer on its way through. `take` every chunk, in order; what it returns is what `on_chunk` returns."""

    def __init__(self, config: GuardConfig, judge: Judge, *, streamed: bool) -> None:
        self._config = config
        self._judge = judge
        self._streamed = streamed
        self._window = TextWindow.per_channel(self._function_of, hold=WHOLE)
        self._open: dict[Key, Channel] = {}
        self._new: dict[Key, deque[Channel]] = {}
        """Channels the window has not met yet."""
        self._kept: list[Chunk] = []

    async def take(self, chunk: Chunk) -> list[Chunk] | None:
        """What leaves now; None when it is `chunk` alone, unchanged."""
        if not self._streamed:
            self._kept.append(chunk)
            return await self._whole() if chunk.kind == "end" else []
        await self._ask(self._touched(chunk))
        return self._window.feed(chunk)

    async def _whole(self) -> list[Chunk]:
        """A plain answer: all of it is asked about at once."""
        touched = [channel for chunk in self._kept for channel in self._touched(chunk)]
        await self._ask([channel for channel in dict.fromkeys(touched) if channel.is_over])
        out: list[Chunk] = []
        for chunk in self._kept:
            left = self._window.feed(chunk)
            out += [chunk] if left is None else left
        return out

    async def _ask(self, channels: Sequence[Channel]) -> None:
        due = [channel for channel in channels if channel.is_due]
        if due:
            for channel, edits in zip(due, await self._judge([channel.text() for channel in due]), strict=True):
                channel.allow(edits)
        for channel in channels:
            if channel.is_over and channel not in due:
                channel.allow_rest()

    def _touched(self, chunk: Chunk) -> list[Channel]:
        """The channels that a chunk adds to or ends, by the rules of `muxx.TextWindow`, with the chunk's text added."""
        if chunk.kind == "end":
            return self._over(list(self._open))
        tool = chunk.tool_call
        text, number = (chunk.text, 0) if tool is None else (tool.arguments, tool.index)
        key = (chunk.kind, chunk.index, number)
        known = self._open.get(key)
        over: list[Channel] = []
        if tool is not None and known is not None and tool.id and tool.name and tool.id != known.call_id:
            over = self._over([key])
        over += self._over(TextWindow.parts_before(self._open, key, chunk, text))
        if text and self._is_asked_about(chunk):
            own = self._channel(key)
            own.add(text)
            if tool is not None and tool.id:
                own.call_id = tool.id
            over += self._over([key]) if _is_plain(chunk) else [own]
        if chunk.finish_reason:
            over += self._over([key for key in self._open if key[1] == chunk.index])
        return list(dict.fromkeys(over))

    def _is_asked_about(self, chunk: Chunk) -> bool:
        return chunk.tool_call is None or self._config.tool_arguments

    def _channel(self, key: Key) -> Channel:
        channel = self._open.get(key)
        if channel is None:
            channel = self._open[key] = Channel(key, self._config)
            self._new.setdefault(key, deque()).append(channel)
        return channel

    def _over(self, keys: Sequence[Key]) -> list[Channel]:
        channels = [self._open.pop(key) for key in keys]
        for channel in channels:
            channel.is_over = True
        return channels

    def _function_of(self, first: Chunk) -> Callable[[str, int, int], tuple[list[Edit], int]] | None:
        """The window has met a channel: its function, or None where nobody asks about it."""
        if not self._is_asked_about(first):
            return None
        tool = first.tool_call
        return self._new[first.kind, first.index, 0 if tool is None else tool.index].popleft().let_go


def _is_plain(chunk: Chunk) -> bool:
    """A chunk of a plain answer carries the whole answer's JSON, and is all of its channel."""
    return chunk.raw is not None and chunk.raw[:1] == b"{"

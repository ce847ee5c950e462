"""An Anthropic answer's way through chunk hooks: its events as Chunks (see `reading`), and Chunks back to events.

What nobody touched leaves as the provider's own bytes. From the first change on, blocks are numbered as they begin for the
client: a block whose beginning was dropped has no events at all, and those after it move up. What a plugin adds goes on in the
block that is open, where it is of its kind, and else gets a block of its own; while a block of the provider is open, that waits
for its end. Text held back past the end of its block gets a block of its own, too. Event types nobody here knows pass as they
came.

`message_delta` goes with the `end`. One that comes early ends the block that is open, and its reason is told there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

from orjson import JSONDecodeError, dumps, loads

from ...reply import Chunk
from ..sse import Event, data_of
from ..wire import Head
from .blocks import index_of, texts_in
from .reading import Block, Passing, Piece, Reader, shown
from .writer import MESSAGE_STOP, Writer, as_event

_END = b"}}\n\n"


class MessageCodec:
    """Decodes the events of one answer and encodes its Chunks, in the order of the stream.

    `decode`, the hooks and `encode` take turns event by event; Chunks that a plugin held back may come with later ones.
    `encode` never returns `message_stop`: that is `last`, held back until the answer is recorded.
    """

    def __init__(self, head: Head) -> None:
        self._reader = Reader()
        self._writer = Writer(head)
        self._relaying = False
        """Events are decoded here; not only Chunks encoded that were decoded elsewhere."""
        self._now: Passing | None = None
        """The event that was decoded last."""
        self._touched = False
        """A Chunk was changed, dropped, held back or added: the provider's numbers need not be the client's."""
        self._stop: Passing | None = None

    def decode(self, event: Event) -> list[Chunk]:
        """The Chunks of the answer's next event; none of one without data."""
        raw, data = event
        self._relaying = True
        return self._decode(raw, loads(data)) if data else []

    def end(self) -> Chunk:
        """The `end`: the provider's, when it has come."""
        return self._reader.end(self._stop.raw if self._stop is not None else None)

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of these Chunks, in order, but for `message_stop`."""
        # The short way for most Chunks of an answer that no provider of this format sent: they come one by one.
        if type(chunks) is list and len(chunks) == 1 and not self._relaying:
            [chunk], writer = chunks, self._writer
            if chunk.raw is None and chunk.kind != "end" and not chunk.index:
                call = chunk.tool_call
                if call is None:
                    if writer.text_head is not None and chunk.kind == "text" and chunk.text:
                        return writer.text_head + dumps(chunk.text) + _END
                elif call.index == writer.call_told and call.id is None and call.arguments and chunk.finish_reason is None:
                    return writer.call_head + dumps(call.arguments) + _END
                self._touched = True
                return writer.add(chunk)
        events = []
        for _, run in groupby(chunks, key=lambda chunk: (id(chunk.raw), chunk.kind == "end")):
            group = list(run)
            events.append(self._end(group[0]) if group[0].kind == "end" else self._pass(group))
        return b"".join(events)

    def last(self) -> bytes:
        """`message_stop`: the provider's, or one like it."""
        return self._stop.raw if self._stop is not None else MESSAGE_STOP

    # ── what comes ──

    def _decode(self, raw: bytes, value: dict[str, Any]) -> list[Chunk]:
        if self._now is not None and not self._now.gone:
            self._touched = True
        passing, chunks = self._reader.read(raw, value)
        self._now = passing
        if passing.kind == "message_stop":
            self._stop = passing
        elif passing.kind == "message_delta":
            self._writer.ending = value
        elif passing.kind == "message_start" and type(message := value.get("message")) is dict:
            self._writer.message = message
        return chunks

    def _find(self, raw: bytes | None) -> Passing | None:
        """The event of these bytes; None when they are none of this format."""
        if raw is None:
            return None
        if self._now is not None and self._now.raw is raw:
            return self._now
        value = _object(data_of(raw))
        if value is None:
            return None
        if self._relaying:
            return self._reader.read(raw, value)[0]
        self._decode(raw, value)
        return self._now

    # ── what goes ──

    def _pass(self, group: list[Chunk]) -> bytes:
        """Consecutive Chunks of one event: its own bytes when they are all of it and unchanged."""
        passing = self._find(group[0].raw)
        if passing is None:
            return self._added(group)
        if passing is not self._now:
            self._touched = True
        if [shown(chunk) for chunk in group] == [piece.shown for piece in passing.pieces]:
            passing.gone = True
            return self._send(passing, group) if self._touched else self._send_as_it_came(passing)
        self._touched = True
        return self._changed(passing, group)

    def _added(self, chunks: Iterable[Chunk]) -> bytes:
        self._touched = True
        # Of an answer from elsewhere the first choice: a message is one. In one of the provider's indexes are those of blocks.
        return b"".join([self._writer.add(chunk) for chunk in chunks if self._now is not None or chunk.index == 0])

    def _send_as_it_came(self, passing: Passing) -> bytes:
        """An event of the provider; all before it went out as they came."""
        writer, block = self._writer, passing.block
        if passing.kind == "content_block_delta":
            return passing.raw
        kept = writer.take_kept()
        if passing.kind == "content_block_start" and block is not None:
            writer.place(block, block.index)
        elif passing.kind == "content_block_stop" and block is not None:
            writer.closed(block)
        elif passing.kind == "message_start":
            writer.begun = True
        elif passing.kind == "message_delta":
            writer.kept = passing.raw
            return kept
        return kept + passing.raw

    def _changed(self, passing: Passing, group: list[Chunk]) -> bytes:
        """What is left of an event, and what never stood in it. It goes out with the Chunk that bears it."""
        left = list(passing.pieces)
        stays: list[Chunk] = []
        before: list[Chunk] = []
        after: list[Chunk] = []
        for chunk in group:
            piece = _taken(left, chunk)
            if piece is None:
                (after if passing.gone else before).append(chunk)
                continue
            if shown(chunk) != piece.shown and piece.put is not None:
                piece.put(chunk)
                passing.changed = True
            stays.append(chunk)
            passing.gone = passing.gone or piece.bears
        for piece in left:
            if piece.put is not None and not piece.bears:
                piece.put(Chunk("other"))
                passing.changed = True
        events = self._added(before)
        if passing.gone:
            events += self._send(passing, stays)
        return events + self._added(after)

    def _send(self, passing: Passing, group: list[Chunk]) -> bytes:
        """An event that the hooks let through, after something was changed."""
        writer, block = self._writer, passing.block
        if passing.kind == "message_start":
            if writer.begun:
                return b""
            writer.begun = True
        elif passing.kind == "message_delta":
            writer.kept = self._written(passing)
            return b""
        elif block is not None:
            return self._send_of_block(passing, group)
        return self._written(passing)

    def _send_of_block(self, passing: Passing, group: list[Chunk]) -> bytes:
        writer, block = self._writer, passing.block
        assert block is not None
        if passing.kind == "content_block_start":
            if block.number is not None:
                return b""
            opened = writer.begin() + writer.settle()
            writer.place(block, writer.count)
            owed, block.owed = block.owed, []
            return opened + self._written(passing) + b"".join([self._written(piece) for piece in owed])
        if passing.kind == "content_block_stop":
            if not block.open:
                return b""
            writer.closed(block)
            return self._written(passing) + writer.settle()
        if block.number is None:
            if not _begins_late(block):
                block.owed.append(passing)
                return b""
            return writer.begin() + writer.settle() + writer.open(block) + self._written(passing)
        if block.open or block.call is not None:
            return self._written(passing)
        return self._added(chunk for chunk in group if chunk.kind in ("text", "reasoning"))

    def _written(self, passing: Passing) -> bytes:
        """An event under its block's number."""
        block, value = passing.block, passing.value
        if block is not None and block.number is not None and block.number != index_of(value):
            value["index"] = block.number
            passing.changed = True
        return as_event(value) if passing.changed else passing.raw

    # ── the end ──

    def _end(self, end: Chunk) -> bytes:
        """End what is open: at the provider's own end what plugins left open, at a plugin's everything."""
        if not self._relaying:
            self._find(end.raw)
        if self._stop is not None and end.raw == self._stop.raw:
            return self._writer.finish(end, fresh=False) if self._touched else self._writer.take_kept()
        self._touched = True
        return self._writer.finish(end if end.usage is not None else replace(end, usage=self._reader.end().usage))


def _taken(left: list[Piece], chunk: Chunk) -> Piece | None:
    """Take out of `left` the piece that a Chunk is, or was before a plugin changed it."""
    told = shown(chunk)
    exact = next((piece for piece in left if piece.shown == told), None)
    piece = exact or next((piece for piece in left if _same(piece, chunk)), None)
    if piece is not None:
        left.remove(piece)
    return piece


def _same(piece: Piece, chunk: Chunk) -> bool:
    """The Chunk may be the piece after a change. One that was added has no place in an event without text."""
    kind, text, index, _, call, signature = piece.shown
    if kind != chunk.kind or index != chunk.index or (call is None) != (chunk.tool_call is None):
        return False
    if call is not None and chunk.tool_call is not None:
        begins, goes_on = call[1] is not None or call[2] is not None, chunk.tool_call.id is None and chunk.tool_call.name is None
        return begins != goes_on
    return signature == chunk.signature and (kind != "other" or bool(text) == bool(chunk.text))


def _begins_late(block: Block) -> bool:
    """The block may begin with what comes after its beginning: that said nothing, and need not have been let through."""
    if block.kind in ("text", "thinking"):
        return True
    return block.call is None and not any(container[key] for _, container, key in texts_in(block.begun))


def _object(data: bytes | None) -> dict[str, Any] | None:
    try:
        value = loads(data or b"")
    except JSONDecodeError:
        return None
    return value if type(value) is dict else None

"""A Responses answer's way through chunk hooks: its events as Chunks (see `reading`), and Chunks back to events.

What nobody touched leaves as the provider's own bytes. The format repeats texts (`*.done`, parts, items, the terminal event):
from the first change on, each repeat is compared with what the hooks let through, and rebuilt from that where they differ, so
what was dropped or is still held back stands in no event. A call whose beginning was dropped has no events at all, and the items
after it move up. What a plugin adds gets events of its own. Event types nobody here knows pass as they came.

An `end` that comes early closes what is open, and the terminal event is built from what was let through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from ...reply import Chunk
from ..large import Data
from ..sse import Event, data_of, is_done
from ..wire import Head
from .adding import Adder, status_at
from .facts import TERMINAL, index_of
from .items import DONES
from .reading import Passing, Piece, Reader, begins, end_of, shown, words
from .writer import Item, Lane, Writer, as_event, put_text

_PART_ADDED = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
_PART_DONE = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
_CREATED = "response.created"
_ITEM_ADDED, _ITEM_DONE = "response.output_item.added", "response.output_item.done"


class ResponseCodec:
    """Decodes the events of one answer and encodes its Chunks, in the order of the stream.

    `decode`, the hooks and `encode` take turns event by event; Chunks that a plugin held back may come with later ones.
    `encode` never returns the terminal event: that is `last`, held back until the answer is recorded.
    """

    def __init__(self, head: Head) -> None:
        self._reader = Reader()
        self._writer = Writer()
        self._adder = Adder(head, self._reader, self._writer)
        self._relaying = False
        """Events are decoded here; not only Chunks encoded that were decoded elsewhere."""
        self._now: Passing | None = None
        """The event that was decoded last."""
        self._touched = False
        """A Chunk was changed, dropped, held back or added: what repeats texts has to be looked at."""
        self._terminal: Passing | None = None
        self._ended: Chunk | None = None
        """The `end` with which a plugin ended the answer."""
        self._lane: Lane | None = None
        self._piece = Chunk("end")
        """Of what the lane is: the last Chunk that was a piece of it."""

    @property
    def next_number(self) -> int:
        """The sequence number of an event after what went out."""
        return self._writer.number + 1

    def decode(self, event: Event) -> list[Chunk]:
        """The Chunks of the answer's next event; none of one without data."""
        raw, data = event
        self._relaying = True
        return self._decode(raw, data) if data else []

    def end(self) -> Chunk:
        """The `end`: the provider's, when it has come."""
        return end_of(self._terminal.value, self._terminal.raw) if self._terminal is not None else Chunk("end")

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of these Chunks, in order, but for the terminal event."""
        if self._relaying or type(chunks) is not list or len(chunks) != 1:
            self._lane = None
            return self._encode(chunks)
        [chunk] = chunks
        # The short way for what most Chunks of an answer in another format are: one more piece of the text before.
        if self._lane is not None and _goes_on(self._piece, chunk):
            self._writer.number = number = self._writer.number + 1
            call = chunk.tool_call
            return self._lane.event(number, chunk.text if call is None else call.arguments)
        events = self._encode(chunks)
        self._lane = self._adder.lane(chunk) if chunk.raw is None and chunk.kind in ("text", "reasoning", "tool_call") else None
        self._piece = chunk
        return events

    def _encode(self, chunks: Iterable[Chunk]) -> bytes:
        events = []
        for _, run in groupby(chunks, key=lambda chunk: (id(chunk.raw), chunk.kind == "end")):
            group = list(run)
            events.append(self._end(group[0]) if group[0].kind == "end" else self._pass(group))
        return b"".join(events)

    def last(self) -> bytes:
        """The terminal event: the provider's, or where a plugin ended the answer, one built from what was let through."""
        closing = b"" if self._ended or self._terminal else self._end(Chunk("end"))
        if self._ended is None:
            assert self._terminal is not None
            return self._settle() + self._send(self._terminal)
        answer = self._terminal.value.get("response") if self._terminal is not None else None
        return closing + self._adder.terminal(self._ended, answer if type(answer) is dict else None)

    # ── what comes ──

    def _decode(self, raw: bytes, data: Data) -> list[Chunk]:
        if self._now is not None and not self._now.gone:
            self._touched = True
        self._now, chunks = self._reader.read(raw, data)
        self._writer.follow(self._now.value, named=raw.startswith(b"event:"))
        if self._now.kind in TERMINAL:
            self._terminal = self._now
        elif type(answer := self._now.value.get("response")) is dict:
            self._adder.answer = answer
        return chunks

    def _find(self, raw: bytes | None) -> Passing | None:
        """The event of these bytes; None when they are none, as the `[DONE]` of other formats is here."""
        for known in (self._now, self._terminal):
            if known is not None and known.raw is raw:
                return known
        data = data_of(raw) if raw is not None else None
        if raw is None or not data or is_done(data):
            return None
        if self._relaying:
            return self._reader.again(raw, data)
        self._decode(raw, data)
        return self._now

    # ── what goes ──

    def _pass(self, group: list[Chunk]) -> bytes:
        """Consecutive Chunks of one event: its own bytes when they are all of it and unchanged."""
        passing = self._find(group[0].raw)
        if passing is None:
            return b"".join([self._add(chunk) for chunk in group])
        if [shown(chunk) for chunk in group] != [piece.shown for piece in passing.pieces]:
            self._touched = True
            return self._changed(passing, group)
        for piece, chunk in zip(passing.pieces, group, strict=True):
            _let(piece, chunk)
        return b"" if passing is self._terminal else self._send(passing)

    def _changed(self, passing: Passing, group: list[Chunk]) -> bytes:
        """What is left of an event, and what never stood in it. It goes out with the Chunk that stands for itself."""
        if passing.text is not None:
            return b"".join(self._changed_piece(passing, group))
        left, stays = list(passing.pieces), False
        before: list[Chunk] = []
        after: list[Chunk] = []
        for chunk in group:
            piece = _taken(left, chunk)
            if piece is None:
                (after if stays else before).append(chunk)
                continue
            _let(piece, chunk)
            stays = stays or piece.text is None
            if piece.call is not None and words(chunk):
                after.append(chunk)
        events = [self._add(chunk) for chunk in before]
        if stays and not passing.gone and passing is not self._terminal:
            events.append(self._send(passing))
        return b"".join(events + [self._add(chunk) for chunk in after])

    def _changed_piece(self, passing: Passing, group: list[Chunk]) -> Iterator[bytes]:
        """A piece of a text in its own event, as plugins left it, and what they added to it."""
        left = list(passing.pieces)
        for chunk in group:
            piece = _taken(left, chunk)
            if piece is None:
                yield self._add(chunk)
                continue
            _let(piece, chunk)
            if shown(chunk) != piece.shown:
                passing.value["delta"] = words(chunk)
                if passing.value.get("logprobs"):
                    passing.value["logprobs"] = []
                passing.raw = as_event(passing.value, passing.raw.startswith(b"event:"))
            yield self._send(passing)

    def _add(self, chunk: Chunk) -> bytes:
        self._touched = True
        return self._adder.add(chunk)

    def _send(self, passing: Passing) -> bytes:
        """An event that the hooks let through. With the beginning of a call goes what came about it while it was withheld, up to
        the first event that ends something: more may come before that."""
        item, events = passing.item, [self._one(passing)]
        while item is not None and item.owed and not item.withheld and not item.owed[0].kind.endswith(".done"):
            events.append(self._owed(item))
        return b"".join(events)

    def _owed(self, item: Item) -> bytes:
        passing: Passing = item.owed.pop(0)
        if passing.text is not None:
            passing.text.went.append(passing.value["delta"])
        return self._one(passing)

    def _one(self, passing: Passing) -> bytes:
        """An event that the hooks let through, if the client may have it."""
        passing.gone = True
        item = passing.item
        if item is not None and item.withheld:
            item.owed.append(passing)
            if passing.text is not None:
                passing.text.went.pop()  # it has not gone yet
            return b""
        if self._touched and self._is_known(passing):
            return b""
        if item is not None:
            if item.number is None:
                self._writer.place(item)
            self._note(passing, item)
        self._adder.begun = True
        raised = self._writer.raised(passing.value)
        return self._rewritten(passing, raised) if self._touched else passing.raw

    def _is_known(self, passing: Passing) -> bool:
        """The event begins what has begun already, with what a plugin added before it."""
        if passing.item is None:
            return passing.kind == _CREATED and self._adder.begun
        if passing.kind == _ITEM_ADDED:
            return passing.item.number is not None
        return passing.kind in _PART_ADDED and any(item.text(path).shown for item, path, _, _ in self._reader.repeats(passing))

    def _note(self, passing: Passing, item: Item) -> None:
        """Keep what the client has been told, so that it is told once."""
        if passing.text is not None:
            passing.text.shown = True
            return
        for _, path, _, _ in self._reader.repeats(passing):
            text = item.text(path)
            text.shown = True
            text.done = text.done or passing.kind in DONES
            text.part_done = text.part_done or passing.kind in _PART_DONE
        item.closed = item.closed or passing.kind == _ITEM_DONE

    # ── what repeats ──

    def _rewritten(self, passing: Passing, changed: bool) -> bytes:
        """An event after something was changed: its own bytes when it says what the client has, else built anew from its JSON."""
        value, item = passing.value, passing.item
        bodies = self._reader.bodies(value)
        for whole, path, container, key in self._reader.repeats(passing):
            text = passing.others.get((id(container), key)) or whole.text(path)
            if (text.changed or text.is_contradicted(container[key])) and container[key] != text.whole:
                put_text(container, key, text)
                changed = True
        for named, body in bodies:
            body.update(named.names)
            changed = changed or bool(named.names)
        if item is not None and item.number != index_of(value):
            value["output_index"] = item.number
            changed = True
        if type(answer := value.get("response")) is dict:
            changed = self._put_output(answer, self._output(passing, bodies), changed)
        return as_event(value, passing.raw.startswith(b"event:")) if changed else passing.raw

    def _output(self, passing: Passing, bodies: list[tuple[Item, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The items of a response object as the client has them, in the client's order: without the calls that were dropped,
        and in the terminal event with what plugins added."""
        left = [(item, body) for item, body in bodies if not item.withheld]
        for item, _ in left:
            if item.number is None:
                self._writer.place(item)
        if passing is self._terminal:
            left += [(item, item.filled()) for item in self._writer.items if item.made]
        return [body for _, body in sorted(left, key=lambda entry: entry[0].number or 0)]

    def _put_output(self, answer: dict[str, Any], output: list[dict[str, Any]], changed: bool) -> bool:
        """Put the items into a response object; whether it is changed now."""
        if output != (answer.get("output") or []):
            answer["output"] = output
            changed = True
        if changed and type(answer.get("output_text")) is str:
            # Some providers repeat the text here, which in OpenAI's SDKs is a convenience of the client.
            messages = [item for item in self._writer.items if item.type == "message"]
            texts = [text for item in messages for path, text in item.texts.items() if path[-1] == "text"]
            answer["output_text"] = "".join(text.whole for text in texts)
        return changed

    # ── the end ──

    def _end(self, end: Chunk) -> bytes:
        """Close what is open: at the provider's own end what plugins left open, at a plugin's everything."""
        if not self._relaying:
            self._find(end.raw)
        if self._terminal is not None and end.raw == self._terminal.raw:
            return self._settle()
        if not self._relaying and end.finish_reason is None:
            end = replace(end, finish_reason=self._adder.reason)
        self._ended, self._touched = end, True
        self._writer.count_on()
        events = [self._adder.begin(), self._settle()]
        events += [self._writer.close(item, status_at(item, end)) for item in self._writer.items if not item.closed]
        return b"".join(events)

    def _settle(self) -> bytes:
        """Events about calls that were let through late, and the ends of the items that plugins made."""
        events = []
        for item in self._writer.items:
            while item.owed and not item.withheld:
                events.append(self._owed(item))
        return b"".join(events) + self._adder.close(self._ended)


def _goes_on(before: Chunk, chunk: Chunk) -> bool:
    """The Chunk is one more piece of the text that the one before was a piece of, and nothing else."""
    if chunk.kind != before.kind or chunk.index != before.index or chunk.raw is not None or chunk.signature is not None:
        return False
    call = chunk.tool_call
    if call is None:
        return chunk.text != "" and chunk.finish_reason is None
    known = before.tool_call
    same = known is not None and call.index == known.index and call.id is None and call.name is None
    return same and call.arguments != "" and chunk.finish_reason is None


def _taken(left: list[Piece], chunk: Chunk) -> Piece | None:
    """Take out of `left` the piece that a Chunk is, or was before a plugin changed it."""
    for piece in left:
        kind, _, index, _, _ = piece.shown
        same = kind == chunk.kind and index == chunk.index and (piece.call is not None) == begins(chunk)
        if same and (kind != "other" or (piece.text is not None) == bool(chunk.text)):
            left.remove(piece)
            return piece
    return None


def _let(piece: Piece, chunk: Chunk) -> None:
    """A Chunk goes out."""
    if piece.text is not None:
        piece.text.went.append(words(chunk))
    elif piece.call is not None and chunk.tool_call is not None:
        call, (_, known_id, known_name, _) = piece.call, piece.shown[4]
        call.withheld = False
        if chunk.tool_call.name != known_name and "name" in call.body:
            call.names["name"] = chunk.tool_call.name
        if chunk.tool_call.id != known_id:
            call.names["call_id" if "call_id" in call.body else "id"] = chunk.tool_call.id

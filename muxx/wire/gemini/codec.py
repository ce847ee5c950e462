"""An answer's way through chunk hooks: its events as Chunks (see `pieces`), and Chunks back to events.

What nobody touched leaves as the provider's own bytes. When some Chunks of an event were changed or dropped, the event is rebuilt
from its own JSON. A Chunk that came from no event gets an event of its own (see `writer`).

The answer's last events may cite its text. Once that is not what came, citations of it are taken out: they would give the old one
away, and their offsets would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from orjson import JSONDecodeError, dumps, loads

from ...reply import Chunk
from ..large import Data
from ..sse import Event, data_of, is_done
from ..wire import Head
from .envelope import as_event
from .facts import GenerateFacts
from .names import candidates_of
from .pieces import Counts, Piece, place_of, read_pieces, rebuild, shown
from .writer import Writer


class _Passing:
    """An event on its way from the provider to the client. `calls` are the calls before it."""

    __slots__ = ("calls", "data", "pieces", "raw", "value")

    def __init__(self, raw: bytes, data: Data, calls: Counts) -> None:
        self.raw = raw
        self.data = data
        self.calls = dict(calls)
        self.value: dict[str, Any] = loads(data)
        self.pieces = read_pieces(self.value, raw, calls)

    def again(self) -> tuple[dict[str, Any], list[Piece]]:
        """The event once more, to be rebuilt."""
        value: dict[str, Any] = loads(self.data)
        return value, read_pieces(value, self.raw, dict(self.calls))


class GenerateCodec:
    """Decodes the events of one answer and encodes its Chunks, in the order of the stream.

    `decode`, the hooks and `encode` take turns event by event; Chunks that a plugin held back may come with later ones. No event
    of this format has to be the last, so `last` is empty unless a candidate is left without its finish reason: after Chunks of
    another format, or of a plugin, and where a plugin ended the answer or dropped the reason. Then it is the event that says it,
    and the usage.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._writer = Writer(head)
        self._calls: Counts = {}
        self._now: _Passing | None = None
        """The event that was decoded last."""
        self._counted: dict[int, tuple[bytes, Counts]] = {}
        """The calls before earlier events that count them or tell of them, by the identity of their bytes."""
        self._relaying = False
        """Events are decoded here; not only Chunks encoded that were decoded elsewhere."""
        self._came: dict[int, list[str]] = {}
        self._went: dict[int, list[str]] = {}
        self._reported: Any = None
        """The usage that came last. An event that goes out late must not take it back."""
        self._ended: Chunk | None = None
        self._over = False
        """The provider ended the answer."""
        self._unfinished: set[int] = set()
        """Candidates the provider began and has not finished."""

    def decode(self, event: Event) -> list[Chunk]:
        """The Chunks of the answer's next event; none of one without data."""
        raw, data = event
        self._relaying = True
        if not data or is_done(data):
            return []
        return [piece.chunk for piece in self._decode(raw, data).pieces]

    def end(self) -> Chunk:
        """The `end` of an answer, which no event is."""
        self._over = True
        if not isinstance(self._head, GenerateFacts):
            return Chunk("end")
        reasons = list(self._head.finish_reasons.values())
        return Chunk("end", finish_reason=reasons[0] if reasons else None, usage=self._head.usage)

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of these Chunks, in order."""
        if type(chunks) is list and len(chunks) == 1 and not self._relaying:
            # The short way for most Chunks of a translated answer: they come one by one.
            [chunk] = chunks
            if chunk.raw is None and chunk.kind != "end":
                if not (chunk.signature or chunk.finish_reason):
                    if chunk.kind == "text" and not chunk.index:
                        return self._writer.text(chunk.text)
                    if chunk.tool_call is not None and self._writer.goes_on(chunk.index, chunk.tool_call):
                        return b""
                return self._add(chunk)
        events = []
        for _, run in groupby(chunks, key=lambda chunk: (id(chunk.raw), chunk.kind == "end")):
            group = list(run)
            events.append(self._end(group[0]) if group[0].kind == "end" else self._pass(group))
        return b"".join(events)

    def last(self) -> bytes:
        """What finishes the answer, where something is left to say; nothing where nothing went this way. What the provider did
        not say by its own end, nobody says for it."""
        if self._ended is None and not self._writer.open:
            return b""
        if self._over:
            self._writer.open |= dict.fromkeys(self._unfinished, False)
        return self._writer.close_calls() + self._writer.final(self._ended or Chunk("end"))

    # ── what comes ──

    def _decode(self, raw: bytes, data: Data) -> _Passing:
        before = dict(self._calls)
        self._now = passing = _Passing(raw, data, self._calls)
        if self._calls:
            self._counted[id(raw)] = raw, before
        self._reported = passing.value.get("usageMetadata", self._reported)
        for piece in passing.pieces:
            if piece.candidate is not None:
                self._begin(piece.chunk)
            if piece.chunk.kind == "text":
                self._came[piece.chunk.index].append(piece.chunk.text)
        return passing

    def _begin(self, chunk: Chunk) -> None:
        """The provider has begun a candidate, goes on with it, or finishes it."""
        if chunk.index not in self._came:
            self._came[chunk.index] = []
            self._unfinished.add(chunk.index)
            self._writer.open.setdefault(chunk.index, True)
        if chunk.finish_reason:
            self._unfinished.discard(chunk.index)

    def _find(self, raw: bytes | None) -> _Passing | None:
        """The event of these bytes; None when they are none, or none of this format."""
        if raw is None:
            return None
        if self._now is not None and self._now.raw is raw:
            return self._now
        data = data_of(raw)
        try:
            if not data or type(loads(data)) is not dict:
                return None
        except JSONDecodeError:
            return None
        if not self._relaying:
            return self._decode(raw, data)
        known = self._counted.get(id(raw))
        return _Passing(raw, data, dict(known[1] if known is not None else {}))

    # ── what goes ──

    def _pass(self, group: list[Chunk]) -> bytes:
        """Consecutive Chunks of one event: its own bytes when they are all of it and unchanged."""
        passing = self._find(group[0].raw)
        if passing is None:
            return b"".join([self._add(chunk) for chunk in group])
        if [shown(chunk) for chunk in group] == [piece.shown for piece in passing.pieces]:
            for piece, chunk in zip(passing.pieces, group, strict=True):
                self._note(piece, chunk)
            return passing.raw if self._cites_rightly(passing.value) else self._rebuilt(passing, dict(enumerate(group)))
        return b"".join(self._changed(passing, group))

    def _changed(self, passing: _Passing, group: list[Chunk]) -> Iterator[bytes]:
        """What is left of an event, in as few events as keep the order; what never stood in it has events of its own."""
        wanted: dict[int, Chunk] = {}
        for chunk, number in zip(group, _matched(passing.pieces, group), strict=True):
            if wanted and (number is None or number < max(wanted)):
                yield self._rebuilt(passing, wanted)
                wanted = {}
            if number is None:
                yield self._add(chunk)
            else:
                self._note(passing.pieces[number], chunk)
                wanted[number] = chunk
        if wanted:
            yield self._rebuilt(passing, wanted)

    def _rebuilt(self, passing: _Passing, wanted: dict[int, Chunk]) -> bytes:
        value, pieces = passing.again()
        rebuild(value, pieces, wanted)
        if "usageMetadata" in value:
            value["usageMetadata"] = self._reported
        if not self._cites_rightly(value):
            for candidate in candidates_of(value):
                candidate.pop("citationMetadata", None)
                if type(grounding := candidate.get("groundingMetadata")) is dict:
                    grounding.pop("groundingSupports", None)
        return as_event(dumps(value))

    def _cites_rightly(self, value: dict[str, Any]) -> bool:
        """Nothing in the event cites a text of which something else has come than has gone."""
        if not any(_cites(candidate) for candidate in candidates_of(value)):
            return True
        came, went = ({index: "".join(texts) for index, texts in said.items()} for said in (self._came, self._went))
        return {index: text for index, text in came.items() if text} == {index: text for index, text in went.items() if text}

    def _add(self, chunk: Chunk) -> bytes:
        """A Chunk in an event of its own; nothing for one that has nothing to say."""
        if chunk.kind == "text":
            self._went.setdefault(chunk.index, []).append(chunk.text)
        return self._writer.add(chunk)

    def _note(self, piece: Piece, chunk: Chunk) -> None:
        """A piece of the provider's goes out."""
        if piece.candidate is not None or chunk.finish_reason:
            self._writer.open[chunk.index] = self._writer.open.get(chunk.index, True) and not chunk.finish_reason
        if chunk.kind == "text":
            self._went.setdefault(chunk.index, []).append(chunk.text)

    def _end(self, end: Chunk) -> bytes:
        self._ended = end
        return self._writer.close_calls(end.finish_reason)


def _cites(candidate: dict[str, Any]) -> bool:
    """It cites its own text: by its words, or by where they stand."""
    grounding = candidate.get("groundingMetadata")
    return bool(candidate.get("citationMetadata")) or (type(grounding) is dict and bool(grounding.get("groundingSupports")))


def _matched(pieces: list[Piece], group: list[Chunk]) -> list[int | None]:
    """For each Chunk the number of the piece it is, or was before it was changed: first those that are as they were."""
    left = dict(enumerate(pieces))
    found: list[int | None] = [None] * len(group)
    for alike in (lambda chunk, piece: shown(chunk) == piece.shown, lambda chunk, piece: place_of(chunk) == _place_shown(piece)):
        for at, chunk in enumerate(group):
            if found[at] is None:
                found[at] = next((number for number, piece in left.items() if alike(chunk, piece)), None)
                left.pop(found[at], None)  # type: ignore[arg-type]
    return found


def _place_shown(piece: Piece) -> tuple[Any, ...]:
    """The place a piece's Chunk had when plugins were shown it."""
    kind, _, index, reason, call, _ = piece.shown
    return kind, index, call[0] if call is not None else None, bool(reason)

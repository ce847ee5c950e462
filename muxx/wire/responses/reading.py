"""The reading side of Responses: events into Chunks, and where an event repeats what has come before.

A piece of a text is a Chunk of the text's kind, whose `index` is its item's place (`output_index`): text, reasoning (a summary
and the reasoning itself), a refusal (`other` with text, as in chat), what a tool is called with, and as `other` what one of the
provider's own tools is asked and returns. A call begins with a Chunk that has its id and name, at the first event that has its
item. The event that ends a text is an `other` with a finish reason: nothing more of this text comes, so what was held back of it
is due. The terminal event is the `end`; any other is one `other`.
A text that comes whole where its pieces did not is shown like a piece, at the first event that has it; at one that ends it with
a finish reason of its own, for several may come at once, and each is a text by itself. So is what an event has in the place of
a text that it does not repeat as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from orjson import loads

from ...reply import Chunk, ToolCall
from ..large import Data
from .envelope import finish_reason, outputs, read_response_usage
from .facts import TERMINAL, index_of
from .items import CALLS, DELTAS, DONES, REPEATS, WHOLE, Form, Path, TextKind, all_texts, form_of, place
from .writer import Item, Text

_ENDS = TERMINAL | DONES.keys() | {f"response.{what}.done" for what in ("content_part", "reasoning_summary_part", "output_item")}
"""Events after which nothing more comes of the texts they hold."""

_REASONS = {"tool_call": "tool_calls"}

Shown = tuple[Any, ...]
Repeat = tuple[Item, Path, Any, Any]
"""Where an event repeats a text: of which item, at which path of it; the container and key under which it stands."""


def shown(chunk: Chunk) -> Shown:
    """What a plugin may change of a Chunk. Chunks can be changed in place, so they are compared with this."""
    call = chunk.tool_call
    told = (call.index, call.id, call.name, call.arguments) if call is not None else None
    return chunk.kind, chunk.text, chunk.index, chunk.finish_reason, told


class Piece(NamedTuple):
    """A Chunk as plugins were shown it, and what letting it through means: a piece of `text` goes out, or `call` begins."""

    shown: Shown
    text: Text | None = None
    call: Item | None = None


class Passing:
    """An event on its way from the provider to the client; `item` is None when it is about all of the answer."""

    __slots__ = ("gone", "item", "kind", "others", "pieces", "raw", "text", "value")

    def __init__(self, raw: bytes, value: dict[str, Any]) -> None:
        self.raw = raw
        self.value = value
        kind = value.get("type")
        self.kind = kind if type(kind) is str else ""
        self.item: Item | None = None
        self.text: Text | None = None
        """What it is a piece of, when it is a piece of a text and nothing else."""
        self.pieces: list[Piece] = []
        self.others: dict[tuple[int, Any], Text] = {}
        """Texts that this event has in the place of those it should repeat, by the identity of their container and their key."""
        self.gone = False

    def show(self, chunk: Chunk, text: Text | None = None, call: Item | None = None) -> Chunk:
        self.pieces.append(Piece(shown(chunk), text, call))
        return chunk


class Reader:
    """Reads the events of one answer, and keeps what has come of each text."""

    __slots__ = ("_items", "_strays", "_whole")

    def __init__(self) -> None:
        self._whole: dict[bytes, Passing] = {}
        """Events that brought a text whole, by their bytes: read again they would have nothing new."""
        self._items: dict[int, Item] = {}
        """The provider's items by their places."""
        self._strays: list[Item] = []
        """Items that a later event has at a place where another one was."""

    def item(self, number: int) -> Item | None:
        return self._items.get(number)

    def read(self, raw: bytes, data: Data) -> tuple[Passing, list[Chunk]]:
        """The next event, and its Chunks, at least one."""
        passing, chunk = self._piece(raw, data)
        if chunk is not None and passing.text is not None:
            passing.text.came.append(passing.value["delta"])
            return passing, [chunk]
        chunks = [*self._new(passing), *_bearer(passing)]
        if any(piece.text is not None for piece in passing.pieces):
            self._whole[raw] = passing
        return passing, chunks

    def again(self, raw: bytes, data: Data) -> Passing:
        """An event that was read before, and of which nothing is new any more: one that a plugin held back."""
        if (known := self._whole.get(raw)) is not None:
            return known
        passing, chunk = self._piece(raw, data)
        item = passing.item
        if passing.kind == "response.output_item.added" and item is not None and item.type in CALLS:
            passing.show(_beginning(item, raw), call=item)
        elif chunk is None:
            list(_bearer(passing))
        return passing

    def _piece(self, raw: bytes, data: Data) -> tuple[Passing, Chunk | None]:
        """An event, and its Chunk when it is a piece of a text."""
        passing = Passing(raw, loads(data))
        form = DELTAS.get(passing.kind)
        passing.item = self._item_of(passing.value, form or REPEATS.get(passing.kind) or _form_of_part(passing.value))
        if form is None or passing.item is None or type(delta := passing.value.get("delta")) is not str:
            return passing, None
        text = passing.text = passing.item.text(form.path_of(passing.value))
        return passing, passing.show(_chunk(form.kind, passing.item.index, delta, raw), text)

    def _new(self, passing: Passing) -> Iterator[Chunk]:
        """What an event has that no event before it had: calls, and texts that came in no pieces."""
        for item, body in self.bodies(passing.value):
            if not item.body and item.type in CALLS:
                item.withheld = item.number is None
                yield passing.show(_beginning(item, passing.raw, body), call=item)
            item.body = body
        repeats = list(self.repeats(passing))
        if passing.kind not in _ENDS:  # what ends with this event goes before what goes on
            repeats.sort(key=lambda found: form_of(found[0].type, found[1]) is not WHOLE)
        for item, path, container, key in repeats:
            text, whole, came = item.text(path), container[key], "".join(item.text(path).came)
            if text.is_contradicted(whole) or (came not in ("", whole) and form_of(item.type, path) is WHOLE):
                other = passing.others[id(container), key] = Text()
                other.came.append(whole)
                yield passing.show(_whole_chunk(item, path, whole, passing), other)
            elif len(whole) > len(came):
                text.came.append(whole[len(came) :])
                yield passing.show(_whole_chunk(item, path, text.came[-1], passing), text)

    def repeats(self, passing: Passing) -> Iterator[Repeat]:
        """Every place in which an event repeats a text."""
        value, item = passing.value, passing.item
        if item is not None and (form := REPEATS.get(passing.kind)) is not None:
            if type(value.get(form.member)) is str:
                yield item, form.path_of(value), value, form.member
        elif item is not None and type(part := value.get("part")) is dict:
            yield from ((item, path, part, path[-1]) for path in _paths_of_part(value, part))
        for whole, body in self.bodies(value):
            yield from ((whole, *found) for found in all_texts(body))

    def bodies(self, value: dict[str, Any]) -> list[tuple[Item, dict[str, Any]]]:
        """The items an event has whole."""
        if type(body := value.get("item")) is dict:
            return [(self._at(index_of(value), body), body)]
        return [(self._at(number, body), body) for number, body in outputs(value.get("response"))]

    def _at(self, number: int, body: dict[str, Any]) -> Item:
        """The item that `body` repeats: the one at its place, unless that is another, as their types tell."""
        kind = body.get("type")
        known = self._items.get(number)
        if known is None:
            return self._items.setdefault(number, Item(number, kind))
        if known.type == kind:
            return known
        for item in [*self._items.values(), *self._strays]:
            if item.type == kind and item.body.get("id") == body.get("id"):
                return item
        self._strays.append(Item(number, kind))
        return self._strays[-1]

    def _item_of(self, value: dict[str, Any], form: Form | None) -> Item | None:
        """The item an event is about; one that was never added is of the type that its texts are of."""
        number = index_of(value)
        if type(body := value.get("item")) is dict:
            return self._at(number, body)
        if form is None:
            return self._items.get(number) if "output_index" in value else None
        return self._items.get(number) or self._items.setdefault(number, Item(number, _type_for(form)))


def end_of(terminal: dict[str, Any], raw: bytes) -> Chunk:
    """The `end`, with why the answer finished and what it used."""
    answer = terminal.get("response")
    if type(answer) is not dict:
        return Chunk("end", raw=raw)
    usage = answer.get("usage")
    read = read_response_usage(usage, answer.get("service_tier"))[0] if usage is not None else None
    return Chunk("end", finish_reason=finish_reason(answer), usage=read, raw=raw)


def kind_of(chunk: Chunk) -> TextKind | None:
    """The kind of text a Chunk is a piece of; None when it is none."""
    if chunk.tool_call is not None:
        return "tool_call"
    if chunk.kind == "text" or chunk.kind == "reasoning":
        return chunk.kind
    return "refusal" if chunk.kind == "other" and chunk.text else None


def words(chunk: Chunk) -> str:
    """The text a Chunk is a piece of, or of what a tool is called with."""
    return chunk.tool_call.arguments if chunk.tool_call is not None else chunk.text


def begins(chunk: Chunk) -> bool:
    """A call begins with this Chunk."""
    call = chunk.tool_call
    return call is not None and (call.id is not None or call.name is not None)


def _bearer(passing: Passing) -> Iterator[Chunk]:
    """The Chunk that stands for the event itself. One with which a call begins goes with the call."""
    if passing.kind in TERMINAL:
        yield end_of(passing.value, passing.raw)
    elif passing.item is None or not any(piece.call is not None for piece in passing.pieces):
        form = DONES.get(passing.kind)
        reason = None if form is None else _REASONS.get(form.kind, "stop")
        yield passing.show(Chunk("other", index=index_of(passing.value), finish_reason=reason, raw=passing.raw))


def _chunk(kind: TextKind, index: int, piece: str, raw: bytes) -> Chunk:
    if kind == "tool_call":
        return Chunk("tool_call", index=index, tool_call=ToolCall(index, arguments=piece), raw=raw)
    return Chunk("other" if kind == "refusal" else kind, piece, index, raw=raw)


def _whole_chunk(item: Item, path: Path, piece: str, passing: Passing) -> Chunk:
    """The Chunk of a text that comes whole, or of all of one that has not come in pieces yet."""
    form = form_of(item.type, path)
    chunk = _chunk(form.kind, item.index, piece, passing.raw)
    chunk.finish_reason = _REASONS.get(chunk.kind, "stop") if form is WHOLE or passing.kind in _ENDS else None
    return chunk


def _beginning(item: Item, raw: bytes, body: dict[str, Any] | None = None) -> Chunk:
    body = item.body if body is None else body
    name = body.get("name")
    call = ToolCall(
        item.index, body.get("call_id") or body.get("id"), name if type(name) is str else item.type.removesuffix("_call")
    )
    return Chunk("tool_call", index=item.index, tool_call=call, raw=raw)


def _paths_of_part(value: dict[str, Any], part: dict[str, Any]) -> list[Path]:
    field = "summary" if "summary_index" in value else "content"
    number = place(value.get(f"{field}_index"))
    return [(field, number, leaf) for leaf in ("text", "refusal") if type(part.get(leaf)) is str]


def _form_of_part(value: dict[str, Any]) -> Form | None:
    """The form of the text in an event about a part."""
    if type(part := value.get("part")) is not dict:
        return None
    paths = _paths_of_part(value, part)
    return form_of("", paths[0]) if paths else None


def _type_for(form: Form) -> str:
    calls = (kind for kind, called in CALLS.items() if called is form)
    return next(calls, "reasoning" if form.kind == "reasoning" else "message")

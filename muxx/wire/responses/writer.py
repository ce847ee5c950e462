"""The writing side of Responses: events that no provider sent, for what plugins add, and for answers that plugins make.

Items are numbered by the client in the order in which they begin, so an item's place is given here, when its first event goes
out: where nothing is added or dropped that is the provider's own `output_index`.
"""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from typing import Any

from orjson import dumps, loads

from .items import WHOLE, Form, Path, TextKind, all_texts, form_of

_PARTS = {
    "content": ("response.content_part", "content_index"),
    "summary": ("response.reasoning_summary_part", "summary_index"),
}
_PART_TYPES: dict[str, dict[str, Any]] = {
    "response.output_text": {"type": "output_text", "annotations": [], "logprobs": []},
    "response.refusal": {"type": "refusal"},
    "response.reasoning_text": {"type": "reasoning_text"},
    "response.reasoning_summary_text": {"type": "summary_text"},
}


class Text:
    """One text of an answer: the pieces the provider sent, and those that went out. The flags say which events went out. `part`
    is that of a plain answer in which it stands."""

    __slots__ = ("came", "done", "part", "part_done", "shown", "went")

    def __init__(self) -> None:
        self.part: dict[str, Any] = {}
        self.came: list[str] = []
        self.went: list[str] = []
        self.shown = self.done = self.part_done = False

    @property
    def whole(self) -> str:
        """The text as the client has it."""
        return "".join(self.went)

    @property
    def logprobs(self) -> list[Any]:
        return self.part.get("logprobs") or []

    @property
    def changed(self) -> bool:
        return self.whole != "".join(self.came)

    def is_contradicted(self, repeated: str) -> bool:
        """What an event repeats of this text is neither a beginning of what came nor more of it."""
        came = "".join(self.came)
        return not (came.startswith(repeated) or repeated.startswith(came))


class Item:
    """One item of an answer; `index` is its place in the provider's answer, `number` in the client's, None until its first event
    goes out. `body` is the last whole form that came. `names` holds what plugins changed of a call's id and name. `made` is True
    for an item no provider sent, `withheld` for a call whose beginning the hooks have not let through."""

    __slots__ = ("body", "closed", "index", "latest", "made", "names", "number", "owed", "texts", "type", "withheld")

    def __init__(self, index: int, kind: Any, body: dict[str, Any] | None = None) -> None:
        self.index = index
        self.type = kind if type(kind) is str else ""
        self.body: dict[str, Any] = body or {}
        self.made = body is not None
        self.number: int | None = None
        self.texts: dict[Path, Text] = {}
        self.latest: dict[TextKind, Path] = {}
        """Where the last piece of each kind stood."""
        self.names: dict[str, Any] = {}
        self.owed: list[Any] = []
        """Events about a call that came while it was withheld."""
        self.withheld = self.closed = False

    def text(self, path: Path) -> Text:
        """The text at a path, made at its first mention, and from now on the latest of its kind."""
        self.latest[form_of(self.type, path).kind] = path
        return self.texts.get(path) or self.texts.setdefault(path, Text())

    def filled(self) -> dict[str, Any]:
        """The item as the client has it."""
        body: dict[str, Any] = {"type": self.type, **loads(dumps(self.body)), **self.names}
        for path, text in self.texts.items():
            _put(body, path, form_of(self.type, path), text)
        return body


def put_text(container: Any, key: Any, text: Text) -> None:
    """Write a text as the client has it. Where it was changed, the log probabilities of its tokens would give it away."""
    container[key] = text.whole
    if type(container) is dict and container.get("logprobs") and text.changed:
        container["logprobs"] = []


def _put(body: dict[str, Any], path: Path, form: Form, text: Text) -> None:
    """Write a text into an item that may not have the place for it yet."""
    if form is WHOLE:
        with suppress(LookupError, TypeError):  # its last form may lack what an earlier one had
            holder: Any = body
            for step in path[:-1]:
                holder = holder[step]
            put_text(holder, path[-1], text)
    elif len(path) == 1:
        put_text(body, path[0], text)
    elif len(path) == 2:  # a list of texts, where others have one of parts
        texts = _list_in(body, path[0])
        _entry(texts, path[1], "")
        put_text(texts, path[1], text)
    elif path[0] in _PARTS:
        put_text(_entry(_list_in(body, path[0]), path[1], _part(form, "")), path[2], text)
    else:
        action = body["action"] = body["action"] if type(body.get("action")) is dict else {}
        commands = _list_in(action, path[1])
        _entry(commands, path[2], "")
        put_text(commands, path[2], text)


def _list_in(holder: dict[str, Any], key: Any) -> list[Any]:
    holder[key] = holder[key] if type(holder.get(key)) is list else []
    values: list[Any] = holder[key]
    return values


def _entry(values: list[Any], number: Any, filling: Any) -> Any:
    """The entry of that number, made where there is none of its type."""
    while len(values) <= number:
        values.append(copy(filling))
    if type(values[number]) is not type(filling):
        values[number] = copy(filling)
    return values[number]


def blank(body: dict[str, Any]) -> dict[str, Any]:
    """An item as it is when it begins: without its texts."""
    item: dict[str, Any] = loads(dumps(body))
    for _, container, key in all_texts(item):
        container[key] = ""
    for field in _PARTS:
        if field in item:
            item[field] = []
    if "status" in item:
        item["status"] = "in_progress"
    return item


class Lane:
    """Where the pieces of one text go while nothing comes between: their events differ in the piece and their number only."""

    __slots__ = ("_after", "_before", "_between", "_went")

    def __init__(self, event: bytes, went: list[str]) -> None:
        """`event` is one of an empty piece and of number 0."""
        self._before, _, rest = event.partition(_NUMBER)
        between, _, self._after = rest.partition(_PIECE)
        self._before += _NUMBER[:-1]
        self._between = between + _PIECE[:-2]
        self._went = went

    def event(self, number: int, piece: str) -> bytes:
        self._went.append(piece)
        return b"%b%d%b%b%b" % (self._before, number, self._between, dumps(piece), self._after)


_NUMBER, _PIECE = b'"sequence_number":0', b'"delta":""'


class Writer:
    """Makes events, and gives items their places.

    Sequence numbers are the provider's and never fall: an event that is added, or that was held back while later ones went out,
    repeats the number of the one before it; an event that is dropped leaves a gap. Where no event of the provider follows,
    numbers are counted on; where the provider does not number its events, nobody does.
    """

    __slots__ = ("_counting", "_numbered", "items", "named", "number")

    def __init__(self) -> None:
        self.items: list[Item] = []
        """What went out, in the order in which it began."""
        self.named = True
        """Events have an `event` line, as OpenAI's do."""
        self.number = -1
        """The number of the last event that went out."""
        self._numbered = self._counting = True

    def follow(self, event: dict[str, Any], *, named: bool) -> None:
        """An event of the provider has come: write like it."""
        self.named = named
        self._numbered = type(event.get("sequence_number")) is int
        self._counting = False

    def raised(self, event: dict[str, Any]) -> bool:
        """An event of the provider goes out; whether its number had to be raised, for later ones have gone before it."""
        number = event.get("sequence_number")
        if type(number) is not int:
            return False
        event["sequence_number"] = self.number = max(number, self.number)
        return number < self.number

    def count_on(self) -> None:
        """No further event of the provider goes out."""
        self._counting = True

    def event(self, kind: str, **members: Any) -> bytes:
        value: dict[str, Any] = {"type": kind}
        if self._numbered:
            self.number = max(self.number + self._counting, 0)
            value["sequence_number"] = self.number
        return as_event({**value, **members}, self.named)

    def lane(self, item: Item, path: Path) -> Lane:
        """The lane of a text that has begun, in an answer whose events are all numbered here."""
        form = form_of(item.type, path)
        more: dict[str, Any] = {"logprobs": []} if form.kind == "text" else {}
        kind = f"{form.stem}.delta"
        value = {"type": kind, "sequence_number": 0, **_where(item, form.number, path), "delta": "", **more}
        return Lane(as_event(value, self.named), item.text(path).went)

    def place(self, item: Item) -> None:
        """Its first event goes out."""
        item.number = len(self.items)
        self.items.append(item)

    def open(self, item: Item) -> bytes:
        """Begin an item."""
        self.place(item)
        body = blank({**item.body, **item.names})
        return self.event("response.output_item.added", output_index=item.number, item=body)

    def delta(self, item: Item, path: Path, piece: str) -> bytes:
        """A piece of a text, which begins its part if need be."""
        form, text = form_of(item.type, path), item.text(path)
        opened = b""
        if path[0] in _PARTS and not text.shown:
            stem, number = _PARTS[str(path[0])]
            opened = self.event(f"{stem}.added", **_where(item, number, path), part=_part(form, ""))
        text.shown = True
        text.went.append(piece)
        more: dict[str, Any] = {"logprobs": text.logprobs} if form.kind == "text" else {}
        return opened + self.event(f"{form.stem}.delta", **_where(item, form.number, path), delta=piece, **more)

    def cited(self, item: Item, path: Path) -> bytes:
        """The sources of a text of a plain answer, each in an event of its own."""
        annotations = item.text(path).part.get("annotations")
        kind, where = "response.output_text.annotation.added", _where(item, "content_index", path)
        told = enumerate(annotations if type(annotations) is list else ())
        return b"".join([self.event(kind, **where, annotation_index=number, annotation=source) for number, source in told])

    def end(self, item: Item, path: Path) -> bytes:
        """End a text before its item ends."""
        text = item.text(path)
        events = self._close_text(item, path, text)
        text.done = text.part_done = True
        return events

    def close(self, item: Item, status: Any) -> bytes:
        """End an item, and before it those of its texts that have not ended."""
        item.closed = True
        if "status" in item.body:
            item.body = {**item.body, "status": status}
        begun = [(path, text) for path, text in item.texts.items() if text.shown or path[0] not in _PARTS]
        events = [self._close_text(item, path, text) for path, text in begun]
        events.append(self.event("response.output_item.done", output_index=item.number, item=item.filled()))
        return b"".join(events)

    def _close_text(self, item: Item, path: Path, text: Text) -> bytes:
        form, events = form_of(item.type, path), b""
        if form is WHOLE:
            return events
        if not text.done:
            more: dict[str, Any] = {"logprobs": text.logprobs} if form.kind == "text" else {}
            events += self.event(f"{form.stem}.done", **_where(item, form.number, path), **{form.member: text.whole}, **more)
        if path[0] in _PARTS and not text.part_done:
            stem, number = _PARTS[str(path[0])]
            events += self.event(f"{stem}.done", **_where(item, number, path), part=_part(form, text.whole) | text.part)
        return events


def as_event(value: dict[str, Any], named: bool) -> bytes:
    name = f"event: {value.get('type')}\n".encode() if named else b""
    return name + b"data: " + dumps(value) + b"\n\n"


def _part(form: Form, text: str) -> dict[str, Any]:
    return {**_PART_TYPES[form.stem], form.member: text}


def _where(item: Item, number: str | None, path: Path) -> dict[str, Any]:
    """The members that say which text an event is about."""
    where: dict[str, Any] = {"item_id": item.body.get("id"), "output_index": item.number}
    return where if number is None else {**where, number: next((step for step in path if type(step) is int), 0)}

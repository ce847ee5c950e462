"""A stream's events that hold half of a character: observed as they are, and made whole for whoever reads what they say.

Where an event's text ends with the first half of a character and the next piece of the same text begins with the second, the
former gets the character. It waits for that; what is said of other choices does not. A half without the other one is U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from orjson import JSONDecodeError, JSONEncodeError, loads

from ..errors import UpstreamProtocolError
from .halves import SPOKEN, begins_with_half, dumps, ends_with_half, may_hold, pieces, whole, whole_json
from .large import Data
from .sse import Event, data_of
from .wire import StreamFacts, Verdict

Place = tuple[Any, ...]
"""Which text it is, of all that are spoken at once."""

Texts = dict[Place, tuple[Any, Any]]
"""Container and key of texts by their places."""

_DATA = re.compile(rb"(?:\A|(?<=[\r\n]))data:")

_LEVELS = 8
"""No format has its texts deeper down."""

_NUMBERS = ("index", "output_index", "content_index", "summary_index", "type")
_REASONS = ("finish_reason", "finishReason")


def observed(facts: StreamFacts, event: Event) -> Verdict:
    """What is to be done with an event, which may hold halves of characters."""
    try:
        return facts.observe(event)
    except UpstreamProtocolError as error:
        return observed_with_halves(facts, event, error)


def observed_with_halves(facts: StreamFacts, event: Event, error: UpstreamProtocolError) -> Verdict:
    """The same of one that has been refused; raises `error` where halves are not why."""
    if (value := _halved(event)) is None:
        raise error
    return facts.observe(event, value)


def holds_halves(event: Event) -> bool:
    """An event that is JSON but for halves of characters."""
    return _halved(event) is not None


def mended(events: Iterable[Event]) -> list[Event]:
    """The events of a whole stream."""
    mender = Mender()
    return [*mender.take(events), *mender.rest()]


class _Waiting(NamedTuple):
    """An event that waits for the other half of a character."""

    event: Event
    value: dict[str, Any]
    texts: Texts
    """Those that end with half of a character."""
    choices: set[int]
    """The choices it is about; none where the format has no several."""

    def is_past(self, value: dict[str, Any]) -> bool:
        """An event of which nothing goes on with what is said here, or ends it."""
        choices = set(map(_number, _entries(value)))
        return value.get("type") == "ping" or (bool(choices) and self.choices.isdisjoint(choices))

    def join(self, value: dict[str, Any]) -> None:
        """Take the other halves, where the next event begins with them."""
        for place, holder, key in _texts(value):
            if place in self.texts and begins_with_half(holder[key]):
                own, at = self.texts.pop(place)
                own[at] = whole(own[at] + holder[key][0])
                holder[key] = holder[key][1:]


class Mender:
    """Makes the events of one stream whole. One that needs no mending is the very event that came."""

    __slots__ = ("_came", "_waiting", "_went")

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._came = self._went = b""
        """The bytes of the event mended last, as they came and as they went."""

    def take(self, events: Iterable[Event]) -> list[Event]:
        """Those that may go on now."""
        return [whole for event in events for whole in self._take(event)]

    def rest(self) -> list[Event]:
        """The events that waited: nothing comes any more."""
        waiting, self._waiting = self._waiting, []
        return [self._written(each.event, each.value) for each in waiting]

    def came(self, raw: bytes) -> bytes:
        """The bytes of an event as they came."""
        return self._came if raw is self._went else raw

    def _take(self, event: Event) -> Iterator[Event]:
        if not event[1] or (not self._waiting and not may_hold(event[1])):
            yield event
            return
        strictly = _strictly(event[1])
        halved = pieces(event[1]) if strictly is None and may_hold(event[1]) else None
        value = halved or (strictly if type(strictly) is dict else {})
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.is_past(value):
                self._waiting.append(each)
            else:
                each.join(value)
                yield self._written(each.event, each.value)
        if halved is None:
            yield event
        elif texts := _unfinished(value):
            self._waiting.append(_Waiting(event, value, texts, set(map(_number, _entries(value)))))
        else:
            yield self._written(event, value)

    def _written(self, event: Event, value: dict[str, Any]) -> Event:
        """An event that says `value`."""
        raw, data = event
        try:
            made = dumps(value)
        except JSONEncodeError:  # nested deeper than orjson writes
            made = whole_json(bytes(data or b""))
        begun = _DATA.search(raw)
        assert begun is not None, "an event with data has a line for it"
        self._came, self._went = raw, raw[: begun.start()] + b"data: " + made + b"\n\n"
        return self._went, data_of(self._went)


def _halved(event: Event) -> dict[str, Any] | None:
    """The JSON of an event that holds halves; None for any other."""
    data = event[1]
    if not data or not may_hold(data) or _strictly(data) is not None:
        return None
    return pieces(data)


def _strictly(data: Data) -> Any:
    """The JSON of whole characters; None where it is none, as `[DONE]` is. (An event of `null` says as little.)"""
    try:
        return loads(data)
    except JSONDecodeError:
        return None


def _entries(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices an event is about, where its format has several."""
    entries = value.get("choices", value.get("candidates"))
    return [entry for entry in entries if type(entry) is dict] if type(entries) is list else []


def _number(entry: dict[str, Any]) -> int:
    number = entry.get("index")
    return number if type(number) is int else 0


def _unfinished(value: dict[str, Any]) -> Texts:
    """The texts of an event that end with half of a character, where more of them may come."""
    if any(choice.get(name) for choice in _entries(value) for name in _REASONS):
        return {}
    return {place: (holder, key) for place, holder, key in _texts(value) if ends_with_half(holder[key])}


def _texts(value: dict[str, Any]) -> Iterator[tuple[Place, Any, Any]]:
    """The texts of what an event says, in their order: place, container and key."""
    top = tuple(number for name in _NUMBERS if type(number := value.get(name)) in (int, str))
    for name in SPOKEN & value.keys():
        if type(value[name]) is str:
            yield (*top, name), value, name
        elif type(value[name]) in (dict, list):
            yield from _texts_in(value[name], (*top, name), _LEVELS)


def _texts_in(holder: Any, place: Place, levels: int) -> Iterator[tuple[Place, Any, Any]]:
    for key, child in holder.items() if type(holder) is dict else enumerate(holder):
        step = (*place, _step(key, child, holder))
        if type(child) is str:
            yield step, holder, key
        elif levels and (type(child) is dict or type(child) is list):
            yield from _texts_in(child, step, levels - 1)


def _step(key: Any, child: Any, holder: Any) -> Any:
    """What tells an entry from those beside it: its number, where it has one. Google's parts go on in those of later events."""
    if type(holder) is list and type(child) is dict:
        number = child.get("index")
        return number if type(number) is int else (key if "text" not in child else bool(child.get("thought")))
    return key

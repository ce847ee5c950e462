"""What is learnt of a Responses answer while it passes. Facts are read, never enforced, as in `openai.answer`."""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError, loads

from ...errors import UpstreamError, UpstreamProtocolError
from ...money import Usage
from .. import large
from ..failures import GARBAGE, told_in_answer
from ..fragments import Fragments
from ..openai.answer import parse_answer, with_one_of
from ..sse import Event, is_comment, is_done
from ..wire import DONE, DROP, ERROR_EVENT, FORWARD, Verdict
from .envelope import finish_reason, outputs, read_response_usage
from .items import DELTAS, DONES, Path, TextKind, form_of, written

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The events that end an answer; each holds all of it. An `error` ends it too, and is no answer."""

_TEXT_DELTA = "response.output_text.delta"


class ResponseFacts:
    """What is known of an answer, streamed or plain.

    `answer` is the last whole response object that came; `usage` and `usage_invalid` are what it says of tokens, as in
    `ChatFacts`; `error` is why it failed, when it did.
    """

    __slots__ = ("_others", "_spoken", "answer", "created", "error", "id", "model", "service_tier", "usage", "usage_invalid")

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created: int | None = None
        self.service_tier: str | None = None
        self.usage: Usage | None = None
        self.usage_invalid = False
        self.error: Any = None
        self.answer: dict[str, Any] = {}
        self._spoken: dict[tuple[int, int], Fragments] = {}
        """The answer's text, by output and content index."""
        self._others: dict[tuple[int, Path], Fragments] = {}

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why the answer finished, under 0: it is one answer, however many items it has."""
        reason = finish_reason(self.answer)
        return {} if reason is None else {0: reason}

    @property
    def text(self) -> str:
        """The text of all messages, one after the other."""
        self._collect()
        return "".join(piece for _, pieces in sorted(self._spoken.items()) for piece in pieces)

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of all the model wrote: texts, refusals, reasoning, what tools are called with."""
        self._collect()
        return sum(map(len, self._pieces()))

    @property
    def text_since_usage(self) -> bool:
        """Text has come that the reported usage does not count yet. A plain answer's usage counts all of it."""
        return False

    def _pieces(self) -> list[Fragments]:
        return [*self._spoken.values(), *self._others.values()]

    def learn(self, answer: dict[str, Any]) -> None:
        """Take a response object, whole or as it was when the answer began."""
        self.answer = answer
        if not self.id and type(answer_id := answer.get("id")) is str:
            self.id = answer_id
        if not self.model and type(model := answer.get("model")) is str:
            self.model = model
        if self.created is None and isinstance(created := answer.get("created_at"), int | float):
            self.created = int(created)
        if type(tier := answer.get("service_tier")) is str:
            self.service_tier = tier
        if error := answer.get("error"):
            self.error = error
        elif answer.get("status") == "failed":
            self.error = self.error or {"message": ""}
        if (usage := answer.get("usage")) is not None:
            read, invalid = read_response_usage(usage, self.service_tier)
            self.usage = read or self.usage
            self.usage_invalid = self.usage_invalid or invalid

    def _collect(self) -> None:
        """Where no text came in pieces, what the answer says is taken apart: when somebody asks, for mostly nobody does."""
        if not self._spoken and not self._others:
            for number, item in outputs(self.answer):
                self._take_item(number, item)

    def _take_item(self, number: int, item: dict[str, Any]) -> None:
        for path, container, key in written(item):
            self._take_whole(number, form_of(item["type"], path).kind, path, container[key])

    def _take_whole(self, number: int, kind: TextKind, path: Path, text: Any) -> None:
        """A text that is repeated whole; of one that has come in pieces nothing is left to learn."""
        if type(text) is str and text and not (pieces := self._pieces_of(number, kind, path)):
            pieces.append(text)

    def _pieces_of(self, number: int, kind: TextKind, path: Path) -> Fragments:
        if kind == "text" and len(path) > 1 and type(index := path[1]) is int:
            return self._spoken.setdefault((number, index), Fragments())
        return self._others.setdefault((number, path), Fragments())


class ResponseStream(ResponseFacts):
    """Observes an upstream stream, each event exactly once, and says what is to be done with it.

    `finished` and `done` are True once the terminal event has come, which is the event to be held back until the answer is
    recorded. `error` is what the provider's own error event held, or why the answer failed. `value` is the JSON of the event
    observed last, None when it had none.
    """

    ends_with_body = False
    saying: Fragments | None = None
    __slots__ = ("_counted", "_items", "_last", "done", "value")

    def __init__(self) -> None:
        super().__init__()
        self.done = False
        self._counted = 0
        self._items: dict[int, dict[str, Any]] = {}
        self._last: Any = None
        self.value: Any = None

    @property
    def finished(self) -> bool:
        return self.done

    @property
    def text_since_usage(self) -> bool:
        return self._fragments() > self._counted

    def _fragments(self) -> int:
        return sum(map(len, self._pieces()))

    def learn(self, answer: dict[str, Any]) -> None:
        super().learn(answer)
        if answer.get("usage") is not None:
            self._counted = self._fragments()

    @property
    def next_number(self) -> int | None:
        """The sequence number of an event that would follow; None when the provider does not number its events."""
        number = self._last.get("sequence_number") if type(self._last) is dict else None
        return number + 1 if type(number) is int else None

    def observe(self, event: Event, value: Any = None) -> Verdict:
        """Learn from one event. Raises `UpstreamProtocolError` when its data is neither a JSON object nor `[DONE]`."""
        data = event[1]
        if not data:
            self.value = None
            return FORWARD if data is None and is_comment(event[0]) else DROP
        try:
            if value is None:
                value = loads(data) if type(data) is bytes else large.loads(data)
        except JSONDecodeError:
            self.value = None
            if is_done(data):
                return DROP  # not this format's end, and clients take it for a clean one
            raise UpstreamProtocolError(GARBAGE) from None
        if type(value) is not dict:
            raise UpstreamProtocolError(GARBAGE)
        self._last = self.value = value
        # The short way for what most events are: a piece of a text that has begun.
        try:
            if value["type"] == _TEXT_DELTA and type(delta := value["delta"]) is str:
                self._spoken[value["output_index"], value["content_index"]].append(delta)
                return FORWARD
        except (KeyError, TypeError):
            pass  # another shape, or a text's first piece
        return self._observe_any(value)

    def likeness(self, raw: bytes) -> None:
        """No two of these events are alike: each has its number."""

    def _observe_any(self, value: dict[str, Any]) -> Verdict:
        kind = value.get("type")
        kind = kind if type(kind) is str else ""
        if error := told_in_answer(value):
            self.error = error
            return ERROR_EVENT
        if (form := DELTAS.get(kind)) is not None:
            if type(delta := value.get("delta")) is str:
                self._pieces_of(index_of(value), form.kind, form.path_of(value)).append(delta)
        elif (form := DONES.get(kind)) is not None:
            self._take_whole(index_of(value), form.kind, form.path_of(value), value.get(form.member))
        elif kind == "response.output_item.done" and type(item := value.get("item")) is dict:
            self._items[index_of(value)] = item
            self._take_item(index_of(value), item)
        elif type(answer := value.get("response")) is dict:
            self.learn(answer)
        self.done = kind in TERMINAL
        return DONE if self.done else FORWARD

    def output(self) -> list[Any]:
        """The items of the answer: as the terminal event has them, or where it has none, as they came."""
        whole = self.answer.get("output")
        return whole if whole and type(whole) is list else [item for _, item in sorted(self._items.items())]


def index_of(event: dict[str, Any]) -> int:
    """The place of the item an event is about. What names none is about the first."""
    number = event.get("output_index")
    return number if type(number) is int else 0


def read_response(body: bytes) -> ResponseFacts:
    """The facts of a plain answer. One that failed is an answer: it says so itself.

    Raises `UpstreamError` when it is an error or a web page, `UpstreamProtocolError` when it is no JSON object.
    """
    answer = parse_answer(body)
    if answer.get("error") and answer.get("object") != "response":
        raise UpstreamError
    facts = ResponseFacts()
    facts.learn(with_one_of(answer, "output", "status"))
    return facts


def assembled(facts: ResponseFacts) -> dict[str, Any]:
    """An answer as one response object, whatever way it came."""
    if isinstance(facts, ResponseStream):
        return {**facts.answer, "output": facts.output()}
    return facts.answer

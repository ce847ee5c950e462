"""An answer of chat completions that streams: what is learnt of it event by event, and what is to be done with each."""

from __future__ import annotations

import string
from typing import Any

from orjson import JSONDecodeError, loads

from ...errors import UpstreamProtocolError
from .. import large
from ..alike import PROBE, Alike, Padding, likeness
from ..failures import GARBAGE, told_in_answer
from ..fragments import Fragments
from ..large import Data
from ..sse import Event, is_comment, is_done
from ..wire import DONE, DROP, ERROR_EVENT, FORWARD, WITHHOLD, Verdict
from .answer import ChatFacts


class ChatStream(ChatFacts):
    """Observes an upstream stream, each event exactly once, and says what is to be done with it.

    `client_asked_usage` says whether the usage event is the client's or muxx's own; `choices` is the request's `n`. `finished` is
    True while every choice, and no fewer than the request asked for, has its finish reason: the answer may end here. `done` is
    True once `[DONE]` has come. `error` is what the provider's own error event held. `value` is the JSON of the event observed
    last, None when it had none.
    """

    ends_with_body = False
    __slots__ = ("_client_asked_usage", "_counted", "_expected", "done", "error", "finished", "saying", "value")

    def __init__(self, *, client_asked_usage: bool, choices: int = 1) -> None:
        super().__init__()
        self._client_asked_usage = client_asked_usage
        self._expected = choices
        self._counted = 0
        self.finished = False
        self.done = False
        self.error: Any = None
        self.value: Any = None
        self.saying: Fragments | None = None

    @property
    def text_since_usage(self) -> bool:
        return self._fragments() > self._counted

    def _fragments(self) -> int:
        return sum(choice.fragments() for choice in self.choices.values())

    def _take_usage(self, chunk: dict[str, Any], value: Any) -> None:
        super()._take_usage(chunk, value)
        self._counted = self._fragments()

    def observe(self, event: Event, value: Any = None) -> Verdict:
        """Learn from one event. Raises `UpstreamProtocolError` when its data is neither a JSON object nor `[DONE]`."""
        data = event[1]
        self.saying = None
        if not data:
            self.value = None
            return FORWARD if data is None and is_comment(event[0]) else DROP
        try:
            if value is None:
                value = loads(data) if type(data) is bytes else large.loads(data)
            self.value = chunk = value
        except JSONDecodeError:
            return self._not_json(data)
        try:
            if self._takes_piece(chunk):
                return FORWARD
        except (AttributeError, LookupError, TypeError, ValueError):
            pass  # another shape, or a choice's first event
        return self._observe_any(chunk)

    def _takes_piece(self, chunk: Any) -> bool:
        """The short way for what nearly every event is: take a piece of what a known choice is saying, where nothing else is to
        be learnt. Nothing is taken where it is False, or raises what looking into another shape raises."""
        [choice] = chunk["choices"]
        delta = choice["delta"]
        if choice["finish_reason"] or "error" in chunk or chunk.get("usage") is not None:
            return False
        known, content = self._choices[choice["index"]], delta.get("content")
        if content:
            if type(content) is not str or not (len(delta) == 1 or (len(delta) == 2 and "role" in delta)):
                return False
            self.saying = known.text
            known.text.append(content)
            return True
        if "tool_calls" in delta:  # those who read a call count its pieces, so `saying` is not told
            return known.take_arguments(delta)
        if known.take_reasoning(delta):
            self.saying = known.reasoning
            return True
        return False

    def likeness(self, raw: bytes) -> Alike | None:
        """What the event observed last, of which these are the bytes, has in common with others that say more of the same, where
        it can be told. `value` is of no use after it."""
        if self.saying is None or self.finished:
            return None
        [choice] = self.value["choices"]
        holder, member = self._place_of_text(choice)
        alike, probe = likeness(raw, b'"%b":' % member.encode(), _PADDING, self.saying)
        holder[member] = PROBE
        return alike if probe == self.value else None

    def _place_of_text(self, choice: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The object and the member that hold what the event observed last says."""
        delta: dict[str, Any] = choice["delta"]
        return delta, "content" if delta.get("content") else "reasoning_content"

    def _observe_any(self, chunk: Any) -> Verdict:
        if type(chunk) is not dict:
            raise UpstreamProtocolError(GARBAGE)
        if error := told_in_answer(chunk):
            self.error = error
            return ERROR_EVENT
        self.learn(chunk, "delta")
        known = self._choices.values()
        self.finished = len(known) >= self._expected and all(choice.finish_reason for choice in known)
        asked_by_us = chunk.get("choices") == [] and type(chunk.get("usage")) is dict and not self._client_asked_usage
        return WITHHOLD if asked_by_us else FORWARD

    def _not_json(self, data: Data) -> Verdict:
        self.value = None
        if not is_done(data):
            raise UpstreamProtocolError(GARBAGE)
        self.done = True
        return DONE


_PADDING = Padding(behind=b',"obfuscation":"', fill=(string.ascii_letters + string.digits).encode())
"""OpenAI's: a member of its own."""

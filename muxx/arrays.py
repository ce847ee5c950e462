"""The client's side of a stream that is to be a JSON array, sent piece by piece: Google's form without `alt=sse`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

from .errors import MuxxError
from .wire.gemini import ArrayFraming

if TYPE_CHECKING:
    from .answer import Answer

_EVENTS = "Content-Type: text/event-stream"
_ARRAY = "Content-Type: application/json"


class AsArray:
    """A `ClientSide` that writes the events it is given as elements of an array. What is no stream leaves as it is."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._framing = ArrayFraming()

    @property
    def head_sent(self) -> bool:
        return self._answer.head_sent

    @property
    def stalled_since(self) -> float | None:
        return self._answer.stalled_since

    @property
    def on_resume(self) -> Callable[[], None] | None:
        return self._answer.on_resume

    @on_resume.setter
    def on_resume(self, resume: Callable[[], None] | None) -> None:
        self._answer.on_resume = resume

    @property
    def on_gone(self) -> Callable[[], bool] | None:
        return self._answer.on_gone

    @on_gone.setter
    def on_gone(self, gone: Callable[[], bool] | None) -> None:
        self._answer.on_gone = gone

    @property
    def gone(self) -> bool:
        return self._answer.gone

    @property
    def paused(self) -> bool:
        return self._answer.paused

    def whole(self, status: int, head: str, body: bytes) -> None:
        self._answer.whole(status, head, body)

    def begin(self, status: int, head: str) -> None:
        self._framing = ArrayFraming()  # an attempt before this one may have begun one
        self._answer.begin(status, head.replace(_EVENTS, _ARRAY))

    def send(self, data: bytes) -> None:
        if piece := self._framing.feed(data):
            self._answer.send(piece)

    def end(self, data: bytes = b"", otherwise: Callable[[MuxxError], bytes] | None = None) -> None:
        unfinished = deepcopy(self._framing)  # the error event stands where the data would have

        def cut(error: MuxxError) -> bytes:
            return (unfinished.feed(otherwise(error)) if otherwise is not None else b"") + unfinished.end()

        self._answer.end(self._closed(data), cut)

    def break_off(self, data: bytes) -> None:
        self._answer.break_off(self._closed(data))

    def _closed(self, data: bytes) -> bytes:
        return self._framing.feed(data) + self._framing.end()

    def close_after(self) -> None:
        self._answer.close_after()

    def abort(self) -> None:
        self._answer.abort()

    async def drained(self, seconds: float) -> bool:
        return await self._answer.drained(seconds)

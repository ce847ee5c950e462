"""Writes Chunks that came from no event of this answer as events: those of other formats, and what plugins add."""

from __future__ import annotations

from typing import Any

from orjson import dumps

from ...errors import UpstreamProtocolError
from ...money import Usage
from ...reply import Chunk, ToolCall
from ..wire import Head
from .envelope import as_event
from .pieces import function_of, parsed_arguments
from .reasons import in_googles_words
from .usage import usage_metadata

_CUT_SHORT = ("length", "content_filter")
_CALL_IS_NO_OBJECT = "The model called a tool with arguments that are no JSON object. Try again."


class _OpenCall:
    """A call whose fragments are still coming."""

    __slots__ = ("call", "index", "pieces", "signature")

    def __init__(self, index: int, call: ToolCall) -> None:
        self.index = index
        self.call = ToolCall(call.index)
        self.pieces: list[str] = []
        self.signature: str | None = None

    def add(self, chunk: Chunk, fragment: ToolCall) -> None:
        self.call.id = fragment.id or self.call.id
        self.call.name = fragment.name or self.call.name
        self.pieces.append(fragment.arguments)
        self.signature = chunk.signature or self.signature

    @property
    def is_whole(self) -> bool:
        """Its arguments are a whole object, which nothing can follow. None at all may be the beginning of some."""
        text = "".join(self.pieces)
        return bool(text.strip()) and parsed_arguments(text) is not None

    def part(self) -> dict[str, Any]:
        self.call.arguments = "".join(self.pieces)
        try:
            part: dict[str, Any] = {"functionCall": function_of(self.call)}
        except ValueError:
            raise UpstreamProtocolError(_CALL_IS_NO_OBJECT) from None
        if self.signature is not None:
            part["thoughtSignature"] = self.signature
        return part


class Writer:
    """Makes events of Chunks, in their order.

    A call goes out in one part, once it is whole. Why a candidate finished is kept for the answer's last event. A refusal has no
    place of its own in this format: it is a text.
    """

    __slots__ = ("_after_text", "_before_text", "_calls", "_head", "_latest", "finishes", "open")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._calls: list[_OpenCall] = []
        self._latest: dict[tuple[int, int], _OpenCall] = {}
        """Of those, the last one of each candidate and number: one event may have thousands."""
        self.open: dict[int, bool] = {}
        """Candidates that have begun; True until their finish reason is out."""
        self.finishes: dict[int, str] = {}
        """Finish reasons that are still to go out."""
        self._before_text = b""
        self._after_text = b""

    def text(self, text: str) -> bytes:
        """A piece of the first candidate's text: what nearly every Chunk is."""
        if self._calls or not self._before_text:
            return self._begin_text() + self._parts(0, [{"text": text}])
        return self._before_text + dumps(text) + self._after_text

    def _begin_text(self) -> bytes:
        """Know what stands around a piece of text, once the answer's head is known."""
        self.open.setdefault(0, True)
        if self._head.id and self._head.model:
            before, _, after = self._event([self._candidate(0, [{"text": ""}])]).partition(b'{"text":"')
            self._before_text, self._after_text = before + b'{"text":', after[1:]
        return self._due_calls(0)

    def add(self, chunk: Chunk) -> bytes:
        """The events of a Chunk, and of calls that it ends."""
        events = b""
        self.open.setdefault(chunk.index, True)
        if (call := chunk.tool_call) is not None:
            events = self._call(chunk, call)
        elif chunk.text or chunk.signature is not None:
            part: dict[str, Any] = {"text": chunk.text}
            if chunk.kind == "reasoning":
                part["thought"] = True
            if chunk.signature is not None:
                part["thoughtSignature"] = chunk.signature
            events = self._due_calls(chunk.index) + self._parts(chunk.index, [part])
        if chunk.finish_reason:
            self.finishes[chunk.index] = chunk.finish_reason
        return events

    def goes_on(self, index: int, fragment: ToolCall) -> bool:
        """Take one more fragment of the only call that has begun; False for any other, which is not taken."""
        if len(self._calls) != 1 or fragment.id is not None or fragment.name is not None:
            return False
        [call] = self._calls
        if call.index != index or call.call.index != fragment.index:
            return False
        call.pieces.append(fragment.arguments)
        return True

    def _call(self, chunk: Chunk, fragment: ToolCall) -> bytes:
        known = self._latest.get((chunk.index, fragment.index))
        events = b""
        if known is None or (fragment.id is not None and known.call.id not in (None, fragment.id)):
            events = self._due_calls(chunk.index, only_whole=True)
            known = self._latest[chunk.index, fragment.index] = _OpenCall(chunk.index, fragment)
            self._calls.append(known)
        known.add(chunk, fragment)
        return events

    def _due_calls(self, index: int, *, only_whole: bool = False) -> bytes:
        """The calls of a candidate that no fragment follows any more, in the order in which they began. Other candidates' texts
        and calls end none of them: a provider writes all candidates at once.

        At another call these are the whole ones; at a text also those without arguments. One amid its arguments waits.
        """
        events = []
        while (call := next((call for call in self._calls if call.index == index), None)) is not None:
            if not (call.is_whole or (not only_whole and not "".join(call.pieces).strip())):
                break
            self._calls.remove(call)
            if self._latest.get((index, call.call.index)) is call:
                del self._latest[index, call.call.index]
            events.append(self._parts(index, [call.part()]))
        return b"".join(events)

    def close_calls(self, reason: str | None = None) -> bytes:
        """All calls that are left, of an answer that finished for this reason. One whose arguments have not become an object is
        left out where it was cut short, as Google's models leave it out; else it raises `UpstreamProtocolError`."""
        left = [call for call in self._calls if call.is_whole or self.finishes.get(call.index, reason) not in _CUT_SHORT]
        events = [self._parts(call.index, [call.part()]) for call in left]
        self._calls.clear()
        self._latest.clear()
        return b"".join(events)

    def final(self, end: Chunk) -> bytes:
        """The event that finishes every candidate not finished yet; nothing where there is none."""
        left = [index for index, is_open in sorted(self.open.items()) if is_open] if self.open else [0]
        candidates = []
        for index in left:
            self.open[index] = False
            reason = in_googles_words(self.finishes.pop(index, end.finish_reason))
            candidates.append({**self._candidate(index, [{"text": ""}]), "finishReason": reason})
        return self._event(candidates, end.usage) if candidates else b""

    def _parts(self, index: int, parts: list[dict[str, Any]]) -> bytes:
        return self._event([self._candidate(index, parts)])

    def _candidate(self, index: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content": {"parts": parts, "role": "model"}, "index": index}

    def _event(self, candidates: list[dict[str, Any]], usage: Usage | None = None) -> bytes:
        answer: dict[str, Any] = {"candidates": candidates}
        if usage is not None:
            answer["usageMetadata"] = usage_metadata(usage)
        answer["modelVersion"] = self._head.model or ""
        answer["responseId"] = self._head.id or "muxx"
        return as_event(dumps(answer))

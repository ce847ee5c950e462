"""An answer of Responses for a client of another format: Chunks without bytes, all of choice 0, calls counted from 0.

The format says each text twice and more, in pieces and whole: a Chunk is made of what is new. What an answer may hold and Chunks
cannot (what the provider's own tools did, citations, sound) is told in `lost`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UpstreamError
from ...money import Usage
from ...reply import Chunk, ToolCall
from ..openai.content import PARAGRAPH
from .envelope import CUT_SHORT, outputs, read_response_usage
from .facts import TERMINAL, index_of, read_response
from .items import DELTAS, DONES, Form, Path, form_of, written

_TEXT_DELTA = "response.output_text.delta"
_ARGUMENTS_DELTA = "response.function_call_arguments.delta"
_ARGUMENTS: Path = ("arguments",)
_CALL = "function_call"
_SAID = ("message", "reasoning", _CALL)
"""Items that have a counterpart."""

_REASONS = {**{word: reason for reason, word in CUT_SHORT.items()}, "steered": "stop"}
"""Why an answer is incomplete. All others are `length`."""


class ResponseReader:
    """Reads the parsed events of one answer."""

    __slots__ = ("_calls", "_came", "_items", "_reason", "_signed", "_spoken", "_thought", "_usage", "lost")

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self._spoken: dict[tuple[Any, Any], int] = {}
        """Characters of each text that have come, by output and content index."""
        self._came: dict[tuple[int, Path], int] = {}
        """The same of what is no text."""
        self._items: dict[int, tuple[Any, Any]] = {}
        """The type and id of each item, by output index."""
        self._calls: dict[int, int] = {}
        """The numbers of the calls that have begun, by output index."""
        self._signed: set[int] = set()
        """Items whose signature was told."""
        self._thought: dict[int, Path] = {}
        """Where the last piece of each reasoning stood."""
        self._reason: str | None = None
        self._usage: Usage | None = None

    def read(self, value: dict[str, Any]) -> list[Chunk]:
        """The Chunks of an event. Raises `UpstreamError` for one that tells of a failure."""
        # The short way for what most events are: one more piece of a text, or of a call's arguments.
        try:
            kind = value["type"]
            if kind == _TEXT_DELTA and type(delta := value["delta"]) is str:
                self._spoken[value["output_index"], value["content_index"]] += len(delta)
                return [Chunk("text", delta)]
            if kind == _ARGUMENTS_DELTA and type(delta := value["delta"]) is str and delta:
                number = value["output_index"]
                call = self._calls[number]
                self._came[number, _ARGUMENTS] += len(delta)
                return [Chunk("tool_call", "", 0, ToolCall(call, None, None, delta))]
        except (KeyError, TypeError):
            pass  # another shape, or a text's first piece
        return list(self._read_any(value))

    def end(self) -> Chunk:
        """The `end`: why the answer finished, and what it used."""
        reason = "tool_calls" if self._calls else "stop"
        return Chunk("end", finish_reason=self._reason or reason, usage=self._usage)

    def _read_any(self, value: dict[str, Any]) -> Iterator[Chunk]:
        kind = value.get("type")
        kind = kind if type(kind) is str else ""
        if kind == "error" or value.get("error"):
            raise UpstreamError
        number = index_of(value)
        if (form := DELTAS.get(kind)) is not None:
            if type(delta := value.get("delta")) is str and delta:
                yield from self._piece(number, form, form.path_of(value), delta)
        elif (form := DONES.get(kind)) is not None:
            yield from self._whole(number, form, form.path_of(value), value.get(form.member))
        elif kind.endswith("annotation.added"):
            self.lost.add("citations")
        elif kind.startswith("response.audio."):
            self.lost.add("audio")
        elif type(item := value.get("item")) is dict:
            yield from self._item(number, item, done=kind == "response.output_item.done")
        elif kind in TERMINAL and type(answer := value.get("response")) is dict:
            yield from self._terminal(answer)

    def _terminal(self, answer: dict[str, Any]) -> Iterator[Chunk]:
        status = answer.get("status")
        if answer.get("error") or status in ("failed", "cancelled"):
            raise UpstreamError
        for number, item in outputs(answer):
            yield from self._item(self._place(number, item), item, done=True)
        if status == "incomplete":
            details = answer.get("incomplete_details")
            reason = details.get("reason") if type(details) is dict else None
            self._reason = _REASONS.get(str(reason), "length")
        if (usage := answer.get("usage")) is not None:
            self._usage = read_response_usage(usage, answer.get("service_tier"))[0]

    def _item(self, number: int, item: dict[str, Any], *, done: bool) -> Iterator[Chunk]:
        """An item as it begins, or whole: what of it has not come yet."""
        kind = item.get("type")
        if kind not in _SAID:
            self.lost.add(str(kind))
            return
        self._items[number] = kind, item.get("id")
        signature = item.get("encrypted_content")
        signature = signature if type(signature) is str and signature and number not in self._signed else None
        if kind == _CALL and number not in self._calls:
            call = self._calls[number] = len(self._calls)
            call_id, name = item.get("call_id") or item.get("id"), item.get("name")
            tool = ToolCall(call, str(call_id or f"call_{call}"), name if type(name) is str else "")
            yield Chunk("tool_call", tool_call=tool, signature=signature)
            if signature is not None:
                self._signed.add(number)
                signature = None
        if not done:
            return
        for path, container, key in written(item):
            yield from self._whole(number, form_of(str(kind), path), path, container[key])
            if type(container) is dict and container.get("annotations"):
                self.lost.add("citations")
        if signature is not None:
            self._signed.add(number)
            yield self._signature(number, str(kind), signature)

    def _place(self, number: int, item: dict[str, Any]) -> int:
        """Where an item of the terminal event stood before: some providers number items otherwise there, or name them anew."""
        same, known = (item.get("type"), item.get("id")), self._items.get(number)
        if known == same:
            return number
        others = [place for place, other in self._items.items() if other == same]
        return others[0] if others else number if known is None or known[0] == same[0] else -1 - number

    def _signature(self, number: int, kind: str, signature: str) -> Chunk:
        if kind == _CALL:
            return Chunk("tool_call", tool_call=ToolCall(self._calls[number]), signature=signature)
        return Chunk("reasoning" if kind == "reasoning" else "text", signature=signature)

    def _whole(self, number: int, form: Form, path: Path, text: Any) -> Iterator[Chunk]:
        """A text that is repeated whole: what is more than its pieces."""
        came = self._spoken.get((number, _part(path)), 0) if form.kind == "text" else self._came.get((number, path), 0)
        if type(text) is str and len(text) > came:
            yield from self._piece(number, form, path, text[came:])

    def _piece(self, number: int, form: Form, path: Path, piece: str) -> Iterator[Chunk]:
        if form.kind == "text":
            where = (number, _part(path))
            self._spoken[where] = self._spoken.get(where, 0) + len(piece)
            yield Chunk("text", piece)
            return
        key = (number, path)
        if form.kind == "tool_call" and number not in self._calls:
            return  # of a tool of the provider's own, or of a call that has not begun: it comes again whole
        self._came[key] = self._came.get(key, 0) + len(piece)
        if form.kind == "tool_call":
            yield Chunk("tool_call", tool_call=ToolCall(self._calls[number], arguments=piece))
        elif form.kind == "refusal":
            yield Chunk("other", piece)
        else:
            before = self._thought.get(number, path)
            self._thought[number] = path
            yield Chunk("reasoning", piece if before == path else PARAGRAPH + piece)


def _part(path: Path) -> Any:
    """The index of the part that a text is in; where a content is the text itself, of the first."""
    return path[1] if len(path) > 1 else 0


def read_answer(body: bytes) -> tuple[list[Chunk], set[str]]:
    """The Chunks of a plain answer, an `end` last, and what of it has no counterpart. Raises as `read_response` does, and
    `UpstreamError` for one that failed."""
    reader = ResponseReader()
    chunks = reader.read({"type": "response.completed", "response": read_response(body).answer})
    return [*chunks, reader.end()], reader.lost

"""What is added to a Responses answer: Chunks that came from no event, be they a plugin's or read from an answer in another
format, and the end of an answer that a plugin cut short.

A signature stands in its item's `encrypted_content`, which is OpenAI's word for what it wants back with a reasoning; of a call or
a message it is a member that only clients of muxx meet. A reasoning is over with its signature.
"""

from __future__ import annotations

from typing import Any

from ...reply import Chunk
from ..wire import Head
from .envelope import CUT_SHORT, response_usage_object
from .items import CALLS, Path, TextKind
from .reading import Reader, begins, kind_of, words
from .writer import Item, Lane, Writer

_TYPES: dict[TextKind, str] = {
    "text": "message",
    "refusal": "message",
    "reasoning": "reasoning",
    "tool_call": "function_call",
}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}

_SKELETON: dict[str, Any] = {
    "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "output": [], "parallel_tool_calls": True,
    "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None, "usage": None,
}  # fmt: skip
"""The members no response object is without."""


class Adder:
    """Makes events for what plugins add.

    A text goes on with the text of its kind in the provider's item at its Chunk's index; where there is none, with that of the
    item that is open; where there is none either, it has an item of its own, for the provider's items are the provider's to
    number parts in. A call always has an item of its own.
    """

    __slots__ = ("_head", "_items", "_reader", "_writer", "answer", "begun", "reason")

    def __init__(self, head: Head, reader: Reader, writer: Writer) -> None:
        self._head = head
        self._reader = reader
        self._writer = writer
        self._items: dict[tuple[str, int, int], Item] = {}
        """Items made here: by type, and the indexes of Chunk and call."""
        self.begun = False
        """An event has gone out."""
        self.answer: dict[str, Any] = {}
        """The response object as it was when the answer began."""
        self.reason: str | None = None
        """Why the answer finished, where a Chunk before the `end` said it."""

    def add(self, chunk: Chunk) -> bytes:
        """A Chunk in an event of its own; nothing for one that has nothing to say."""
        self.reason = chunk.finish_reason or self.reason
        kind, piece = kind_of(chunk), words(chunk)
        if kind is None or not (piece or begins(chunk) or chunk.signature):
            return b""
        begun = self.begin()
        item, opened = self._item_for(kind, chunk)
        path = item.latest.get(kind) or _first_path(item, kind)
        events = begun + opened + (self._writer.delta(item, path, piece) if piece else b"")
        return events + self._sign(item, chunk.signature) if chunk.signature and item.made else events

    def lane(self, chunk: Chunk) -> Lane | None:
        """Where one more piece of what this Chunk was a piece of goes; None when it is over."""
        kind = kind_of(chunk)
        item = self._items.get(_key(kind, chunk)) if kind is not None else None
        path = item.latest.get(kind) if kind is not None and item is not None else None
        if item is None or path is None or item.closed or not item.texts[path].shown:
            return None
        return self._writer.lane(item, path)

    def _sign(self, item: Item, signature: str) -> bytes:
        item.body = {**item.body, "encrypted_content": signature}
        return self._writer.close(item, "completed") if item.type == "reasoning" else b""

    def begin(self) -> bytes:
        """The events that begin an answer, for one that no provider began."""
        if self.begun:
            return b""
        self.begun = True
        self.answer = self._fresh()
        kinds = ("response.created", "response.in_progress")
        return b"".join([self._writer.event(kind, response=self.answer) for kind in kinds])

    def _fresh(self) -> dict[str, Any]:
        head = {"id": self._head.id or "resp_muxx", "object": "response", "created_at": self._head.created or 0}
        return {**head, "status": "in_progress", "model": self._head.model or "", **_SKELETON}

    def close(self, end: Chunk | None = None) -> bytes:
        """End the items that were made here."""
        left = [item for item in self._items.values() if not item.closed]
        return b"".join([self._writer.close(item, status_at(item, end)) for item in left])

    def terminal(self, end: Chunk, answer: dict[str, Any] | None) -> bytes:
        """The terminal event, of what went out; `answer` is the provider's, when it had ended by itself."""
        response = dict(answer or self.answer or self._fresh())
        response["output"] = [item.filled() for item in self._writer.items]
        if answer is None or end.finish_reason:
            cut = CUT_SHORT.get(end.finish_reason or "")
            response["status"] = "incomplete" if cut else "completed"
            response["incomplete_details"] = {"reason": cut} if cut else None
        if end.usage is not None:
            response["usage"] = response_usage_object(end.usage)
        return self._writer.event(f"response.{response['status']}", response=response)

    def _item_for(self, kind: TextKind, chunk: Chunk) -> tuple[Item, bytes]:
        """The item a Chunk goes into, and the events that begin it."""
        known = self._reader.item(chunk.index)
        if known is None or not (kind in known.latest or (kind == "tool_call" and known.type in CALLS)):
            known = next((item for item in reversed(self._writer.items) if _takes(item, kind)), None)
        if known is not None and not _is_another(chunk, known):
            known.withheld = False
            return known, self._writer.open(known) if known.number is None else b""
        key = _key(kind, chunk)
        item = self._items.get(key)
        if item is not None and not item.closed and not _is_another(chunk, item):
            return item, b""
        ended = self.close()
        item = self._items[key] = self._make(_TYPES[kind], chunk)
        return item, ended + self._writer.open(item)

    def _make(self, kind: str, chunk: Chunk) -> Item:
        number = len(self._writer.items)
        answer_id = (self._head.id or "muxx").removeprefix("resp_")
        body: dict[str, Any] = {"id": f"{_PREFIXES[kind]}_{answer_id}_{number}", "type": kind, "status": "in_progress"}
        if kind == "message":
            body |= {"role": "assistant", "content": []}
        elif kind == "reasoning":
            body |= {"summary": []}
        elif chunk.tool_call is not None:
            call = chunk.tool_call
            body |= {"call_id": call.id or f"call_{answer_id}_{number}", "name": call.name or "", "arguments": ""}
            body |= {"encrypted_content": chunk.signature} if chunk.signature else {}
        item = Item(number, kind, body)
        if kind == "function_call":
            item.text(("arguments",))
        return item


def _key(kind: TextKind, chunk: Chunk) -> tuple[str, int, int]:
    return (_TYPES[kind], chunk.index, chunk.tool_call.index if chunk.tool_call is not None else 0)


def _is_another(chunk: Chunk, item: Item) -> bool:
    """The Chunk begins a call, and not this one."""
    call = chunk.tool_call
    return call is not None and call.id is not None and call.id != item.body.get("call_id")


def status_at(item: Item, end: Chunk | None) -> str:
    """The status of an item that is ended here: what was made here is whole unless the answer was cut short, a provider's call
    that a plugin cut short is not."""
    if item.made or item.type in ("message", "reasoning"):
        return "incomplete" if end is not None and end.finish_reason in CUT_SHORT else "completed"
    return "incomplete"


def _takes(item: Item, kind: TextKind) -> bool:
    """The item is the provider's, and has a text of this kind that goes on."""
    return kind != "tool_call" and kind in item.latest and not (item.made or item.closed)


def _first_path(item: Item, kind: TextKind) -> Path:
    """Where the first text of a kind goes."""
    if kind == "tool_call":
        return tuple(0 if step is None else step for step in CALLS[item.type].path)
    field = "summary" if kind == "reasoning" else "content"
    number = sum(path[0] == field for path in item.texts)
    return (field, number, "refusal" if kind == "refusal" else "text")

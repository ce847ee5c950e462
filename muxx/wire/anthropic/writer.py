"""The writing side of Messages: events that no provider sent, for what plugins add, for answers that plugins make, and for those
that providers of other formats made.

Blocks are numbered by the client in the order in which they begin, so a block's number is given here, when it begins: where
nothing is added or dropped that is the provider's own `index`. One block is open at a time: beginning one ends the one before.
"""

from __future__ import annotations

from typing import Any

from orjson import dumps

from ...money import Usage
from ...reply import Chunk, ToolCall
from ..wire import Head
from .blocks import REDACTED
from .envelope import finish_reason, stop_reason
from .reading import Block
from .usage import message_usage_object

MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_END = b"}}\n\n"


def as_event(value: dict[str, Any]) -> bytes:
    """Always with an `event` line: clients go by it."""
    return f"event: {value.get('type')}\ndata: ".encode() + dumps(value) + b"\n\n"


def _delta(block: Block, kind: bytes, member: bytes, piece: str) -> bytes:
    return _DELTA % (block.number, kind, member) + dumps(piece) + _END


class Writer:
    """Makes events, and gives blocks their numbers.

    `message` is the message object as the provider began it, `ending` its `message_delta`, where one came. Once that was let
    through it is `kept` for the end: blocks may still be added, and none may follow it. `text_head` is how the next piece of text
    begins, while a text block is open that goes on; `call_head` that of the first choice's call of number `call_told`.
    """

    __slots__ = ("_calls", "_head", "_waiting", "begun", "call_head", "call_told", "called", "count", "current", "ending", "kept",
                 "message", "reason", "text_head")  # fmt: skip

    def __init__(self, head: Head) -> None:
        self._head = head
        self._calls: dict[tuple[int, int], Block] = {}
        """Calls that were made here, by the indexes of Chunk and call."""
        self._waiting: list[Chunk] = []
        """What plugins added while a block of the provider was open in which it cannot stand."""
        self.message: dict[str, Any] = {}
        self.ending: dict[str, Any] = {}
        self.kept = b""
        self.begun = self.called = False
        self.count = 0
        self.current: Block | None = None
        self.text_head: bytes | None = None
        self.call_head = b""
        self.call_told: int | None = None
        self.reason: str | None = None
        """Why the answer finished, as a Chunk without text said."""

    # ── the message ──

    def begin(self) -> bytes:
        """The event that begins the answer, unless it has gone."""
        if self.begun:
            return b""
        self.begun = True
        usage: Usage | None = getattr(self._head, "usage", None)
        fresh: dict[str, Any] = {
            "id": self._head.id or "msg_muxx",
            "type": "message",
            "role": "assistant",
            "model": self._head.model or "",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage_object(usage or Usage()),
        }
        return as_event({"type": "message_start", "message": self.message or fresh})

    def finish(self, end: Chunk, *, fresh: bool = True) -> bytes:
        """End what is open, and tell why the answer stopped and what it used: as it was let through, or anew. Without `fresh`
        only the provider's own word for it is told."""
        events = self.begin() + self.settle()
        if self.kept or not (fresh or self.ending):
            return events + self.take_kept()
        reason = self.reason or end.finish_reason
        value: dict[str, Any] = {"type": "message_delta", **self.ending}
        delta = value.get("delta")
        if type(delta) is not dict or (reason and finish_reason(delta.get("stop_reason")) != reason):
            value["delta"] = {"stop_reason": stop_reason(reason, called=self.called), "stop_sequence": None}
        usage = end.usage or getattr(self._head, "usage", None)
        if fresh or "usage" not in value:
            value["usage"] = message_usage_object(usage or Usage())
        return events + as_event(value)

    def take_kept(self) -> bytes:
        kept, self.kept = self.kept, b""
        return kept

    def settle(self) -> bytes:
        """End what is open, and write what waited for that."""
        events = self.close()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            events += b"".join([self.add(chunk) for chunk in waiting]) + self.close()
        return events

    # ── blocks ──

    def open(self, block: Block) -> bytes:
        """Begin a block, of which nothing has been said yet."""
        events = self.begin() + self.close()
        self.place(block, self.count)
        return events + as_event({"type": "content_block_start", "index": block.number, "content_block": _begun(block)})

    def place(self, block: Block, number: int) -> None:
        """A block begins under this number."""
        block.number = number
        block.open = True
        self.count = max(self.count, number + 1)
        self.current = block
        self.called = self.called or block.kind == "tool_use"
        self.text_head = _DELTA % (number, b"text_delta", b"text") if block.kind == "text" else None

    def close(self) -> bytes:
        """End the block that is open."""
        block = self.current
        if block is None:
            return b""
        self.closed(block)
        return as_event({"type": "content_block_stop", "index": block.number})

    def closed(self, block: Block) -> None:
        block.open = False
        if block is self.current:
            self.current = self.text_head = None

    # ── what no provider sent ──

    def add(self, chunk: Chunk) -> bytes:
        """A Chunk in events of its own; nothing for one that has nothing to say."""
        if chunk.finish_reason and not chunk.text:
            self.reason = chunk.finish_reason
        kind = _kind(chunk)
        if kind is None:
            return b""
        current = self.current
        if current is not None and _is_providers(current) and (current.kind != kind or kind == "tool_use"):
            self._waiting.append(chunk)
            return b""
        if chunk.tool_call is not None:
            return self._call(chunk, chunk.tool_call)
        if kind == "text":
            opened = self._continue("text")
            return opened + (self.text_head or b"") + dumps(chunk.text) + _END
        return self._reasoning(chunk)

    def _continue(self, kind: str) -> bytes:
        """What begins a block of that kind, unless one is open that goes on."""
        current = self.current
        if current is not None and current.kind == kind and not current.signed:
            return b""
        return self.open(Block(-1, kind, {}))

    def _reasoning(self, chunk: Chunk) -> bytes:
        signature = chunk.signature
        if signature is not None and signature.startswith(REDACTED):
            block = Block(-1, "redacted_thinking", {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)})
            return self.open(block) + self.close()
        events = self._continue("thinking")
        assert self.current is not None
        if chunk.text:
            events += _delta(self.current, b"thinking_delta", b"thinking", chunk.text)
        if signature is not None:
            events += _delta(self.current, b"signature_delta", b"signature", signature)
            self.current.signed = True
        return events

    def _call(self, chunk: Chunk, call: ToolCall) -> bytes:
        """A fragment of a call. One of a call whose block has ended, because providers may mix the fragments of several, is
        still sent under its number: SDKs collect by number."""
        key = (chunk.index, call.index)
        block, events = self._calls.get(key), b""
        if block is None or (call.id and call.name and call.id != block.call_id):
            block = self._calls[key] = Block(-1, "tool_use", {}, call.index)
            block.call_id = call.id or f"toolu_{self.count}"
            block.begun = {"type": "tool_use", "id": block.call_id, "name": call.name or "", "input": {}}
            if chunk.signature is not None:
                block.begun["signature"] = chunk.signature
            events = self.open(block)
        if not chunk.index:
            self.call_told, self.call_head = call.index, _DELTA % (block.number, b"input_json_delta", b"partial_json")
        if call.arguments:
            events += _delta(block, b"input_json_delta", b"partial_json", call.arguments)
        return events


def _kind(chunk: Chunk) -> str | None:
    """The kind of block a Chunk goes into; None for one that has nothing to say."""
    if chunk.tool_call is not None:
        return "tool_use"
    if chunk.kind == "reasoning":
        return "thinking" if chunk.text or chunk.signature is not None else None
    return "text" if chunk.text and chunk.kind in ("text", "other") else None


def _is_providers(block: Block) -> bool:
    """More of this block may come from the provider."""
    return block.index >= 0 and not block.over


def _begun(block: Block) -> dict[str, Any]:
    """A block as it begins, without its text."""
    if block.kind == "thinking":
        return {"type": "thinking", "signature": "", **block.begun, "thinking": ""}
    if block.kind == "text":
        return {"type": "text", **block.begun, "text": ""}
    return block.begun or {"type": block.kind, "id": f"toolu_{block.number}", "name": "", "input": {}}

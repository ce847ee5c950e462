"""The reading side of Messages: events into Chunks.

A piece of a text is a Chunk of the text's kind, whose `index` is its block's place: text, reasoning, and what a tool is called
with. A call begins with a Chunk that has its id and name. A signature is reasoning without text. What comes whole (a citation, a
compaction, the texts of what a provider's own tool returned) is `other` with text. The event that ends a block, one that has all
of it, and a signature have a finish reason: nothing more of its texts comes, so what was held back of them is due.
`message_delta` is an `other` with the answer's finish reason and usage, and `message_stop` is the `end`. Any other event is one
`other`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from orjson import dumps

from ...reply import Chunk, ChunkKind, ToolCall
from .blocks import CALLS, REDACTED, TEXT_DELTAS, WHOLE_DELTAS, index_of, parsed, texts_in, type_of
from .envelope import finish_reason, stop_reason
from .usage import merged, read_message_usage

Shown = tuple[Any, ...]

_KINDS: dict[str, ChunkKind] = {"text_delta": "text", "thinking_delta": "reasoning"}


def shown(chunk: Chunk) -> Shown:
    """What a plugin may change of a Chunk. Chunks can be changed in place, so they are compared with this."""
    call = chunk.tool_call
    told = (call.index, call.id, call.name, call.arguments) if call is not None else None
    return chunk.kind, chunk.text, chunk.index, chunk.finish_reason, told, chunk.signature


class Piece(NamedTuple):
    """A Chunk as plugins were shown it. `put` writes a changed one into its event; None where nothing in it can be changed.
    `bears`: with this Chunk goes the event; the others are texts within it."""

    shown: Shown
    put: Callable[[Chunk], None] | None
    bears: bool


class Block:
    """A content block on its way: `index` is its place in the provider's answer, `number` in the client's, None until it begins
    there. `call` numbers the calls of an answer. `over`: the provider has ended it."""

    __slots__ = ("begun", "call", "call_id", "index", "kind", "number", "open", "over", "owed", "signed")

    def __init__(self, index: int, kind: str, begun: dict[str, Any], call: int | None = None) -> None:
        self.index = index
        self.kind = kind
        self.begun = begun
        self.call = call
        self.call_id: str | None = None
        """Of a call that no provider sent."""
        self.number: int | None = None
        self.open = self.over = self.signed = False
        self.owed: list[Passing] = []
        """Pieces of a call that were let through before its beginning was."""


class Passing:
    """An event on its way from the provider to the client; `block` is None when it is about all of the answer."""

    __slots__ = ("block", "changed", "gone", "kind", "pieces", "raw", "value")

    def __init__(self, raw: bytes, value: dict[str, Any]) -> None:
        self.raw = raw
        self.value = value
        self.kind = type_of(value)
        self.block: Block | None = None
        self.pieces: list[Piece] = []
        self.changed = self.gone = False

    def show(self, chunk: Chunk, put: Callable[[Chunk], None] | None = None, *, bears: bool = True) -> Chunk:
        self.pieces.append(Piece(shown(chunk), put, bears))
        return chunk


class Reader:
    """Reads the events of one answer. Reading one again changes nothing."""

    __slots__ = ("_calls", "_reason", "_usage", "blocks")

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self._calls = 0
        self._reason: Any = None
        self._usage: dict[str, Any] = {}

    def read(self, raw: bytes, value: dict[str, Any]) -> tuple[Passing, list[Chunk]]:
        """An event, and its Chunks, at least one."""
        passing = Passing(raw, value)
        kind = passing.kind
        if kind == "content_block_delta":
            return passing, [self._delta(passing)]
        if kind == "content_block_start":
            return passing, self._start(passing)
        if kind == "content_block_stop":
            return passing, [self._stop(passing)]
        if kind == "message_delta":
            return passing, [self._message_delta(passing)]
        if kind == "message_stop":
            return passing, [self.end(raw)]
        if kind == "message_start" and type(message := value.get("message")) is dict:
            self._take_usage(message.get("usage"))
        return passing, [passing.show(Chunk("other", raw=raw))]

    def end(self, raw: bytes | None = None) -> Chunk:
        """The `end`, with why the answer finished and what it used."""
        usage, _ = read_message_usage(self._usage) if self._usage else (None, False)
        return Chunk("end", finish_reason=finish_reason(self._reason), usage=usage, raw=raw)

    def _block(self, index: int, kind: str, begun: dict[str, Any]) -> Block:
        """The block at a place, made at its first mention."""
        block = self.blocks.get(index)
        if block is None:
            call = self._calls if kind in CALLS else None
            self._calls += kind in CALLS
            block = self.blocks[index] = Block(index, kind, begun, call)
        return block

    # ── a block ──

    def _start(self, passing: Passing) -> list[Chunk]:
        begun = passing.value.get("content_block")
        begun = begun if type(begun) is dict else {}
        index, kind, raw = index_of(passing.value), type_of(begun), passing.raw
        block = passing.block = self._block(index, kind, begun)
        if block.call is not None:
            return [self._call(passing, block, begun)]
        if kind == "redacted_thinking":
            signature = f"{REDACTED}{begun.get('data')}"
            return [passing.show(Chunk("reasoning", index=index, signature=signature, raw=raw))]
        if kind == "text" or kind == "thinking":
            text = begun.get(kind)
            if type(text) is str and text:
                told: ChunkKind = "text" if kind == "text" else "reasoning"
                return [passing.show(Chunk(told, text, index, raw=raw), _text_put(begun, kind))]
            return [passing.show(Chunk("other", index=index, raw=raw))]
        whole = list(texts_in(begun))
        chunks = [
            passing.show(
                Chunk("other", container[key], index, finish_reason="stop", raw=raw), _text_put(container, key), bears=False
            )
            for _, container, key in whole
            if container[key]
        ]
        reason = "stop" if chunks else None
        return [*chunks, passing.show(Chunk("other", index=index, finish_reason=reason, raw=raw))]

    def _call(self, passing: Passing, block: Block, begun: dict[str, Any]) -> Chunk:
        """Where a call begins; most providers send what it is called with later."""
        called_with = begun.get("input")
        arguments = dumps(called_with).decode() if called_with else ""
        tool = ToolCall(block.call or 0, _string(begun.get("id")), _string(begun.get("name")), arguments)

        def put(chunk: Chunk) -> None:
            if (new := chunk.tool_call) is not None:
                begun["id"], begun["name"] = new.id, new.name
                if new.arguments != arguments:
                    begun["input"] = parsed(new.arguments or "{}")

        return passing.show(Chunk("tool_call", index=block.index, tool_call=tool, raw=passing.raw), put)

    def _delta(self, passing: Passing) -> Chunk:
        delta = passing.value.get("delta")
        delta = delta if type(delta) is dict else {}
        index, kind, raw = index_of(passing.value), type_of(delta), passing.raw
        block = passing.block = self.blocks.get(index) or self._block(index, _TYPES.get(kind, "text"), {})
        member = TEXT_DELTAS.get(kind)
        if member is not None and type(piece := delta.get(member)) is str:
            if kind == "input_json_delta":
                chunk = Chunk("tool_call", index=index, tool_call=ToolCall(block.call or 0, arguments=piece), raw=raw)
                return passing.show(chunk, _arguments_put(delta))
            return passing.show(Chunk(_KINDS[kind], piece, index, raw=raw), _text_put(delta, member))
        if kind == "signature_delta" and type(signature := delta.get("signature")) is str:
            # It signs the text before it, of which nothing more comes.
            return passing.show(Chunk("reasoning", index=index, finish_reason="stop", raw=raw, signature=signature))
        container: Any = delta
        *steps, leaf = WHOLE_DELTAS.get(kind, ("",))
        for step in steps:
            container = container.get(step) if type(container) is dict else None
        if type(container) is dict and type(text := container.get(leaf)) is str:
            return passing.show(Chunk("other", text, index, raw=raw), _text_put(container, leaf))
        return passing.show(Chunk("other", index=index, raw=raw))

    def _stop(self, passing: Passing) -> Chunk:
        index = index_of(passing.value)
        block = passing.block = self.blocks.get(index)
        if block is not None:
            block.over = True
        reason = "tool_calls" if block is not None and block.kind == "tool_use" else "stop"
        return passing.show(Chunk("other", index=index, finish_reason=reason, raw=passing.raw))

    # ── the message ──

    def _message_delta(self, passing: Passing) -> Chunk:
        delta = passing.value.get("delta")
        delta = delta if type(delta) is dict else {}
        self._reason = delta.get("stop_reason") or self._reason
        self._take_usage(passing.value.get("usage"))
        end = self.end()
        reason = finish_reason(delta.get("stop_reason"))

        def put(chunk: Chunk) -> None:
            if chunk.finish_reason != reason:
                delta["stop_reason"], delta["stop_sequence"] = stop_reason(chunk.finish_reason, called=False), None

        return passing.show(Chunk("other", finish_reason=reason, usage=end.usage, raw=passing.raw), put)

    def _take_usage(self, told: Any) -> None:
        if type(told) is dict:
            self._usage = merged(self._usage or {"output_tokens": 0}, told)


_TYPES = {"thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"}
"""What a block is that never began, by what its first delta is."""


def _text_put(container: dict[str, Any], key: str) -> Callable[[Chunk], None]:
    def put(chunk: Chunk) -> None:
        container[key] = chunk.text

    return put


def _arguments_put(delta: dict[str, Any]) -> Callable[[Chunk], None]:
    def put(chunk: Chunk) -> None:
        delta["partial_json"] = chunk.tool_call.arguments if chunk.tool_call is not None else ""

    return put


def _string(value: Any) -> str | None:
    return value if type(value) is str else None

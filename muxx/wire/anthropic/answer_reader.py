"""Anthropic answers for clients of other formats: their events as Chunks without bytes, in the words all formats share."""

from __future__ import annotations

from typing import Any

from orjson import dumps, loads

from ...errors import UpstreamError
from ...reply import Chunk, ToolCall
from .blocks import REDACTED, index_of
from .envelope import finish_reason
from .plain import events_of, stream_of
from .usage import merged, read_message_usage


class MessageReader:
    """Reads the parsed events of one answer.

    `lost` names what has no counterpart: blocks of the provider's own tools by their types, `citations`, `pause_turn`. The finish
    reason comes with the `end`.
    """

    __slots__ = ("_blocks", "_calls", "_reason", "_usage", "lost")

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self._blocks: dict[int, int | None] = {}
        """The number of the call a block is; None for one that is none of the caller's."""
        self._calls: list[bool] = []
        """Of each call, whether it has been told what it is called with."""
        self._reason: Any = None
        self._usage: dict[str, Any] = {}

    def read(self, value: dict[str, Any]) -> list[Chunk]:
        """The Chunks of one event; [] for none. Raises `UpstreamError` for a failure the answer tells of."""
        # The short way for what most events are. Nothing but a delta of a block has a type within its `delta`.
        try:
            delta = value["delta"]
            if delta["type"] == "text_delta":
                text = delta["text"]
                return [Chunk("text", text)] if text and type(text) is str else []
        except (KeyError, TypeError):
            pass
        kind = value.get("type")
        if kind == "content_block_delta" and type(delta := value.get("delta")) is dict:
            return self._delta(delta, index_of(value))
        if kind == "content_block_start" and type(block := value.get("content_block")) is dict:
            return self._start(block, index_of(value))
        if kind == "content_block_stop":
            return self._stop(index_of(value))
        if kind == "message_start" and type(message := value.get("message")) is dict:
            self._take_usage({"output_tokens": 0, **_object(message.get("usage"))})
        elif kind == "message_delta":
            self._take_end(value)
        elif kind == "error":
            raise _failure(value.get("error"))
        return []

    def end(self) -> Chunk:
        usage, _ = read_message_usage(self._usage) if self._usage else (None, False)
        return Chunk("end", finish_reason=finish_reason(self._reason), usage=usage)

    def _start(self, block: dict[str, Any], index: int) -> list[Chunk]:
        kind = block.get("type")
        if kind == "text":
            if block.get("citations"):
                self.lost.add("citations")
            return _piece("text", block.get("text"))
        if kind == "thinking":
            return _piece("reasoning", block.get("thinking"))
        if kind == "redacted_thinking":
            return [Chunk("reasoning", signature=f"{REDACTED}{block.get('data')}")]
        if kind != "tool_use":
            self.lost.add(str(kind))
            self._blocks[index] = None
            return []
        number = self._blocks[index] = len(self._calls)
        called_with = block.get("input")
        self._calls.append(bool(called_with))
        arguments = dumps(called_with).decode() if called_with else ""
        return [Chunk("tool_call", tool_call=ToolCall(number, str(block.get("id")), str(block.get("name")), arguments))]

    def _delta(self, delta: dict[str, Any], index: int) -> list[Chunk]:
        kind = delta.get("type")
        if kind == "input_json_delta":
            number, piece = self._blocks.get(index), delta.get("partial_json")
            if number is None or type(piece) is not str or not piece:
                return []
            self._calls[number] = True
            return [Chunk("tool_call", tool_call=ToolCall(number, arguments=piece))]
        if kind == "thinking_delta":
            return _piece("reasoning", delta.get("thinking"))
        if kind == "signature_delta":
            signature = delta.get("signature")
            return [Chunk("reasoning", signature=signature)] if type(signature) is str and signature else []
        if index not in self._blocks:
            self.lost.add("citations" if kind == "citations_delta" else str(kind))
        return []

    def _stop(self, index: int) -> list[Chunk]:
        """A call without arguments: other formats have an empty object there, which is JSON, and nothing is not."""
        number = self._blocks.get(index)
        if number is None or self._calls[number]:
            return []
        self._calls[number] = True
        return [Chunk("tool_call", tool_call=ToolCall(number, arguments="{}"))]

    def _take_end(self, value: dict[str, Any]) -> None:
        delta = _object(value.get("delta"))
        self._reason = delta.get("stop_reason") or self._reason
        if self._reason == "pause_turn":
            self.lost.add("pause_turn")
        self._take_usage(_object(value.get("usage")))

    def _take_usage(self, told: dict[str, Any]) -> None:
        self._usage = merged(self._usage, told)


def read_answer(body: bytes) -> tuple[list[Chunk], set[str]]:
    """A plain answer's Chunks, an `end` last, and what of it has no counterpart. Raises as `read_message` does."""
    reader = MessageReader()
    chunks = [chunk for _, data in events_of(stream_of(body)) for chunk in reader.read(loads(data or b"{}"))]
    return [*chunks, reader.end()], reader.lost


def _piece(kind: Any, text: Any) -> list[Chunk]:
    return [Chunk(kind, text)] if type(text) is str and text else []


def _object(value: Any) -> dict[str, Any]:
    return value if type(value) is dict else {}


def _failure(error: Any) -> UpstreamError:
    """The error the answer tells of, by Anthropic's type for it."""
    kind = _object(error).get("type")
    return UpstreamError(code=kind[:64]) if type(kind) is str and kind else UpstreamError()

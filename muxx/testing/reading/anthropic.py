"""Answers of Anthropic's Messages, its counts and its errors."""

from __future__ import annotations

from typing import Any

import orjson

from ..said import Said, Tool
from .events import Unreadable, events_of, object_of

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Stop reasons, in the words of chat completions."""

ERROR_TYPES = frozenset(
    {"invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error"}
    | {"request_too_large", "rate_limit_error", "api_error", "timeout_error", "overloaded_error"}
)

_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("input", "partial_json"),
}
"""Each kind of delta: the member of the block it belongs to, and its own."""


def read_message(value: dict[str, Any]) -> Said:
    if value.get("type") != "message" or value.get("role") != "assistant" or not isinstance(value.get("content"), list):
        raise Unreadable(f"this is no message: {value!r:.200}")
    reason = value.get("stop_reason")
    if reason not in FINISH_REASONS:
        raise Unreadable(f"the message stops for {reason!r}, which is no reason")
    text = reasoning = signature = ""
    tools = []
    for block in value["content"]:
        if block["type"] == "text":
            text += block["text"]
        elif block["type"] == "thinking":
            reasoning += block["thinking"]
            signature = block.get("signature") or signature
        elif block["type"] == "tool_use":
            tools.append(Tool(block["name"], _json_of(block), block["id"]))
    usage = _tokens(value.get("usage") or {})
    return Said(text, reasoning, tuple(tools), finish_reason=FINISH_REASONS[reason], signature=signature, **usage)


def _json_of(block: dict[str, Any]) -> str:
    if not isinstance(block["input"], dict):
        raise Unreadable(f"the input of a tool is no object: {block!r:.200}")
    return orjson.dumps(block["input"]).decode()


def _tokens(usage: dict[str, Any]) -> dict[str, Any]:
    """What came from the cache, or went into it, is beside the input here."""
    fresh, cached = usage.get("input_tokens"), usage.get("cache_read_input_tokens") or 0
    given = None if fresh is None else fresh + cached + (usage.get("cache_creation_input_tokens") or 0)
    return {"input_tokens": given, "output_tokens": usage.get("output_tokens"), "cached_tokens": cached}


def read_message_stream(body: bytes) -> Said:
    events = [(name, object_of(data)) for name, data in events_of(body)]
    kinds = [value.get("type") for _, value in events]
    if any(name != kind for (name, _), kind in zip(events, kinds, strict=True)):
        raise Unreadable("an event is not named after its type")
    if kinds[:1] != ["message_start"] or kinds[-1:] != ["message_stop"]:
        raise Unreadable(f"the stream does not go from message_start to message_stop: {kinds[:1]} … {kinds[-1:]}")
    if kinds.count("message_start") != 1 or kinds.count("message_stop") != 1 or "error" in kinds:
        raise Unreadable(f"the stream begins or ends more than once: {kinds}")
    gathered = _Gathered(events[0][1]["message"])
    for _, value in events[1:-1]:
        gathered.take(value)
    return read_message(gathered.whole())


class _Gathered:
    """The message of a stream, event by event: one block after the other, and then how it stops."""

    def __init__(self, begun: dict[str, Any]) -> None:
        if begun.get("content") != [] or begun.get("stop_reason") is not None:
            raise Unreadable(f"the message is not empty when it begins: {begun!r:.200}")
        self._message = begun
        self._blocks: list[dict[str, Any]] = []
        self._usage = dict(begun["usage"])
        self._open = False
        self._stop: dict[str, Any] | None = None

    def take(self, value: dict[str, Any]) -> None:
        kind = value["type"]
        if kind == "message_delta":
            if self._open:
                raise Unreadable("the message stops within a block")
            self._stop = value["delta"]
            self._usage |= {name: count for name, count in value["usage"].items() if count is not None}
        elif kind.startswith("content_block_"):
            if self._stop is not None:
                raise Unreadable(f"something comes after the stop reason: {value!r:.200}")
            self._take_block(kind, value)

    def _take_block(self, kind: str, value: dict[str, Any]) -> None:
        begins = kind == "content_block_start"
        if value["index"] != len(self._blocks) - (not begins) or self._open == begins:
            raise Unreadable(f"this is not the turn of this block: {value!r:.200}")
        if begins:
            self._blocks.append({**value["content_block"], "partial_json": ""})
            self._open = True
        elif kind == "content_block_stop":
            self._open = False
        else:
            self._add(self._blocks[-1], value["delta"])

    def _add(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        if delta["type"] not in _DELTAS:
            return
        of_block, member = _DELTAS[delta["type"]]
        if of_block not in block:
            raise Unreadable(f"a {delta['type']} in a block of {block['type']}")
        block[member] = block.get(member, "") + delta[member]

    def whole(self) -> dict[str, Any]:
        if self._open or self._stop is None:
            raise Unreadable("the stream ends within a block, or without a stop reason")
        blocks = [self._closed(block) for block in self._blocks]
        return self._message | {"content": blocks, "usage": self._usage} | self._stop

    def _closed(self, block: dict[str, Any]) -> dict[str, Any]:
        arguments = block.pop("partial_json")
        return block | {"input": object_of(arguments.encode())} if arguments else block


def read_count(value: dict[str, Any]) -> Said:
    if type(value.get("input_tokens")) is not int:
        raise Unreadable(f"this is no count: {value!r:.200}")
    return Said(finish_reason=None, input_tokens=value["input_tokens"], output_tokens=None)


def error_of(value: dict[str, Any]) -> dict[str, Any]:
    """The error in the body of a refused request, or in the event that ends a broken stream."""
    error = value.get("error")
    if value.get("type") != "error" or set(value) - {"request_id"} != {"type", "error"} or not isinstance(error, dict):
        raise Unreadable(f"an error is told as {value!r:.200}")
    if error.get("type") not in ERROR_TYPES or not isinstance(error.get("message"), str):
        raise Unreadable(f"an error is told as {value!r:.200}")
    return error


def tells_error(value: dict[str, Any]) -> bool:
    return value.get("type") == "error"

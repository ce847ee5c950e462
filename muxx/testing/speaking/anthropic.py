"""Answers of Anthropic's Messages, and its counts."""

from __future__ import annotations

from typing import Any

import orjson

from ..said import Pieces, Said, Tool

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
"""Finish reasons in the words of Messages."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The `type` of an error by its status; all other 4xx have that of 400, and the rest `api_error`."""

Block = dict[str, Any]


def message(said: Said, model: str) -> dict[str, Any]:
    ending = {"stop_reason": STOP_REASONS.get(said.finish_reason or ""), "stop_sequence": None}
    return _head(model) | {"content": _blocks(said)} | ending | {"usage": _usage(said, said.output_tokens or 0)}


def _head(model: str) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}


def _usage(said: Said, made: int) -> dict[str, int]:
    """What came from the cache is beside the input, not in it."""
    fresh = (said.input_tokens or 0) - said.cached_tokens
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": said.cached_tokens}
    return {"input_tokens": fresh, **cache, "output_tokens": made}


def _blocks(said: Said) -> list[Block]:
    blocks: list[Block] = []
    if said.reasoning:
        blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": said.signature})
    if said.text or not said.tools:
        blocks.append({"type": "text", "text": said.text})
    called = [{"id": tool.id, "name": tool.name, "input": orjson.loads(tool.arguments)} for tool in said.tools]
    return [*blocks, *({"type": "tool_use", **call} for call in called)]


def message_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    whole = message(said, model)
    begun = _head(model) | {"stop_reason": None, "stop_sequence": None, "usage": _usage(said, 1)}
    events = [_event("message_start", message=begun)]
    tools = iter(said.tools)
    for at, block in enumerate(whole["content"]):
        events.append(_event("content_block_start", index=at, content_block=_begun(block)))
        if at == 0:
            events.append(b'event: ping\ndata: {"type": "ping"}\n\n')
        deltas = _called(next(tools), pieces) if block["type"] == "tool_use" else _written(block, pieces)
        events += [_event("content_block_delta", index=at, delta=delta) for delta in deltas]
        events.append(_event("content_block_stop", index=at))
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    return [*events, _event("message_delta", delta=ending, usage=whole["usage"]), _event("message_stop")]


def _event(type: str, **members: Any) -> bytes:
    """As Anthropic writes them, with padding before the last bracket."""
    data = orjson.dumps({"type": type, **members})
    return b"event: %b\ndata: %b%b}\n\n" % (type.encode(), data[:-1], b" " * (len(data) % 16))


def _begun(block: Block) -> Block:
    empty = {"thinking": "", "signature": "", "text": "", "input": {}}
    return block | {name: value for name, value in empty.items() if name in block}


def _written(block: Block, pieces: Pieces) -> list[Block]:
    """The deltas of a text, or of thinking, whose signature comes last."""
    if block["type"] == "text":
        return [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    thought = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
    return [*thought, {"type": "signature_delta", "signature": block["signature"]}]


def _called(tool: Tool, pieces: Pieces) -> list[Block]:
    return [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces(tool.arguments))]


def count(said: Said, model: str) -> dict[str, Any]:
    return {"input_tokens": said.input_tokens or 0}


def error(status: int, message: str) -> dict[str, Any]:
    """The body of a refused request; the data of the event that ends a broken stream is the same."""
    return {"type": "error", "error": {"type": type_of(status), "message": message}, "request_id": "req_of_provider_1"}


def type_of(status: int) -> str:
    return TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")

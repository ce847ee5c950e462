"""Answers of Google's generateContent, and its counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from ..said import Pieces, Said, Tool

FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
"""Finish reasons in Google's words, which has none for calls of tools."""

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The `status` of an error, a name of google.rpc, by its HTTP status; any other is `UNKNOWN`."""

Part = dict[str, Any]


def written(value: Any) -> bytes:
    """A plain body as Google writes it: indented by two."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _event(value: Any) -> bytes:
    """An event as Google writes it: with a space behind each colon, and lines that end with CR and LF."""
    return b"data: %b\r\n\r\n" % json.dumps(value, separators=(",", ": "), ensure_ascii=False).encode()


def content(said: Said, model: str) -> dict[str, Any]:
    parts: list[Part] = [{"text": said.reasoning, "thought": True}] if said.reasoning else []
    if said.text or not said.tools:
        parts.append({"text": said.text} | ({} if said.tools else _seal(said)))
    return _answer([*parts, *_calls(said)], said, model, said.output_tokens or 0, FINISH_REASONS.get(said.finish_reason or ""))


def content_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    """An event for each piece and each call, and a last one without text that says how it ended."""
    parts: list[Part] = [{"text": piece, "thought": True} for piece in pieces(said.reasoning)]
    parts += [{"text": piece} for piece in pieces(said.text)]
    parts += _calls(said)
    last = {"text": ""} | ({} if said.tools else _seal(said))
    made = said.output_tokens or 0
    events = [_answer([part], said, model, min(at, made)) for at, part in enumerate(parts, 1)]
    return [*map(_event, events), _event(_answer([last], said, model, made, FINISH_REASONS.get(said.finish_reason or "")))]


def _answer(parts: list[Part], said: Said, model: str, made: int, reason: str | None = None) -> dict[str, Any]:
    candidate = {"content": {"parts": parts, "role": "model"}, **({"finishReason": reason} if reason else {}), "index": 0}
    return {"candidates": [candidate], "usageMetadata": _usage(said, made), "modelVersion": model, "responseId": "response_1"}


def _usage(said: Said, made: int) -> dict[str, Any]:
    """What came from the cache is in the input; what was thought is beside the answer."""
    given, thought = said.input_tokens or 0, made // 2 if said.reasoning else 0
    usage: dict[str, Any] = {"promptTokenCount": given, "candidatesTokenCount": made - thought, "totalTokenCount": given + made}
    usage |= {"cachedContentTokenCount": said.cached_tokens} if said.cached_tokens else {}
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": given}]
    return usage | ({"thoughtsTokenCount": thought} if thought else {})


def _calls(said: Said) -> Iterator[Part]:
    """Whole, each in a part of its own; the first one carries the seal."""
    for at, tool in enumerate(said.tools):
        yield {"functionCall": _call(tool)} | (_seal(said) if at == 0 else {})


def _call(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "args": orjson.loads(tool.arguments)} | ({"id": tool.id} if tool.id else {})


def _seal(said: Said) -> dict[str, str]:
    return {"thoughtSignature": said.signature} if said.reasoning else {}


def count(said: Said, model: str) -> dict[str, Any]:
    given = said.input_tokens or 0
    return {"totalTokens": given, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": given}]}


def error(status: int, message: str) -> dict[str, Any]:
    """The body of a refused request."""
    return {"error": {"code": status, "message": message, "status": STATUSES.get(status, "UNKNOWN")}}


def failed(status: int, message: str) -> bytes:
    """The event that ends a broken stream."""
    return _event(error(status, message))

"""Answers of Google's generateContent, its counts and its errors."""

from __future__ import annotations

from typing import Any

import orjson

from ..said import Said, Tool
from .events import Unreadable, all_of, object_of

FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"} | dict.fromkeys(
    ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"), "content_filter"
)
"""Finish reasons, in the words of chat completions."""

STATUSES = frozenset(
    {"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"}
    | {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"}
    | {"INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The names of google.rpc."""


def read_content(value: dict[str, Any]) -> Said:
    return _said(_parts(value), _reason(value), value.get("usageMetadata"))


def read_content_stream(body: bytes) -> Said:
    if any(event.is_comment for event in all_of(body)):
        raise Unreadable("the stream has a comment, of which Google's client dies")
    return read_contents([object_of(data) for _, data in all_of(body)])


def read_contents(values: list[dict[str, Any]]) -> Said:
    """Each event of a stream is an answer of its own, and the last one says how all of it ended."""
    if not values or any("error" in value for value in values):
        raise Unreadable(f"the stream is empty, or tells of an error: {values[-1:]!r:.200}")
    parts: list[dict[str, Any]] = []
    reason = usage = None
    for value in values:
        if reason is not None:
            raise Unreadable(f"something comes after the finish reason: {value!r:.200}")
        parts += _parts(value)
        reason, usage = _reason(value), value.get("usageMetadata") or usage
    return _said(parts, reason, usage)


def _candidate(value: dict[str, Any]) -> dict[str, Any]:
    candidates = value.get("candidates")
    if not isinstance(candidates, list) or len(candidates) != 1 or candidates[0].get("index", 0) != 0:
        raise Unreadable(f"an answer has one candidate, not {candidates!r:.200}")
    candidate: dict[str, Any] = candidates[0]
    return candidate


def _parts(value: dict[str, Any]) -> list[dict[str, Any]]:
    if _is_blocked(value):
        return []
    content = _candidate(value).get("content") or {}
    if content and content.get("role", "model") != "model":
        raise Unreadable(f"the answer is not the model's: {content!r:.200}")
    parts: list[dict[str, Any]] = content.get("parts") or []
    return parts


def _reason(value: dict[str, Any]) -> str | None:
    reason: str | None = "SAFETY" if _is_blocked(value) else _candidate(value).get("finishReason")
    return reason


def _is_blocked(value: dict[str, Any]) -> bool:
    return bool((value.get("promptFeedback") or {}).get("blockReason"))


def _said(parts: list[dict[str, Any]], reason: str | None, usage: Any) -> Said:
    if reason not in FINISH_REASONS:
        raise Unreadable(f"the answer finishes for {reason!r}, which is no reason")
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    reasoning = "".join(part["text"] for part in parts if "text" in part and part.get("thought"))
    tools = tuple(_tool(part["functionCall"]) for part in parts if "functionCall" in part)
    seals = [part["thoughtSignature"] for part in parts if part.get("thoughtSignature")]
    finish = "tool_calls" if tools and reason == "STOP" else FINISH_REASONS[reason]
    return Said(text, reasoning, tools, finish_reason=finish, signature=(seals or [""])[0], **_tokens(usage or {}))


def _tool(call: dict[str, Any]) -> Tool:
    arguments = call.get("args") or {}
    if not isinstance(arguments, dict):
        raise Unreadable(f"the arguments of a call are no object: {call!r:.200}")
    return Tool(call["name"], orjson.dumps(arguments).decode(), call.get("id") or "")


def _tokens(usage: dict[str, Any]) -> dict[str, Any]:
    """What was thought is beside the answer here, and so is what the provider's own tools were given."""
    given, made = usage.get("promptTokenCount"), usage.get("candidatesTokenCount")
    thought, by_tools = usage.get("thoughtsTokenCount"), usage.get("toolUsePromptTokenCount") or 0
    return {
        "input_tokens": None if given is None else given + by_tools,
        "output_tokens": None if made is None and thought is None else (made or 0) + (thought or 0),
        "cached_tokens": usage.get("cachedContentTokenCount") or 0,
    }


def read_count(value: dict[str, Any]) -> Said:
    if type(value.get("totalTokens")) is not int:
        raise Unreadable(f"this is no count: {value!r:.200}")
    return Said(finish_reason=None, input_tokens=value["totalTokens"], output_tokens=None)


def error_of(value: dict[str, Any]) -> dict[str, Any]:
    """The error in the body of a refused request, or in the event that ends a broken stream. Its code is a number."""
    error = value.get("error")
    if not isinstance(error, dict) or set(value) != {"error"} or not {"code", "message", "status"} <= set(error):
        raise Unreadable(f"an error is told as {value!r:.200}")
    if type(error["code"]) is not int or error["status"] not in STATUSES or not isinstance(error["message"], str):
        raise Unreadable(f"an error is told as {value!r:.200}")
    return error


def tells_error(value: dict[str, Any]) -> bool:
    return "error" in value

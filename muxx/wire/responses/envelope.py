"""Around the items of a Responses answer: its usage, why it finished, and the gateway's own error event."""

from __future__ import annotations

from typing import Any

from orjson import dumps, loads

from ...errors import MuxxError
from ...money import Usage
from ..openai import error_body, read_usage

_CHAT_WORDS = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}

CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of an incomplete answer, and the words Responses has for them."""

_REASONS = {reason: word for word, reason in CUT_SHORT.items()}


def read_response_usage(value: Any, service_tier: Any = None) -> tuple[Usage | None, bool]:
    """As `read_usage`, whose rules hold: the dialect differs in names only."""
    if type(value) is dict:
        value = {_CHAT_WORDS.get(name, name): member for name, member in value.items()}
    return read_usage(value, service_tier)


def response_usage_object(usage: Usage) -> dict[str, Any]:
    """A usage object as Responses writes it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def outputs(answer: Any) -> list[tuple[int, dict[str, Any]]]:
    """The items of an answer and their places."""
    output = answer.get("output") if type(answer) is dict else None
    return [(number, item) for number, item in enumerate(output if type(output) is list else ()) if type(item) is dict]


def finish_reason(answer: dict[str, Any]) -> str | None:
    """Why an answer finished, in the words of chat completions, so that one word means one thing on every endpoint; `error` is
    what OpenTelemetry's conventions call a failure. None while it has not finished."""
    status = answer.get("status")
    if status == "completed":
        called = any(item.get("type") in ("function_call", "custom_tool_call") for _, item in outputs(answer))
        return "tool_calls" if called else "stop"
    if status == "incomplete":
        details = answer.get("incomplete_details")
        reason = details.get("reason") if type(details) is dict else None
        return _REASONS.get(reason, reason) if type(reason) is str else "length"
    return {"failed": "error", "cancelled": "cancelled"}.get(status) if type(status) is str else None


def error_event(error: MuxxError, number: int | None = None) -> bytes:
    """What ends a broken stream. OpenAI documents the members of an error beside `type`, and sends them under `error`, which is
    also where its Python SDK looks: so they stand in both places. `number` is the event's sequence number."""
    inner = loads(error_body(error))["error"]
    event = {"type": "error", "sequence_number": number or 0, "code": inner["code"], "message": inner["message"]}
    return b"event: error\ndata: " + dumps({**event, "param": inner["param"], "error": inner}) + b"\n\n"

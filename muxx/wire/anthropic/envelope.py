"""Around an Anthropic answer: why it stopped, and the gateway's own errors."""

from __future__ import annotations

from typing import Any

from orjson import dumps

from ...errors import MuxxError
from ..failures import worded

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Stop reasons, and the words chat completions have for them."""

_WORDS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

_ERROR_TYPES = {
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


_TOO_LONG = "prompt is too long"

_NO_THREADS = {"error_code": "thread_unsupported_request"}
"""By this the tool runners of Anthropic's SDKs, which ask for a thread of their own accord, know to go on without one."""


def finish_reason(stop_reason: object) -> str | None:
    """Why an answer stopped, in the words of chat completions; a word they do not have stays, and what is none is None."""
    return _REASONS.get(stop_reason, stop_reason) if type(stop_reason) is str and stop_reason else None


def stop_reason(reason: str | None, *, called: bool) -> str:
    """The other way round, for an answer that has stopped. `called`: it calls tools, and some providers say `stop` then."""
    if reason in _REASONS:
        return reason
    word = _WORDS.get(reason or "stop", "end_turn")
    return "tool_use" if called and word == "end_turn" else word


def error_body(error: MuxxError, request_id: str) -> bytes:
    """The error envelope. Its types are Anthropic's: an SDK retries by them."""
    kind = _ERROR_TYPES.get(error.status)
    if kind is None or (error.status == 504 and error.type == "invalid_request_error"):
        kind = "invalid_request_error" if error.status < 500 or error.type == "invalid_request_error" else "api_error"
    told: dict[str, Any] = {"type": kind, "message": worded(error, _TOO_LONG)}
    if error.param == "thread" and error.code == "unsupported_parameter":
        told["details"] = _NO_THREADS
    return dumps({"type": "error", "error": told, "request_id": request_id})


def error_event(error: MuxxError, request_id: str, number: int | None = None) -> bytes:
    """What ends a broken stream: the envelope as an event. Events have no numbers in this format."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"

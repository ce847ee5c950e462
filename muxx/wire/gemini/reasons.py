"""Why an answer finished: Google's words, and those of chat completions, which every endpoint's Chunks and rows have."""

from __future__ import annotations

from typing import Any

_FILTERS = (
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR",
)  # fmt: skip
_WORDS = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length", **dict.fromkeys(_FILTERS, "content_filter")}
_GOOGLES = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}

FAILED = "error"
"""What a failure is called in rows, as OpenTelemetry's conventions have it."""


def stated(value: Any) -> str | None:
    """A reason that says something: the first member of each of Google's enumerations stands for none."""
    return value if type(value) is str and value and not value.endswith("_UNSPECIFIED") else None


def in_chat_words(reason: str, *, called: bool) -> str:
    """A `finishReason` in the words of chat completions, where an answer that calls a tool says so; `error` for one that says
    that the answer failed, and for one that nobody here knows."""
    word = _WORDS.get(reason, FAILED)
    return "tool_calls" if called and word == "stop" else word


def in_googles_words(reason: str | None) -> str:
    """A finish reason of any Chunk as a `finishReason`; none at all is taken for a good end."""
    return _GOOGLES.get(reason or "stop", "OTHER")


def block_reason(answer: dict[str, Any]) -> str | None:
    """Why the prompt was not answered at all, if it was not."""
    feedback = answer.get("promptFeedback")
    return stated(feedback.get("blockReason")) if type(feedback) is dict else None

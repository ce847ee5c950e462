"""Answers of OpenAI's chat completions, completions and embeddings; and its errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..said import Said, Tool
from .events import Unreadable, events_of, object_of, tokens

ERROR_MEMBERS = frozenset({"message", "type", "param", "code"})


def _only(choices: Any) -> dict[str, Any]:
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Unreadable(f"an answer has one choice, not {choices!r:.200}")
    choice: dict[str, Any] = choices[0]
    return choice


def _tokens(usage: Any) -> dict[str, Any]:
    return tokens(usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details")


def read_chat(value: dict[str, Any]) -> Said:
    choice = _only(value.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unreadable(f"the choice holds no message: {choice!r:.200}")
    calls = [(call["function"], call) for call in message.get("tool_calls") or ()]
    return Said(
        message.get("content") or "",
        message.get("reasoning_content") or "",
        tuple(Tool(function["name"], function["arguments"], call["id"]) for function, call in calls),
        finish_reason=choice.get("finish_reason"),
        **_tokens(value.get("usage")),
    )


def read_completion(value: dict[str, Any]) -> Said:
    choice = _only(value.get("choices"))
    if not isinstance(choice.get("text"), str):
        raise Unreadable(f"the choice holds no text: {choice!r:.200}")
    return Said(choice["text"], finish_reason=choice.get("finish_reason"), **_tokens(value.get("usage")))


def read_embeddings(value: dict[str, Any]) -> Said:
    data = value.get("data")
    if not isinstance(data, list) or [item.get("index") for item in data] != list(range(len(data))):
        raise Unreadable(f"these are no embeddings: {value!r:.200}")
    vectors = tuple(tuple(map(float, item["embedding"])) for item in data)
    return Said(vectors=vectors, finish_reason=None, **_tokens(value.get("usage")))


def read_chat_stream(endpoint: str, body: bytes) -> Said:
    """Chat completions and completions differ in where a piece stands."""
    events = events_of(body)
    if not events or events[-1].data != b"[DONE]":
        raise Unreadable(f"the stream does not end with [DONE]: {body[-200:]!r}")
    text = reasoning = ""
    tools: dict[int, dict[str, str]] = {}
    finish: str | None = None
    usage: Any = None
    for _, data in events[:-1]:
        value = object_of(data)
        if "error" in value:
            raise Unreadable(f"the stream tells of an error and ends with [DONE]: {value!r:.200}")
        usage = value.get("usage") or usage
        if not value.get("choices"):
            continue
        choice = _only(value["choices"])
        if finish is not None:
            raise Unreadable(f"something comes after the finish reason: {data[:200]!r}")
        delta = choice.get("delta", {}) if endpoint == "chat" else {"content": choice.get("text")}
        text += delta.get("content") or ""
        reasoning += delta.get("reasoning_content") or ""
        _gather(tools, delta.get("tool_calls") or ())
        finish = choice.get("finish_reason")
    if finish is None:
        raise Unreadable("the stream ends without a finish reason")
    called = tuple(Tool(tool["name"], tool["arguments"], tool["id"]) for _, tool in sorted(tools.items()))
    return Said(text, reasoning, called, finish_reason=finish, **_tokens(usage))


def _gather(tools: dict[int, dict[str, str]], fragments: Iterable[dict[str, Any]]) -> None:
    for fragment in fragments:
        tool = tools.setdefault(fragment["index"], {"id": "", "name": "", "arguments": ""})
        function = fragment.get("function") or {}
        tool["id"] += fragment.get("id") or ""
        tool["name"] += function.get("name") or ""
        tool["arguments"] += function.get("arguments") or ""


def error_of(value: dict[str, Any]) -> dict[str, Any]:
    """The error in the body of a refused request."""
    error = value.get("error")
    if not isinstance(error, dict) or set(error) - {"retry_after"} != ERROR_MEMBERS:
        raise Unreadable(f"an error is told as {value!r:.200}")
    return error


def tells_error(value: dict[str, Any]) -> bool:
    """An event of a stream does."""
    return "error" in value and "choices" not in value and "type" not in value

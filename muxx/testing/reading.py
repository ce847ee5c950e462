"""Answers read back into what they say, strictly: an answer that a careful client would not take for whole is refused.

On purpose without muxx's own readers, as the writers are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from .said import Said, Tool

ERROR_MEMBERS = frozenset({"message", "type", "param", "code"})


class Unreadable(ValueError):
    """The answer is not what its endpoint answers, or does not end as it should. The message says where."""


def read_answer(endpoint: str, body: bytes, *, streamed: bool) -> Said:
    """What a whole answer says. Raises `Unreadable` for one that breaks its format, tells of an error, or is not ended."""
    if streamed:
        return _read_chat_stream(endpoint, body) if endpoint != "responses" else _read_response_stream(body)
    return _READ[endpoint](_object(body))


def read_error(body: bytes, *, streamed: bool) -> dict[str, Any]:
    """The error of a refused request, or that ends a broken stream: last of all, once, and never before a `[DONE]`."""
    if not streamed:
        return _envelope(_object(body))
    data = [data for _, data in _events(body)]
    if b"[DONE]" in data:
        raise Unreadable("a broken stream ends with [DONE], as if it were whole")
    values = [_object(item) for item in data]
    if not values or not _tells_error(values[-1]):
        raise Unreadable("a broken stream does not end with an error event")
    if any(map(_tells_error, values[:-1])):
        raise Unreadable("a broken stream tells of its error twice")
    last = values[-1]
    return last if last.get("type") in ("error", "response.failed") else _envelope(last)


def _tells_error(value: dict[str, Any]) -> bool:
    in_responses = value.get("type") in ("error", "response.failed")
    return in_responses or ("error" in value and "choices" not in value and "type" not in value)


def _envelope(value: dict[str, Any]) -> dict[str, Any]:
    error = value.get("error")
    if not isinstance(error, dict) or set(error) - {"retry_after"} != ERROR_MEMBERS:
        raise Unreadable(f"an error is told as {value!r:.200}")
    return error


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Unreadable(f"this is no JSON: {data[:100]!r}") from None
    if not isinstance(value, dict):
        raise Unreadable(f"this is no JSON object: {data[:100]!r}")
    return value


def _events(stream: bytes) -> list[tuple[str, bytes]]:
    """Name and data of each event; comments, and events without data, are passed over."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if text and not text.endswith(b"\n\n"):
        raise Unreadable(f"the last event is not ended: {text[-100:]!r}")
    found = []
    for block in text.split(b"\n\n"):
        lines = [line.partition(b":") for line in block.split(b"\n") if line and not line.startswith(b":")]
        fields = [(name, value.removeprefix(b" ")) for name, _, value in lines]
        name = b"".join(value for field, value in fields if field == b"event")
        data = [value for field, value in fields if field == b"data"]
        if data:
            found.append((name.decode(), b"\n".join(data)))
    return found


# ── chat completions, completions, embeddings ───────────────────────────────────────────────────────────────────────────────


def _only(choices: Any) -> dict[str, Any]:
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Unreadable(f"an answer has one choice, not {choices!r:.200}")
    choice: dict[str, Any] = choices[0]
    return choice


def _tokens(usage: Any, given: str = "prompt_tokens", made: str = "completion_tokens") -> dict[str, Any]:
    told = usage if isinstance(usage, dict) else {}
    return {"input_tokens": told.get(given), "output_tokens": told.get(made)}


def _read_chat(value: dict[str, Any]) -> Said:
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


def _read_completion(value: dict[str, Any]) -> Said:
    choice = _only(value.get("choices"))
    if not isinstance(choice.get("text"), str):
        raise Unreadable(f"the choice holds no text: {choice!r:.200}")
    return Said(choice["text"], finish_reason=choice.get("finish_reason"), **_tokens(value.get("usage")))


def _read_embeddings(value: dict[str, Any]) -> Said:
    data = value.get("data")
    if not isinstance(data, list) or [item.get("index") for item in data] != list(range(len(data))):
        raise Unreadable(f"these are no embeddings: {value!r:.200}")
    vectors = tuple(tuple(map(float, item["embedding"])) for item in data)
    return Said(vectors=vectors, finish_reason=None, **_tokens(value.get("usage")))


def _read_chat_stream(endpoint: str, body: bytes) -> Said:
    """Chat completions and completions differ in where a piece stands."""
    events = _events(body)
    if not events or events[-1][1] != b"[DONE]":
        raise Unreadable(f"the stream does not end with [DONE]: {body[-200:]!r}")
    text = reasoning = ""
    tools: dict[int, dict[str, str]] = {}
    finish: str | None = None
    usage: Any = None
    for _, data in events[:-1]:
        value = _object(data)
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


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

_ENDINGS = {"response.completed", "response.incomplete"}


def _read_response(value: dict[str, Any]) -> Said:
    if value.get("object") != "response" or value.get("status") not in ("completed", "incomplete"):
        raise Unreadable(f"this is no finished response: {value!r:.200}")
    text = reasoning = ""
    tools = []
    for item in value["output"]:
        if item["type"] == "message":
            text += "".join(part.get("text", "") for part in item["content"])
        elif item["type"] == "reasoning":
            reasoning += "".join(part["text"] for part in item["summary"])
        elif item["type"] == "function_call":
            tools.append(Tool(item["name"], item["arguments"], item["call_id"]))
    finish = "length" if value["status"] == "incomplete" else "tool_calls" if tools else "stop"
    tokens = _tokens(value.get("usage"), "input_tokens", "output_tokens")
    return Said(text, reasoning, tuple(tools), finish_reason=finish, **tokens)


def _read_response_stream(body: bytes) -> Said:
    events = [(name, _object(data)) for name, data in _events(body)]
    kinds = [value.get("type") for _, value in events]
    if not events or kinds[-1] not in _ENDINGS or _ENDINGS.intersection(kinds[:-1]):
        raise Unreadable(f"the stream does not end with the one event that ends it: {body[-200:]!r}")
    if any(name and name != value.get("type") for name, value in events):
        raise Unreadable("an event is named after another type than its own")
    numbers = [value["sequence_number"] for _, value in events if "sequence_number" in value]
    if numbers != sorted(numbers):
        raise Unreadable(f"the sequence numbers fall: {numbers}")
    said = _read_response(events[-1][1]["response"])
    deltas = {
        stem: "".join(value["delta"] for _, value in events if value.get("type") == f"response.{stem}.delta")
        for stem in ("output_text", "reasoning_summary_text", "function_call_arguments")
    }
    told = (said.text, said.reasoning, "".join(tool.arguments for tool in said.tools))
    if tuple(deltas.values()) != told:
        raise Unreadable(f"the pieces of the stream say {tuple(deltas.values())!r:.200}, its end says {told!r:.200}")
    return said


_READ = {
    "chat": _read_chat,
    "text_completion": _read_completion,
    "embeddings": _read_embeddings,
    "responses": _read_response,
}

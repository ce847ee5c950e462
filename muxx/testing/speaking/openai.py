"""Answers of OpenAI's chat completions, completions and embeddings."""

from __future__ import annotations

from typing import Any

from ..said import Pieces, Said, Tool
from .framing import event

DONE = b"data: [DONE]\n\n"


def _usage(said: Said) -> dict[str, Any]:
    given, made = said.input_tokens or 0, said.output_tokens or 0
    cached = {"prompt_tokens_details": {"cached_tokens": said.cached_tokens}} if said.cached_tokens else {}
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made, **cached}


def chat(said: Said, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text or (None if said.tools else "")}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tools:
        called = [(tool.id, {"name": tool.name, "arguments": tool.arguments}) for tool in said.tools]
        message["tool_calls"] = [{"id": id, "type": "function", "function": function} for id, function in called]
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return head | {"choices": [choice], "usage": _usage(said)}


def chat_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in pieces(said.reasoning)]
    deltas += [{"content": piece} for piece in pieces(said.text)]
    deltas += [{"tool_calls": [fragment]} for at, tool in enumerate(said.tools) for fragment in _fragments(at, tool, pieces)]
    choices: list[Any] = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": said.finish_reason}])
    events = [event(head | {"choices": choice}) for choice in choices]
    return [*events, *([event(head | {"choices": [], "usage": _usage(said)})] if usage else []), DONE]


def _fragments(at: int, tool: Tool, pieces: Pieces) -> list[dict[str, Any]]:
    first = {"index": at, "id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}
    return [first, *({"index": at, "function": {"arguments": piece}} for piece in pieces(tool.arguments))]


# ── completions and embeddings ──────────────────────────────────────────────────────────────────────────────────────────────


def completion(said: Said, model: str) -> dict[str, Any]:
    _only_text(said)
    choice = {"text": said.text, "index": 0, "logprobs": None, "finish_reason": said.finish_reason}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    return head | {"choices": [choice], "usage": _usage(said)}


def completion_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    _only_text(said)
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    told: list[tuple[str, str | None]] = [*((piece, None) for piece in pieces(said.text)), ("", said.finish_reason)]
    events = [
        event(head | {"choices": [{"text": piece, "index": 0, "logprobs": None, "finish_reason": reason}]})
        for piece, reason in told
    ]
    return [*events, *([event(head | {"choices": [], "usage": _usage(said)})] if usage else []), DONE]


def _only_text(said: Said) -> None:
    if said.reasoning or said.tools:
        raise ValueError("a completion says text and nothing else")


def embeddings(said: Said, model: str) -> dict[str, Any]:
    data = [{"object": "embedding", "index": at, "embedding": list(vector)} for at, vector in enumerate(said.vectors)]
    given = said.input_tokens or 0
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": given, "total_tokens": given}}


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def error(message: str, type: str, code: str | None) -> dict[str, Any]:
    """The body of a refused request; the data of the event that ends a broken stream is the same."""
    return {"error": {"message": message, "type": type, "param": None, "code": code}}

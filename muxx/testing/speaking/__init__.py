"""Answers as providers write them: each endpoint, plain and as the events of a stream, and how each refuses and fails.

Written by the book and on purpose without muxx's own writers: the kit must be able to disagree with the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ..said import Pieces, Said, words
from . import anthropic, gemini, openai, responses
from .framing import event
from .openai import DONE

__all__ = ["DONE", "event", "failed", "plain", "refused", "streamed"]

GOOGLES = ("generate_content", "count_content")
ANTHROPICS = ("messages", "count_tokens")


def plain(endpoint: str, said: Said, model: str) -> bytes:
    """The answer in one piece."""
    answer = _PLAIN[endpoint](said, model)
    return gemini.written(answer) if endpoint in GOOGLES else orjson.dumps(answer)


def streamed(endpoint: str, said: Said, model: str, *, usage: bool = True, pieces: Pieces = words) -> list[bytes]:
    """The answer as the events of a stream, in order. `usage`: whether the client asked for it, where that has to be asked."""
    if endpoint not in _STREAMED:
        raise ValueError(f"{endpoint} is not streamed")
    return _STREAMED[endpoint](said, model, usage, pieces)


def refused(
    endpoint: str, status: int, message: str = "No.", code: str | None = None, type: str = "invalid_request_error"
) -> bytes:
    """The body of a refused request. `code` and `type` are OpenAI's to say; the others have names for statuses."""
    if endpoint in GOOGLES:
        return gemini.written(gemini.error(status, message))
    return orjson.dumps(anthropic.error(status, message) if endpoint in ANTHROPICS else openai.error(message, type, code))


def failed(endpoint: str, status: int = 500, message: str = "No luck.", code: str | None = None) -> bytes:
    """The event by which a provider tells in the middle of a stream that it fails."""
    if endpoint in GOOGLES:
        return gemini.failed(status, message)
    if endpoint in ANTHROPICS:
        return event(anthropic.error(status, message), "error")
    return responses.failed(message, code) if endpoint == "responses" else event(openai.error(message, "server_error", code))


_PLAIN: dict[str, Callable[[Said, str], dict[str, Any]]] = {
    "chat": openai.chat,
    "text_completion": openai.completion,
    "embeddings": openai.embeddings,
    "responses": responses.response,
    "messages": anthropic.message,
    "count_tokens": anthropic.count,
    "generate_content": gemini.content,
    "count_content": gemini.count,
}
_STREAMED: dict[str, Callable[[Said, str, bool, Pieces], list[bytes]]] = {
    "chat": openai.chat_stream,
    "text_completion": openai.completion_stream,
    "responses": responses.response_stream,
    "messages": anthropic.message_stream,
    "generate_content": gemini.content_stream,
}

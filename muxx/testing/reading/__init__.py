"""Answers read back into what they say, strictly: an answer that a careful client would not take for whole is refused.

On purpose without muxx's own readers, as the writers are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..said import Said
from . import anthropic, gemini, openai, responses
from .events import Unreadable, all_of, events_of, list_of, object_of

__all__ = ["Unreadable", "is_whole", "read_answer", "read_comment", "read_error"]

_COMMENT = b"muxx "


def read_answer(endpoint: str, body: bytes, *, streamed: bool) -> Said:
    """What a whole answer says. Raises `Unreadable` for one that breaks its format, tells of an error, or is not ended.

    A stream of Google's may also be one array of all its events: no stream, as far as this goes.
    """
    if streamed:
        return _READ_STREAM[endpoint](body)
    if endpoint == "generate_content" and body.lstrip().startswith(b"["):
        return gemini.read_contents(list_of(body))
    return _READ[endpoint](object_of(body))


def is_whole(endpoint: str, stream: bytes) -> bool:
    """The stream is a whole answer of its endpoint: it neither breaks off nor tells of an error, and ends as it should."""
    try:
        read_answer(endpoint, stream, streamed=True)
    except (Unreadable, KeyError, TypeError):
        return False
    return True


def read_error(body: bytes, *, streamed: bool, endpoint: str = "chat") -> dict[str, Any]:
    """The error of a refused request, or that ends a broken stream: last of all, once, and never as if the stream were whole.

    What comes back is the object with the `message`, as the endpoint's format has it.
    """
    error_of, tells_error = _ERRORS.get(endpoint, (openai.error_of, _tells_openai_error))
    if not streamed:
        return error_of(object_of(body))
    events = all_of(body) if endpoint == "generate_content" else events_of(body)
    if any(event.is_comment for event in events):
        raise Unreadable("the stream has a comment, of which Google's client dies")
    if any(data == b"[DONE]" or name == "message_stop" for name, data in events):
        raise Unreadable("a broken stream ends as if it were whole")
    values = [object_of(data) for _, data in events]
    if not values or not tells_error(values[-1]):
        raise Unreadable("a broken stream does not end with an error event")
    if any(map(tells_error, values[:-1])):
        raise Unreadable("a broken stream tells of its error twice")
    if endpoint == "messages" and events[-1].name != "error":
        raise Unreadable("the event of the error is not named so")
    return values[-1] if responses.tells_error(values[-1]) and endpoint != "messages" else error_of(values[-1])


def read_comment(endpoint: str, stream: bytes) -> dict[str, Any] | None:
    """What the comment of a whole stream tells: `cost`, `request_id` and `usage`; None where there is none.

    Raises `Unreadable` for one that is not right before the last event, comes twice, or stands where there must be none.
    """
    events = all_of(stream)
    places = [at for at, event in enumerate(events) if event.is_comment and event.data.startswith(_COMMENT)]
    if not places:
        return None
    if endpoint == "generate_content":
        raise Unreadable("the stream has a comment, of which Google's client dies")
    if places != [len(events) - 2]:
        raise Unreadable(f"the comment is not right before the last event: {[event.name or event.data for event in events]}")
    told = object_of(events[-2].data.removeprefix(_COMMENT))
    if set(told) != {"cost", "request_id", "usage"}:
        raise Unreadable(f"the comment tells {told!r:.200}")
    return told


def _tells_openai_error(value: dict[str, Any]) -> bool:
    return openai.tells_error(value) or responses.tells_error(value)


_READ: dict[str, Callable[[dict[str, Any]], Said]] = {
    "chat": openai.read_chat,
    "text_completion": openai.read_completion,
    "embeddings": openai.read_embeddings,
    "responses": responses.read_response,
    "messages": anthropic.read_message,
    "count_tokens": anthropic.read_count,
    "generate_content": gemini.read_content,
    "count_content": gemini.read_count,
}
_READ_STREAM: dict[str, Callable[[bytes], Said]] = {
    "chat": partial(openai.read_chat_stream, "chat"),
    "text_completion": partial(openai.read_chat_stream, "text_completion"),
    "responses": responses.read_response_stream,
    "messages": anthropic.read_message_stream,
    "generate_content": gemini.read_content_stream,
}
_ERRORS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[dict[str, Any]], bool]]] = {
    "messages": (anthropic.error_of, anthropic.tells_error),
    "count_tokens": (anthropic.error_of, anthropic.tells_error),
    "generate_content": (gemini.error_of, gemini.tells_error),
    "count_content": (gemini.error_of, gemini.tells_error),
}

"""How providers, and what stands in front of them, tell of a failure in JSON, whatever format they speak. Pure.

OpenAI, Anthropic, Google and most others have an `error`, an object or a text; Google at times in an array. vLLM and Mistral say
at the outermost level that they are one; FastAPI has a `detail`, gateways have `errors`, or only a `message`.
"""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError

from ..errors import MuxxError
from .halves import loads

TOO_LONG = "context_length_exceeded"
"""What OpenAI calls a prompt that does not fit, and rows whoever says so."""

GARBAGE = "The model provider sent data that is neither JSON nor the end of a stream. Try again."
"""What the client of a stream is told where the data of an event is neither."""

MOST_TEXT = 2000
"""Characters of a failure that is told in plain text."""

_NO_WORDS = ("", "error")

_NESTED = 3
"""Levels of `detail` and `message` that are looked into."""


def told_in_answer(value: dict[str, Any]) -> Any:
    """What an answer, or an event of one, says of its failure; None where it tells of none."""
    return value.get("error") or (value if value.get("object") == "error" or value.get("type") == "error" else None)


def word_for(told: Any) -> str | None:
    """What a failure is called, in a word of the provider's; None where it has none."""
    names = [told.get(name) for name in ("code", "type", "status")] if isinstance(told, dict) else []
    return next((name[:64] for name in names if isinstance(name, str) and name not in _NO_WORDS), None)


def worded(error: MuxxError, too_long: str) -> str:
    """The message of an error, for clients of a vendor that says `too_long` when a prompt does not fit: by that they know when to
    make it shorter. What another vendor says of it comes behind."""
    message = error.message
    return message if error.code != TOO_LONG or too_long in message else f"{too_long}: {message}"


def told_in_refusal(body: bytes) -> dict[str, Any]:
    """What the body of a refusal says, as an object with a `message` wherever there is one; {} where it says nothing."""
    try:
        value = loads(body)
    except JSONDecodeError:
        return _of_text(body)
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):
        return _of_text(value.encode("utf-8", "replace"))
    return _of_object(value, _NESTED) if isinstance(value, dict) else {}


def _of_text(body: bytes) -> dict[str, Any]:
    """A plain text is what it says; what has other characters than a text is none."""
    text = " ".join(body[: 4 * MOST_TEXT].decode("utf-8", "replace").split())[:MOST_TEXT]
    return {"message": text} if text and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else {}


def _of_object(value: dict[str, Any], levels: int) -> dict[str, Any]:
    error = value.get("error")
    if isinstance(error, dict) and error:
        return error
    if isinstance(error, str) and error:
        return {"message": error}
    if isinstance(message := value.get("message"), str) and message:
        return value
    for told in (message, value.get("detail"), value.get("errors")):
        if text := _text_of(told, levels):
            return {**value, "message": text}
    return {}


def _text_of(told: Any, levels: int) -> str:
    """The text of a `detail`: a text, an object that has one, or an array of either, as FastAPI has for each wrong field."""
    if isinstance(told, str):
        return told
    if isinstance(told, list) and levels:
        return "; ".join(filter(None, (_text_of(each, levels - 1) for each in told[:20])))
    if not isinstance(told, dict) or not levels:
        return ""
    text = told.get("msg") or _of_object(told, levels - 1).get("message")
    place = told.get("loc")
    where = ".".join(map(str, place)) + ": " if isinstance(place, list) and place else ""
    return where + text if isinstance(text, str) and text else ""

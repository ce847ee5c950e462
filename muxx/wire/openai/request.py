"""The request side of chat completions: what is checked, what plugins may read and change, what muxx adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from orjson import dumps

from ...errors import InvalidRequest
from ...exchange import Part

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_MODEL_LENGTH = 256


def validate_chat(body: dict[str, Any]) -> None:
    """Check the fields of the wire contract; raise `InvalidRequest` naming the first that is wrong.

    All other fields are the provider's to judge. An optional field may be null, which says the same as leaving it out; true
    and 1.0 are no integers.
    """
    for field in ("model", "messages"):
        if field not in body:
            raise InvalidRequest(f"'{field}' is missing. {_ADVICE[field]}", code="missing_field", param=field)
        if not _RULES[field](body[field]):
            raise _wrong(field)
    for field in ("temperature", "max_tokens", "stream", "tools"):
        value = body.get(field)
        if value is not None and not _RULES[field](value):
            raise _wrong(field)


def _is_model(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= _MAX_MODEL_LENGTH and _CONTROL.search(value) is None


_RULES: dict[str, Callable[[Any], bool]] = {
    "model": _is_model,
    "messages": lambda value: type(value) is list and len(value) > 0,
    "temperature": lambda value: type(value) in (int, float) and 0 <= value <= 2,
    "max_tokens": lambda value: type(value) is int and value >= 1,
    "stream": lambda value: type(value) is bool,
    "tools": lambda value: type(value) is list,
}

_ADVICE = {
    "model": f'Give a model name: a string of 1 to {_MAX_MODEL_LENGTH} characters without control characters, e.g. "gpt-4o".',
    "messages": "Give an array with at least one message.",
    "temperature": "Give a number from 0 to 2, or leave it out.",
    "max_tokens": "Give an integer of at least 1, or leave it out.",
    "stream": "Give true or false, or leave it out.",
    "tools": "Give an array of tool definitions, or leave it out.",
}


def _wrong(field: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' has the wrong type or value. {_ADVICE[field]}", code="invalid_type", param=field)


Place = tuple[str, str, str, Any, Any]
"""role, kind, path, and the container and key under which the text stands."""


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every piece of text in the request's messages; assigning a part's `text` writes it back into `body`.

    `kind` is text, tool_arguments or tool_result. A prediction of the answer counts as the assistant's text.
    """
    for role, kind, path, container, key in _places(body):
        yield Part(role, kind, path, partial(container.__getitem__, key), partial(container.__setitem__, key))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads as text: the messages, and the definitions of tools. Media are not counted."""
    messages = body.get("messages")
    if type(messages) is list and "prediction" not in body and all(map(_is_simple, messages)):
        # What nearly every request is, several times as fast.
        size = sum([_utf8_length(message["content"]) for message in messages])
    else:
        size = sum(_utf8_length(container[key]) for _, _, _, container, key in _places(body))
    return size + sum(len(dumps(body[field])) for field in ("tools", "functions") if body.get(field))


def _is_simple(message: Any) -> bool:
    return type(message) is dict and len(message) == 2 and "role" in message and type(message.get("content")) is str


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def ask_for_usage(body: dict[str, Any]) -> bool:
    """Make a streaming request ask for usage; returns whether it did so by itself. Replaces `stream_options`, never edits it.

    A `stream_options` that is no object stays, for the provider to refuse.
    """
    options = body.get("stream_options")
    if options is None:
        options = {}
    if type(options) is not dict:
        return False
    if options.get("include_usage") is True:
        return True
    body["stream_options"] = {**options, "include_usage": True}
    return False


def _places(body: dict[str, Any]) -> Iterator[Place]:
    messages = body.get("messages")
    for number, message in enumerate(messages if type(messages) is list else ()):
        if type(message) is dict:
            yield from _places_in_message(message, f"messages[{number}]")
    prediction = body.get("prediction")
    if type(prediction) is dict:
        yield from _places_in_content(prediction, "content", "assistant", "text", "prediction")


def _places_in_message(message: dict[str, Any], path: str) -> Iterator[Place]:
    role = message.get("role")
    role = role if type(role) is str else ""
    kind = "tool_result" if role in ("tool", "function") else "text"
    yield from _places_in_content(message, "content", role, kind, path)
    for key in ("reasoning_content", "reasoning", "refusal"):
        if type(message.get(key)) is str:
            yield role, "text", f"{path}.{key}", message, key
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if type(calls) is list else ()):
        if type(call) is dict:
            for function, key in (("function", "arguments"), ("custom", "input")):
                yield from _places_in_call(call.get(function), key, role, f"{path}.tool_calls[{number}].{function}")
    yield from _places_in_call(message.get("function_call"), "arguments", role, f"{path}.function_call")


def _places_in_content(holder: dict[str, Any], key: str, role: str, kind: str, path: str) -> Iterator[Place]:
    content = holder.get(key)
    if type(content) is str:
        yield role, kind, f"{path}.{key}", holder, key
    elif type(content) is list:
        for number, part in enumerate(content):
            if type(part) is str:
                yield role, kind, f"{path}.{key}[{number}]", content, number
            elif type(part) is dict:
                for field in ("text", "refusal"):
                    if type(part.get(field)) is str:
                        yield role, kind, f"{path}.{key}[{number}].{field}", part, field


def _places_in_call(function: Any, key: str, role: str, path: str) -> Iterator[Place]:
    if type(function) is dict and type(function.get(key)) is str:
        yield role, "tool_arguments", f"{path}.{key}", function, key

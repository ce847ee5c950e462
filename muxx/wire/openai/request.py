"""The request side of chat completions: what is checked, what plugins may read and change, what muxx adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...request import Part
from ..fields import MAX_MODEL_LENGTH, MODEL, STREAM, TEMPERATURE, TOOLS, Place, Rule, at_least, check, definition_bytes, part_at
from ..fragments import utf8_length

_CHAT_REQUIRED = {
    "model": MODEL,
    "messages": Rule(lambda value: type(value) is list and len(value) > 0, "Give an array with at least one message."),
}
_CHAT_OPTIONAL = {
    "temperature": TEMPERATURE,
    "max_tokens": Rule(at_least(1), "Give an integer of at least 1, or leave it out."),
    "stream": STREAM,
    "tools": TOOLS,
}


def validate_chat(body: dict[str, Any]) -> None:
    """Check the fields of the wire contract; all others are the provider's to judge."""
    if not _is_plainly_right(body):
        check(body, _CHAT_REQUIRED, _CHAT_OPTIONAL)


def _is_plainly_right(body: dict[str, Any]) -> bool:
    """What nearly every request is, found out at a third of the cost; False where the rules have to be asked."""
    get = body.get
    model, messages, temperature, stream = get("model"), get("messages"), get("temperature"), get("stream")
    return (
        type(model) is str
        and 0 < len(model) <= MAX_MODEL_LENGTH
        and model.isprintable()
        and type(messages) is list
        and len(messages) > 0
        and (temperature is None or (type(temperature) is float and 0 <= temperature <= 2))
        and (stream is None or stream is True or stream is False)
        and get("max_tokens") is None
        and get("tools") is None
    )


def checked_in_chat(body: dict[str, Any]) -> tuple[Any, ...]:
    """Every value `validate_chat` looks at, and whether there still are messages."""
    get = body.get
    messages = get("messages")
    return get("model"), messages, not messages, get("temperature"), get("max_tokens"), get("stream"), get("tools")


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every piece of text in the request's messages; assigning a part's `text` writes it back into `body`.

    `kind` is text, tool_arguments or tool_result. A prediction of the answer counts as the assistant's text.
    """
    return map(part_at, _places(body))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads as text: the messages, and the definitions of tools. Media are not counted."""
    messages = body.get("messages")
    if type(messages) is list and "prediction" not in body and all(map(_is_simple, messages)):
        # What nearly every request is, several times as fast.
        size = sum([utf8_length(message["content"]) for message in messages])
    else:
        size = sum(utf8_length(container[key]) for _, _, _, container, key in _places(body))
    return size + definition_bytes(body)


def _is_simple(message: Any) -> bool:
    return type(message) is dict and len(message) == 2 and "role" in message and type(message.get("content")) is str


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

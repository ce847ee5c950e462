"""The request side of Messages: what is checked, and what plugins may read and change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...request import Part
from ..fields import MODEL, STREAM, TOOLS, Place, Rule, at_least, check, definition_bytes, is_array, part_at
from ..fragments import utf8_length
from .blocks import CALLS, dicts, strings_in, texts_in, type_of

_MESSAGES = Rule(lambda value: type(value) is list and len(value) > 0, "Give an array with at least one message.")
_REQUIRED = {"model": MODEL, "messages": _MESSAGES}
_OPTIONAL = {
    "system": Rule(lambda value: type(value) in (str, list), "Give a string or an array of text blocks, or leave it out."),
    "temperature": Rule(
        lambda value: type(value) in (int, float) and 0 <= value <= 1, "Give a number from 0 to 1, or leave it out."
    ),
    "stream": STREAM,
    "stop_sequences": Rule(is_array, "Give an array of strings, or leave it out."),
    "tools": TOOLS,
}
_MAX_TOKENS = Rule(at_least(1), "Give an integer of at least 1: the most tokens the answer may have.")


def validate_messages(body: dict[str, Any]) -> None:
    """Check what the API fixes; the rest is the provider's to judge."""
    check(body, {**_REQUIRED, "max_tokens": _MAX_TOKENS}, _OPTIONAL)


def validate_count(body: dict[str, Any]) -> None:
    """The same for a request that only counts tokens: it needs no `max_tokens`."""
    check(body, _REQUIRED, _OPTIONAL)


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every text of the request: system prompt, messages, what tools were called with and returned, documents. Paths are those of
    the body. What a tool was called with is an object here, so each of its strings is a part."""
    return map(part_at, _places(body))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads as text, and of the definitions of tools. Media are not counted."""
    return sum(utf8_length(container[key]) for _, _, _, container, key in _places(body)) + definition_bytes(body)


def _places(body: dict[str, Any]) -> Iterator[Place]:
    yield from _places_in_content(body, "system", "system", "system")
    for number, message in dicts(body.get("messages")):
        role = message.get("role")
        yield from _places_in_content(message, "content", role if type(role) is str else "", f"messages[{number}].content")


def _places_in_content(holder: dict[str, Any], key: str, role: str, path: str) -> Iterator[Place]:
    content = holder.get(key)
    if type(content) is str:
        yield role, "text", path, holder, key
    for number, block in dicts(content):
        yield from _places_in_block(block, role, f"{path}[{number}]")


def _places_in_block(block: dict[str, Any], role: str, path: str) -> Iterator[Place]:
    kind = type_of(block)
    if kind in CALLS:
        for place, container, key in strings_in(block.get("input")):
            yield role, "tool_arguments", f"{path}.input{place}", container, key
        return
    returned = kind.endswith("tool_result")
    for place, container, key in texts_in(block):
        yield "tool" if returned else role, "tool_result" if returned else "text", f"{path}{place}", container, key

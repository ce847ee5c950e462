"""The request side of Responses: what is checked, and what plugins may read and change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InvalidRequest
from ...request import Part
from ..fields import MODEL, STREAM, TEMPERATURE, TOOLS, Place, Rule, at_least, check, definition_bytes, is_string, part_at
from ..fragments import utf8_length
from .items import Path, all_texts, is_returned, shown

_REQUIRED = {"model": MODEL}
_OPTIONAL = {
    "input": Rule(lambda value: type(value) in (str, list), "Give a string or an array of items."),
    "instructions": Rule(is_string, "Give a string, or leave it out."),
    "temperature": TEMPERATURE,
    "max_output_tokens": Rule(at_least(1), "Give an integer of at least 1, or leave it out."),
    "stream": STREAM,
    "tools": TOOLS,
}
_SOURCES = ("input", "prompt", "previous_response_id", "conversation")
"""Where the model's input may come from. The provider wants one of them."""


def validate_response(body: dict[str, Any]) -> None:
    """Check what the API fixes; the rest is the provider's to judge."""
    check(body, _REQUIRED, _OPTIONAL)
    if all(body.get(source) is None for source in _SOURCES):
        advice = "Give a string or an array of items, or one of 'prompt', 'previous_response_id' and 'conversation'."
        raise InvalidRequest(f"'input' is missing. {advice}", code="missing_field", param="input")


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every text of the request: instructions, input, the variables of a stored prompt. Paths are those of the body."""
    return map(part_at, _places(body))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads as text, and of the definitions of tools. What the provider has stored of earlier turns
    is not counted, nor are media."""
    return sum(utf8_length(container[key]) for _, _, _, container, key in _places(body)) + definition_bytes(body)


def _places(body: dict[str, Any]) -> Iterator[Place]:
    if type(body.get("instructions")) is str:
        yield "system", "text", "instructions", body, "instructions"
    value = body.get("input")
    if type(value) is str:
        yield "user", "text", "input", body, "input"
    for number, item in enumerate(value if type(value) is list else ()):
        if type(item) is dict:
            for path, container, key in all_texts(item):
                yield _role(item, path), _kind(path), f"input[{number}].{shown(path)}", container, key
    yield from _variables(body.get("prompt"))


def _variables(prompt: Any) -> Iterator[Place]:
    variables = prompt.get("variables") if type(prompt) is dict else None
    for name, value in variables.items() if type(variables) is dict else ():
        if type(value) is str:
            yield "user", "text", f"prompt.variables.{name}", variables, name
        elif type(value) is dict and type(value.get("text")) is str:
            yield "user", "text", f"prompt.variables.{name}.text", value, "text"


def _role(item: dict[str, Any], path: Path) -> str:
    """Whose words these are: a message says so; what a tool returned is the tool's; all else the model wrote."""
    if type(role := item.get("role")) is str:
        return role
    return "tool" if is_returned(path) else "assistant"


def _kind(path: Path) -> str:
    if is_returned(path):
        return "tool_result"
    return "text" if path[0] in ("content", "summary") else "tool_arguments"

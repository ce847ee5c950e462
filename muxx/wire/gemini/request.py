"""The request side of Google's format: what is checked, and what plugins may read and change.

Members are read in both spellings. The model and whether a stream is wanted stand in the path; the kernel has put them into the
body as `model` and `stream`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InvalidRequest
from ...request import Part
from ..fields import MODEL, STREAM, TEMPERATURE, TOOLS, Place, Rule, at_least, check, definition_bytes, part_at
from ..fragments import utf8_length
from .names import entries, member, snake, spellings

_CONTENTS = Rule(lambda value: type(value) in (list, dict) and len(value) > 0, "Give an array with at least one content.")
_OBJECT = Rule(lambda value: type(value) is dict, "Give an object, or leave it out.")
_CONFIG = "generationConfig"
_CONFIG_RULES = {
    "temperature": TEMPERATURE,
    "maxOutputTokens": Rule(at_least(1), "Give an integer of at least 1, or leave it out."),
    "candidateCount": Rule(at_least(1), "Give an integer of at least 1, or leave it out."),
}
_NESTED = {
    f"{config}.{name}": rule
    for config in (_CONFIG, snake(_CONFIG))
    for member_name, rule in _CONFIG_RULES.items()
    for name in (member_name, snake(member_name))
}
_REQUIRED = {"model": MODEL, "contents": _CONTENTS}
_OPTIONAL = {"stream": STREAM, "tools": TOOLS, _CONFIG: _OBJECT, snake(_CONFIG): _OBJECT}
WHOLE = "generateContentRequest"
"""Where a request that is only to be counted has a whole one."""


def validate_generate(body: dict[str, Any]) -> None:
    """Check what the API fixes; the rest is the provider's to judge."""
    _check(body, _REQUIRED)


def validate_count(body: dict[str, Any]) -> None:
    """As `validate_generate`, for a request to count tokens: of contents, or of a whole request."""
    named = list(spellings(body, WHOLE))
    if not named:
        _check(body, _REQUIRED)
        return
    check(body, {"model": MODEL, **dict.fromkeys(named, _OBJECT)}, {})
    for name in named:
        try:
            _check(body[name], {"contents": _CONTENTS})
        except InvalidRequest as error:
            raise InvalidRequest(error.message, code=error.code, param=f"{name}.{error.param}") from None


def _check(body: dict[str, Any], required: dict[str, Rule]) -> None:
    check(body, required, _OPTIONAL)
    for config in spellings(body, _CONFIG):
        if type(body[config]) is dict:
            check({f"{config}.{name}": value for name, value in body[config].items()}, {}, _NESTED)


def checked_in_generate(body: dict[str, Any]) -> tuple[Any, ...]:
    """Every value `validate_generate` looks at, and whether there still are contents."""
    contents = body.get("contents")
    configs = [body.get(name) for name in (_CONFIG, snake(_CONFIG))]
    inner = [
        config.get(name) if type(config) is dict else None
        for config in configs
        for member_name in _CONFIG_RULES
        for name in (member_name, snake(member_name))
    ]
    return (body.get("model"), body.get("stream"), body.get("tools"), contents, bool(contents), *configs, *inner)


def candidates_asked(body: dict[str, Any]) -> int:
    """How many candidates the answer has."""
    config = member(body, _CONFIG)
    count = member(config, "candidateCount") if type(config) is dict else None
    return count if type(count) is int and count > 1 else 1


def request_parts(body: dict[str, Any]) -> Iterator[Part]:
    """Every piece of text in the request; assigning a part's `text` writes it back into `body`.

    `kind` is text, tool_arguments (every string a function was called with) or tool_result (every string it returned).
    """
    return map(part_at, _places(body, ""))


def count_parts(body: dict[str, Any]) -> Iterator[Part]:
    """As `request_parts`, for a request to count tokens."""
    return map(part_at, _count_places(body))


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of what the model reads as text, and of the definitions of tools. Media are not counted."""
    return sum(utf8_length(container[key]) for _, _, _, container, key in _places(body, "")) + definition_bytes(body)


def count_bytes(body: dict[str, Any]) -> int:
    """As `input_bytes`, for a request to count tokens."""
    inner = member(body, WHOLE)
    places = sum(utf8_length(container[key]) for _, _, _, container, key in _count_places(body))
    return places + definition_bytes(inner if type(inner) is dict else body)


def _count_places(body: dict[str, Any]) -> Iterator[Place]:
    yield from _places(body, "")
    for name in spellings(body, WHOLE):
        if type(body[name]) is dict:
            yield from _places(body[name], f"{name}.")


def _places(body: dict[str, Any], before: str) -> Iterator[Place]:
    for name in spellings(body, "systemInstruction"):
        if type(body[name]) is str:
            yield "system", "text", before + name, body, name
        elif type(body[name]) is dict:
            yield from _places_in_content(body[name], "system", before + name)
    for path, content in entries(body.get("contents"), f"{before}contents"):
        yield from _places_in_content(content, "assistant" if content.get("role") == "model" else "user", path)


def _places_in_content(content: dict[str, Any], role: str, path: str) -> Iterator[Place]:
    for place, part in entries(content.get("parts"), f"{path}.parts"):
        if type(part.get("text")) is str:
            yield role, "text", f"{place}.text", part, "text"
        for holder, key, of, kind in (
            ("functionCall", "args", role, "tool_arguments"),
            ("functionResponse", "response", "tool", "tool_result"),
            ("executableCode", "code", role, "tool_arguments"),
            ("codeExecutionResult", "output", "tool", "tool_result"),
            ("toolCall", "args", role, "tool_arguments"),  # of tools that Google runs
            ("toolResponse", "response", "tool", "tool_result"),
        ):
            for name in spellings(part, holder):
                if type(part[name]) is dict and key in part[name]:
                    yield from _strings(part[name], key, of, kind, f"{place}.{name}.{key}")


def _strings(container: Any, key: Any, role: str, kind: str, path: str) -> Iterator[Place]:
    """Every string in a JSON value."""
    value = container[key]
    if type(value) is str:
        yield role, kind, path, container, key
    elif type(value) is dict:
        for name in value:
            yield from _strings(value, name, role, kind, f"{path}.{name}")
    elif type(value) is list:
        for number in range(len(value)):
            yield from _strings(value, number, role, kind, f"{path}[{number}]")

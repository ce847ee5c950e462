"""How Google's JSON is spelled: in camelCase, in requests also in snake_case, and arrays of one without their brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

_HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")
_SNAKE = re.compile(r"(?<=[a-z0-9])_([a-z0-9])")


@lru_cache(256)
def snake(name: str) -> str:
    """`maxOutputTokens` as `max_output_tokens`."""
    return _HUMP.sub(lambda found: "_" + found[1].lower(), name)


def camel(name: str) -> str:
    """`max_output_tokens` as `maxOutputTokens`; what is in camelCase stays."""
    return _SNAKE.sub(lambda found: found[1].upper(), name) if "_" in name else name


def member(holder: dict[str, Any], name: str) -> Any:
    """A member by its camelCase name, however it is spelled; None where there is none."""
    value = holder.get(name)
    return holder.get(snake(name)) if value is None else value


def spellings(holder: dict[str, Any], name: str) -> Iterator[str]:
    """The names under which a member stands in `holder`: none, one, or both of its spellings."""
    for spelled in dict.fromkeys((name, snake(name))):
        if spelled in holder:
            yield spelled


def listed(value: Any) -> list[Any]:
    """An array's entries. Google takes a single object where an array is wanted, and its own examples rely on it."""
    if type(value) is list:
        return value
    return [value] if type(value) is dict else []


def entries(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in an array, or the single one in its place, each with its path."""
    if type(value) is dict:
        yield path, value
    for number, entry in enumerate(value if type(value) is list else ()):
        if type(entry) is dict:
            yield f"{path}[{number}]", entry


def index_of(candidate: dict[str, Any]) -> int:
    """A candidate's number. What names none is the first."""
    index = candidate.get("index")
    return index if type(index) is int else 0


ANSWER_MEMBERS = ("candidates", "promptFeedback", "usageMetadata")
"""An answer has one of these: where there is nothing to say, Google still counts its tokens."""


def candidates_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    candidates = answer.get("candidates")
    return [candidate for candidate in (candidates if type(candidates) is list else ()) if type(candidate) is dict]


def parts_of(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a candidate's content."""
    content = candidate.get("content")
    parts = content.get("parts") if type(content) is dict else None
    return [part for part in (parts if type(parts) is list else ()) if type(part) is dict]

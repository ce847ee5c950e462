"""What completions and embeddings are asked with: a text, texts, tokens, or lists of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..fields import Place
from ..fragments import utf8_length


def is_prompt(value: Any) -> bool:
    """A string, or an array with at least one entry: strings, or integers, or arrays."""
    if type(value) is not list:
        return type(value) is str
    kinds = set(map(type, value))
    return len(kinds) == 1 and kinds <= {str, int, list}


def prompt_places(body: dict[str, Any], field: str) -> Iterator[Place]:
    """Every text of a prompt, as the user's."""
    value = body.get(field)
    if type(value) is str:
        yield "user", "text", field, body, field
    elif type(value) is list:
        for number, entry in enumerate(value):
            if type(entry) is str:
                yield "user", "text", f"{field}[{number}]", value, number


def prompt_bytes(value: Any) -> int:
    """UTF-8 bytes of a prompt. Tokens are known exactly: they count the bytes that `estimate_tokens` makes so many tokens of."""
    if type(value) is str:
        return utf8_length(value)
    if type(value) is not list:
        return 0
    tokens = sum(len(entry) if type(entry) is list else 1 for entry in value if type(entry) is not str)
    return sum(utf8_length(entry) for entry in value if type(entry) is str) + tokens * 41 // 10

"""Content blocks, of which Anthropic messages are made, in requests and answers: which are calls, and where their texts stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orjson import JSONDecodeError

from ..halves import loads

CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Blocks that are calls of a tool: the caller's own, the provider's, and that of a server the provider asks."""

TEXT_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Deltas that are pieces of a text, and the member that holds the piece."""

WHOLE_DELTAS = {"citations_delta": ("citation", "cited_text"), "compaction_delta": ("content",)}
"""Deltas that hold a text whole, and where."""

REDACTED = "redacted:"
"""How the signature of a Chunk begins that stands for a block of redacted thinking; the block's data follows."""

_TEXTS = frozenset({"text", "title", "context", "content", "stdout", "stderr", "cited_text", "thinking"})
"""Under these names a block holds text, however deep."""

_LEVELS = 12
"""No block is nested deeper than this; what is deeper still is no text of anybody's."""

Leaf = tuple[str, Any, Any]
"""A text's path within its block, and the container and key under which it stands."""


def texts_in(value: Any, path: str = "", levels: int = _LEVELS) -> Iterator[Leaf]:
    """Every text of a block that comes whole: a document, a search result, what a tool returned."""
    if levels == 0:
        return
    if type(value) is dict:
        for name, child in value.items():
            if type(child) is not str:
                yield from texts_in(child, f"{path}.{name}", levels - 1)
            elif name in _TEXTS or (name == "data" and value.get("type") == "text"):
                yield f"{path}.{name}", value, name
    elif type(value) is list:
        for number, child in enumerate(value):
            yield from texts_in(child, f"{path}[{number}]", levels - 1)


def strings_in(value: Any, path: str = "") -> Iterator[Leaf]:
    """Every string of what a tool is called with."""
    entries = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, child in entries:
        place = f"{path}[{key}]" if type(value) is list else f"{path}.{key}"
        if type(child) is str:
            yield place, value, key
        else:
            yield from strings_in(child, place)


def parsed(text: str) -> Any:
    """What a tool is called with. What is no JSON, because an answer was cut short, is kept under a name of its own."""
    try:
        return loads(text)
    except JSONDecodeError:
        return {"partial_json": text}


def type_of(value: dict[str, Any]) -> str:
    """The type of a block, a delta or an event; "" where it is no word."""
    kind = value.get("type")
    return kind if type(kind) is str else ""


def index_of(event: dict[str, Any]) -> int:
    """The place of the block an event is about; what names none is about the first."""
    index = event.get("index")
    return index if type(index) is int and index >= 0 else 0


def dicts(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a list and their places."""
    return [(number, entry) for number, entry in enumerate(value if type(value) is list else ()) if type(entry) is dict]

"""What the routes of the log take and answer, as JSON Schema, for the OpenAPI document: built from what `present` and `filters`
go by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .filters import CACHE_VALUES, DEFAULT_LIMIT, ENVIRONMENTS, MAX_LIMIT, MAX_TEXT
from .present import CONTENT, FIELDS

_NUMBERS = {"first_token_ms", "duration_ms"}
_INTEGERS = {
    "status", "attempts", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
}  # fmt: skip
_ANYTHING = {"metadata", "finish_reasons", "attributes", *CONTENT}
_MOMENT = {"type": "string", "description": "ISO 8601, UTC unless it says otherwise, or seconds since 1970."}


def _field(name: str) -> dict[str, Any]:
    if name in _ANYTHING:
        return {}
    if name == "started_at":
        return {"type": ["string", "null"], "format": "date-time"}
    kinds = {"stream": "boolean"} | dict.fromkeys(_NUMBERS, "number") | dict.fromkeys(_INTEGERS, "integer")
    return {"type": [kinds.get(name, "string"), "null"]}


def _row(names: Iterable[str]) -> dict[str, Any]:
    fields = {name: _field(name) for name in names}
    return {"type": "object", "required": list(fields), "properties": fields, "additionalProperties": False}


GENERATION = _row(FIELDS)
"""One row, with what was asked and answered where that is kept."""
GENERATIONS = {
    "type": "object",
    "required": ["object", "data", "has_more", "next"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": _row(name for name in FIELDS if name not in CONTENT)},
        "has_more": {"type": "boolean"},
        "next": {"type": ["string", "null"], "description": "What to give as `after` for the next page."},
    },
    "additionalProperties": False,
}
QUERY = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "description": "As asked for, or as it was served."},
        "provider": {"type": "string"},
        "user_id": {"type": "string"},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "cache": {"enum": list(CACHE_VALUES)},
        "environment": {"enum": list(ENVIRONMENTS), "default": "live"},
        "from": {**_MOMENT, "description": f"From this moment on. {_MOMENT['description']}"},
        "to": {**_MOMENT, "description": f"Before this moment. {_MOMENT['description']}"},
        "q": {"type": "string", "maxLength": MAX_TEXT, "description": "Text in what was asked or answered."},
        "project": {"type": "string", "description": "For admin keys only; a project's key sees its own."},
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "after": {"type": "string", "description": "Where the page before ended: its `next`, or the request_id of its last row."},
    },
}
"""Besides them `metadata.KEY` for any member of the metadata."""

"""The model list in the three formats clients know. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Format


def _object(**members: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(members), "properties": members, "additionalProperties": False}


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_OPENAI = _object(id=_TEXT, object={"const": "model"}, created={"type": "integer"}, owned_by=_TEXT)
_ANTHROPIC = _object(type={"const": "model"}, id=_TEXT, display_name=_TEXT, created_at=_TEXT)
_GEMINI = _object(name=_TEXT, displayName=_TEXT, supportedGenerationMethods=_TEXTS)
_END = {"type": ["string", "null"]}
MODEL = {"oneOf": [_OPENAI, _ANTHROPIC, _GEMINI]}
"""The JSON Schema of `model_object`."""
MODELS = {
    "oneOf": [
        _object(object={"const": "list"}, data={"type": "array", "items": _OPENAI}),
        _object(data={"type": "array", "items": _ANTHROPIC}, has_more={"type": "boolean"}, first_id=_END, last_id=_END),
        _object(models={"type": "array", "items": _GEMINI}),
    ]
}
"""The JSON Schema of `model_list`."""


def model_list(models: Sequence[tuple[str, str]], format: Format) -> dict[str, Any]:
    """(name, provider) pairs as OpenAI's, Anthropic's or Google's list."""
    items = [model_object(name, provider, format) for name, provider in models]
    if format == "gemini":
        return {"models": items}
    if format == "anthropic":
        first = items[0]["id"] if items else None
        return {"data": items, "has_more": False, "first_id": first, "last_id": items[-1]["id"] if items else None}
    return {"object": "list", "data": items}


def model_object(name: str, provider: str, format: Format) -> dict[str, Any]:
    """One model in the caller's format. `created` is 0: a gateway does not know when a provider made its model."""
    if format == "gemini":
        methods = ["generateContent", "streamGenerateContent", "countTokens"]
        return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}
    if format == "anthropic":
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}

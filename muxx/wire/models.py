"""The model list in the three formats clients know. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Format


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

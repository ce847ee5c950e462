"""The model list in the three formats clients know, chosen by the headers their SDKs send. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_list(models: Sequence[tuple[str, str]], headers: Mapping[str, str]) -> dict[str, Any]:
    """(name, provider) pairs as OpenAI's, Anthropic's (`anthropic-version`) or Google's (`x-goog-api-key`) list."""
    items = [model_object(name, provider, headers) for name, provider in models]
    if "x-goog-api-key" in headers:
        return {"models": items}
    if "anthropic-version" in headers:
        first = items[0]["id"] if items else None
        return {"data": items, "has_more": False, "first_id": first, "last_id": items[-1]["id"] if items else None}
    return {"object": "list", "data": items}


def model_object(name: str, provider: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """One model in the caller's format. `created` is 0: a gateway does not know when a provider made its model."""
    if "x-goog-api-key" in headers:
        return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}
    if "anthropic-version" in headers:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}

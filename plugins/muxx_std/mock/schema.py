"""Example values out of JSON schemas: what a mock model would pass to a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 8
"""How deep an example follows its schema; a recursive schema would have no end."""


def example(schema: Any, root: Any, depth: int = MAX_DEPTH) -> Any:
    """A value that fits a JSON schema, as far as an example without a validator can promise it."""
    if not isinstance(schema, dict) or depth == 0:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return example(schema[key][0], root, depth - 1)
    if isinstance(schema.get("$ref"), str):
        return example(_referred(schema["$ref"], root), root, depth - 1)
    return _of_type(schema, root, depth)


def _referred(reference: str, root: Any) -> Any:
    """What a reference inside the same schema (`#/$defs/Name`) points to, or None."""
    for name in reference.removeprefix("#/").split("/"):
        root = root.get(name) if isinstance(root, dict) else None
    return root


def _of_type(schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    properties = schema.get("properties")
    if kind == "object" or isinstance(properties, dict):
        members = properties.items() if isinstance(properties, dict) else ()
        return {name: example(member, root, depth - 1) for name, member in members}
    if kind == "array":
        return [example(schema["items"], root, depth - 1)] if "items" in schema else []
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"string": "example", "boolean": True}.get(str(kind))

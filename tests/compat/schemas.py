"""JSON schemas as providers take them: a value that fits, and what each vendor refuses in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

EXPECTED = json.loads((Path(__file__).parent / "clients/expected.json").read_text())
"""What the scripts of the clients expect."""

_GOOGLES_WORDS = """
    type format title description nullable enum maxItems minItems properties required minProperties maxProperties minLength
    maxLength pattern example anyOf propertyOrdering property_ordering default items minimum maximum
"""
_GOOGLE = frozenset(_GOOGLES_WORDS.split())
"""All that Google's own schemas say. JSON Schema has words of its own beside them."""
_TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def value_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value that fits a schema, in JSON Schema's words or in Google's; always the same one for a type."""
    if "$ref" in schema:
        _, group, name = schema["$ref"].split("/")
        return value_of(root[group][name], root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return value_of(schema[several][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    match (kind[0] if isinstance(kind, list) else kind).lower():
        case "object":
            return {name: value_of(member, root) for name, member in (schema.get("properties") or {}).items()}
        case "array":
            return [value_of(schema["items"], root)]
        case "integer":
            return EXPECTED["integer"]
        case "number":
            return EXPECTED["integer"] + 0.5
        case "boolean":
            return True
        case _:
            return EXPECTED["string"]


def _schemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """This schema and all in it."""
    yield schema
    inside = [member for group in ("properties", "$defs", "definitions") for member in (schema.get(group) or {}).values()]
    inside += [member for group in ("anyOf", "oneOf", "allOf") for member in schema.get(group) or ()]
    inside += [schema["items"]] if isinstance(schema.get("items"), dict) else []
    for member in inside:
        yield from _schemas(member)


def not_json_schema(schema: Mapping[str, Any]) -> str | None:
    """What OpenAI and Anthropic refuse in every schema: Google's types."""
    wrong = [part["type"] for part in _schemas(schema) if isinstance(part.get("type"), str) and part["type"] not in _TYPES]
    return f"{wrong[0]!r} is not a type of JSON Schema" if wrong else None


def not_closed(schema: Mapping[str, Any]) -> str | None:
    """What Anthropic refuses in the schema of an answer: an object that may have more members than it says."""
    if any(part.get("type") == "object" and part.get("additionalProperties") is not False for part in _schemas(schema)):
        return "'additionalProperties' must be explicitly set to false"
    return None


def not_strict(schema: Mapping[str, Any]) -> str | None:
    """What OpenAI refuses in a strict schema: that, and a member that may be left out."""
    if any(set(part.get("properties") or ()) != set(part.get("required") or ()) for part in _schemas(schema)):
        return "'required' must hold every key of 'properties'"
    return not_closed(schema)


def not_googles(schema: Mapping[str, Any]) -> str | None:
    """What Google refuses in a schema of its own words: a name it does not know."""
    unknown = sorted({name for part in _schemas(schema) for name in part} - _GOOGLE)
    return f"Unknown name: {', '.join(unknown)}" if unknown else None

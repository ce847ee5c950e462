"""Google's own dialect of schemas, in which functions and answers may be described, as JSON Schema."""

from __future__ import annotations

from typing import Any

from .names import camel

_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_MOST_DIGITS = 18
"""Of a number that certainly fits in 64 bits: JSON has no larger ones here."""
_NESTED = frozenset({"items", "additionalProperties"})
_RENAMED = {"ref": "$ref", "defs": "$defs"}
_GOOGLES_ONLY = frozenset({"propertyOrdering", "nullable", "example"})


def json_schema(schema: Any) -> Any:
    """A schema of the dialect as JSON Schema: types in lower case, `nullable` as a type, counts as integers though Google's JSON
    has them as strings. What is JSON Schema already stays; what is no schema at all, too."""
    if type(schema) is not dict:
        return schema
    members = {camel(name): value for name, value in schema.items()}
    converted: dict[str, Any] = {}
    for name, value in members.items():
        if name not in _GOOGLES_ONLY and value is not None:
            converted |= _member(name, value)
    if "example" in members:
        converted["examples"] = [members["example"]]
    return _with_null(converted) if members.get("nullable") is True else converted


def _member(name: str, value: Any) -> dict[str, Any]:
    if name == "type":
        return _type(value)
    if name in _COUNTS:
        is_count = type(value) is str and value.isdecimal() and len(value) <= _MOST_DIGITS
        return {name: int(value) if is_count else value}
    if name == "anyOf" and type(value) is list:
        return {name: [json_schema(entry) for entry in value]}
    if name in ("properties", "defs") and type(value) is dict:
        return {_RENAMED.get(name, name): {key: json_schema(entry) for key, entry in value.items()}}
    return {_RENAMED.get(name, name): json_schema(value) if name in _NESTED else value}


def _type(value: Any) -> dict[str, Any]:
    if type(value) is not str:
        return {"type": value}
    return {} if value.upper() == "TYPE_UNSPECIFIED" else {"type": value.lower()}


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, which null fits, too."""
    if type(kind := schema.get("type")) is str and kind != "null":
        schema = {**schema, "type": [kind, "null"]}
    elif type(options := schema.get("anyOf")) is list:
        schema = {**schema, "anyOf": [*options, {"type": "null"}]}
    if type(values := schema.get("enum")) is list and None not in values:
        schema = {**schema, "enum": [*values, None]}
    return schema

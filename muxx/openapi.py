"""The OpenAPI 3.1 document: every route as it says of itself, and the endpoints and probes that are no `Route`. Pure.

It is for everybody to read, so it holds nothing of the configuration and no version but that of the API.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .bodies import Asked
from .explain import describe, models_in
from .request import Route, Shape
from .wire.wire import Wire
from .wire.wires import BY_NAME

API_VERSION = "1"
OPENAPI_PATH = "/v1/openapi.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Mode = Literal["validation", "serialization"]
_NULL = {"type": "null"}
_ENVELOPES: Mapping[str, dict[str, Any]] = {
    "openai": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
    },
    "anthropic": {"type": {"type": "string"}, "message": {"type": "string"}},
    "gemini": {"code": {"type": "integer"}, "message": {"type": "string"}, "status": {"type": "string"}},
}  # fmt: skip
_ERROR_NAMES = {"openai": "Error", "anthropic": "AnthropicError", "gemini": "GoogleError"}
_CALLS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "chat": ("Ask a model, as OpenAI's chat completions", ("model", "messages")),
    "text_completion": ("Ask a model, as OpenAI's completions", ("model", "prompt")),
    "embeddings": ("Ask for embeddings, as OpenAI's", ("model", "input")),
    "responses": ("Ask a model, as OpenAI's Responses", ("model", "input")),
    "messages": ("Ask a model, as Anthropic's Messages", ("model", "messages", "max_tokens")),
    "count_tokens": ("Count a request's tokens, as Anthropic's", ("model", "messages")),
    "generate_content": ("Ask a model, as Google's; `:streamGenerateContent` streams the answer", ("contents",)),
    "count_content": ("Count a request's tokens, as Google's", ()),
}
"""What each endpoint is, and what a request cannot be without."""
_MEMBERS: Mapping[str, dict[str, Any]] = {
    "model": {"type": "string"},
    "messages": {"type": "array", "minItems": 1},
    "contents": {"type": "array", "minItems": 1},
    "max_tokens": {"type": "integer", "minimum": 1},
    "stream": {"type": "boolean"},
}
_REFUSALS = {
    "400": ("Invalid", "Something in the request is wrong; `param` names it."),
    "401": ("Unauthenticated", "There is no key, or none that works."),
    "403": ("AdminRequired", "This needs an admin key."),
    "404": ("NotFound", "There is no such thing, or it belongs to another project."),
    "default": ("Failed", "What else went wrong."),
}
_IN_CALLERS_FORMAT = ("/v1/models", "/v1beta/")
_CALL_HEADERS = {
    "X-Muxx-Metadata": "A JSON object that is stored with the row, at most 4 KiB and 64 members.",
    "X-Muxx-Cache-Control": "`no-cache`, `no-store`, `max-age=N`, `only-if-cached`, as RFC 9111 has them.",
    "X-Muxx-User-Id": "The end user, for the limits of each user.",
}


async def written(routes: Iterable[Route], probes: Iterable[str]) -> bytes:
    """The document as JSON. It is made in a thread, for it takes longer than an event loop may be held; what checks the models
    is built here before, one at a time, for requests build it too."""
    routes = tuple(routes)
    for cls, _ in _modelled(routes):
        cls.model_rebuild()
        await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: orjson.dumps(document(routes, probes)))


def document(routes: Iterable[Route], probes: Iterable[str]) -> dict[str, Any]:
    """The document of these routes, of the endpoints of LLMs, and of the paths that say whether the process is well."""
    shapes = _Shapes(routes := tuple(routes))
    paths: dict[str, dict[str, Any]] = {}
    for wire in BY_NAME.values():
        paths.setdefault(wire.path, {})["post"] = _call(wire)
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    for path in probes:
        paths[path] = {"get": _probe(path)}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": "muxx", "version": API_VERSION, "description": "An LLM gateway: its endpoints and its management."},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": shapes.definitions | {_ERROR_NAMES[name]: _error_schema(name) for name in _ENVELOPES},
            "responses": _refusal_components(),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Muxx-Api-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "headers": {"RequestId": {"description": "The request's id.", "required": True, "schema": {"type": "string"}}},
        },
        "security": [{"key": []}, {"bearer": []}],
    }


# ── a route ──


def _operation(route: Route, shapes: _Shapes) -> dict[str, Any]:
    summary, description = _words(route)
    needs = {"public": "Nobody needs a key.", "project": "Any key.", "admin": "Admin keys only."}[route.role]
    found: dict[str, Any] = {
        "operationId": _operation_id(route.method, route.path),
        "tags": [_tag(route.path)],
        "summary": summary,
        "description": " ".join(filter(None, (description, needs))),
        "x-muxx-role": route.role,
        "responses": {str(route.status): _success(route, shapes), **_refusals(route)},
    }
    if route.role == "public":
        found["security"] = []
    if parameters := [*_in_path(route.path), *shapes.parameters(route.query)]:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": _json(shapes.of(route.body, "validation"))}
    return found


def _success(route: Route, shapes: _Shapes) -> dict[str, Any]:
    schema = shapes.of(route.answer, "serialization")
    content = {kind: {"schema": schema} if kind == "application/json" else {} for kind in route.content_types}
    return {**_answer("It was done.", schema), "content": content}


def _refusals(route: Route) -> dict[str, Any]:
    if route.path.startswith(_IN_CALLERS_FORMAT):
        return {"default": {"$ref": "#/components/responses/FailedInCallersFormat"}}
    told = {
        "400": route.body is not None or route.query is not None,
        "401": route.role != "public",
        "403": route.role == "admin",
        "404": "{" in route.path,
        "default": True,
    }
    return {status: {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"} for status, applies in told.items() if applies}


def _refusal_components() -> dict[str, Any]:
    any_error = {"oneOf": [_reference(name) for name in _ERROR_NAMES.values()]}
    return {
        **{name: _answer(words, _reference("Error")) for name, words in _REFUSALS.values()},
        "FailedInCallersFormat": _answer("What went wrong, as the caller's SDK reads it.", any_error),
    }


def _words(route: Route) -> tuple[str, str]:
    """What a route does, in a line, and what more there is to say of it."""
    text = " ".join((inspect.getdoc(route.handler) or "").split("\n\n")[0].split())
    first, _, rest = text.partition(". ")
    return (route.summary, text) if route.summary else (first.removesuffix("."), rest)


def _operation_id(method: str, path: str) -> str:
    return re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_")


def _tag(path: str) -> str:
    return next((piece for piece in path.split("/")[2:] if piece), "muxx")


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"\{([a-z_]+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names]


# ── schemas ──


class _Shapes:
    """The models of all routes as components."""

    def __init__(self, routes: Iterable[Route]) -> None:
        wanted = _modelled(routes)
        self._references, schema = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
        self.definitions: dict[str, Any] = schema.get("$defs", {})
        for cls, mode in wanted:
            describe(self._definition(cls, mode).get("properties", {}), cls)

    def of(self, shape: Shape, mode: Mode) -> dict[str, Any]:
        if shape is None:
            return {}
        return dict(shape) if isinstance(shape, Mapping) else self._references[shape, mode]

    def parameters(self, query: Shape) -> list[dict[str, Any]]:
        if query is None or query is Asked:
            return []
        schema = query if isinstance(query, Mapping) else self._definition(query, "validation")
        required = schema.get("required", ())
        return [_parameter(name, found, name in required) for name, found in schema.get("properties", {}).items()]

    def _definition(self, cls: type[BaseModel], mode: Mode) -> dict[str, Any]:
        name: str = self._references[cls, mode]["$ref"].rpartition("/")[2]
        definition: dict[str, Any] = self.definitions[name]
        return definition


def _modelled(routes: Iterable[Route]) -> list[tuple[type[BaseModel], Mode]]:
    """Every model of the routes, and what it is there for."""
    wanted: dict[tuple[type[BaseModel], Mode], None] = {}
    for route in routes:
        for shape, mode in _modes(route):
            wanted |= {(cls, mode): None for cls in models_in(shape)}
    return list(wanted)


def _modes(route: Route) -> Iterable[tuple[type[BaseModel], Mode]]:
    given: tuple[tuple[Shape, Mode], ...]
    given = (route.body, "validation"), (route.query, "validation"), (route.answer, "serialization")
    return [(shape, mode) for shape, mode in given if isinstance(shape, type) and shape is not Asked]


def _parameter(name: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    """A query parameter. It is there or not, and never null."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "description", "anyOf", "default")}
    options = [option for option in schema.get("anyOf", ()) if option != _NULL]
    if schema.get("default") is not None:
        kept["default"] = schema["default"]
    found = {"name": name, "in": "query", "required": required, "schema": kept | (options[0] if len(options) == 1 else {})}
    return found | ({"description": schema["description"]} if "description" in schema else {})


def _error_schema(format: str) -> dict[str, Any]:
    members = _ENVELOPES[format]
    inner: dict[str, Any] = {"type": "object", "required": list(members), "properties": members}
    outer: dict[str, Any] = {"error": inner}
    if format == "anthropic":
        outer |= {"type": {"const": "error"}, "request_id": {"type": "string"}}
    return {"type": "object", "required": list(outer), "properties": outer, "additionalProperties": False}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": dict(schema)}}


def _answer(words: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"X-Muxx-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    return {"description": words, "headers": headers, "content": _json(schema)}


# ── what is no route ──


def _call(wire: Wire) -> dict[str, Any]:
    """An endpoint of LLMs: what muxx itself looks at in a request; everything else is the provider's."""
    summary, asked = _CALLS[wire.name]
    names = [*asked, *(["stream"] if wire.streams and "{" not in wire.path else [])]
    schema = {"type": "object", "required": list(asked), "properties": {name: _MEMBERS.get(name, {}) for name in names}}
    answer = _answer("The model's answer, in the format of this endpoint.", {})
    if wire.streams:
        answer["content"]["text/event-stream"] = {}
    headers = [
        {"name": name, "in": "header", "required": False, "description": words, "schema": {"type": "string"}}
        for name, words in _CALL_HEADERS.items()
    ]
    return {
        "operationId": _operation_id("POST", wire.path),
        "tags": ["models"],
        "summary": summary,
        "description": "Keys of projects only. Members that are not listed are passed to the provider.",
        "x-muxx-role": "project_only",
        "parameters": [*_in_path(wire.path), *headers],
        "requestBody": {"required": True, "content": _json(schema)},
        "responses": {"200": answer, "default": _answer("What went wrong.", _reference(_ERROR_NAMES[wire.format]))},
    }


def _probe(path: str) -> dict[str, Any]:
    status = {"type": "object", "required": ["status"], "properties": {"status": {"enum": ["ok", "unavailable"]}}}
    ready = path.startswith("/ready")
    answers = {"200": _answer("It is.", status)} | ({"503": _answer("It is not.", status)} if ready else {})
    return {
        "operationId": _operation_id("GET", path),
        "tags": ["health"],
        "summary": "Whether it takes requests" if ready else "Whether the process is up",
        "x-muxx-role": "public",
        "security": [],
        "responses": {**answers, "default": {"$ref": "#/components/responses/Failed"}},
    }

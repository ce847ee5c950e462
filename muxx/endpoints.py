"""The table of routes: the kernel's own model list, and what plugins serve. Frozen at start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from .errors import MethodNotAllowed, ModelNotFound, NotFound, PluginLoadError
from .openapi import OPENAPI_PATH, written
from .reply import Reply
from .request import HttpRequest, Route
from .routing import targets_of
from .wire.gemini.paths import ACTIONS
from .wire.models import MODEL, MODELS, model_list, model_object
from .wire.wires import BY_NAME, format_at, named_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .gateway import Gateway
    from .targets import Format, Target

KERNEL_PATHS = {wire.path: "POST" for wire in BY_NAME.values()}
"""Paths served outside the table, and by which method."""

_ACTION = re.compile(r"/v1(?:beta)?/models/.+:[A-Za-z]+")
"""Google's way to name what is asked of a model."""

_ASTRAY = (
    (
        re.compile(r"/v1(?:beta)?/v1(?:beta)?/"),
        "The path has the version twice. Take /v1 off the end of the base URL: this SDK adds it by itself.",
    ),
    (
        re.compile(r".*/(chat/completions|completions|responses|embeddings|messages)(?:/v1)?/\1"),
        "The path has the endpoint twice. End the base URL before it: at /v1 for OpenAI's SDKs, before that for others.",
    ),
    (
        re.compile(r"/openai/(?!v1/)|/(?:v1/)?deployments/"),
        "This is a path of Azure's. muxx has OpenAI's own, for Azure's models too: make the SDK's OpenAI client instead of its"
        " AzureOpenAI, with a base URL that ends in /v1.",
    ),
    (
        re.compile(r".*/publishers/[^/]+/models/"),
        "This is a path of Vertex AI's. muxx has those of the Gemini API: make the SDK's client without vertexai.",
    ),
    (
        re.compile(r"/v1alpha/"),
        "muxx has Google's API as v1beta and as v1, not as v1alpha. Take api_version out of the options of the SDK's client.",
    ),
    (
        re.compile(r"/models/.+:[A-Za-z]+"),
        "The path has no version. End the base URL in /v1beta: this client does not add it by itself.",
    ),
)
"""Where clients look that were made for another place, or given a wrong base URL, and how they find back."""

_SERVED_BEHIND = re.compile(r".+?(/v1(?:beta)?/.*)")

_UNDER_A_VERSION = re.compile(r"(?:/upload)?/v1(?:beta)?/")
"""Where vendors have endpoints. Google's take files behind a word of their own."""

_SLASHES = re.compile(r"(/v1(?:beta)?/models/)((?:(?!\.{1,2}/)[^/]+/)+(?!\.{1,2}$)[^/]+)")
"""A model's name with slashes, which Google's SDKs do not escape."""

HEALTH_PATHS = ("/healthz", "/health", "/readyz", "/ready")


def refuse_reserved(gateway: Gateway) -> None:
    """Raise for a plugin's route whose path is the kernel's: before a gateway starts, so that nothing has to be undone."""
    for route in gateway.routes:
        if route.path in RESERVED_PATHS:
            text = f"it serves {route.path}, which is the kernel's; give its route another path"
            raise PluginLoadError(gateway.plugin_of_route[f"{route.method} {route.path}"], text)


class Table:
    """(method, raw path) to a route. `{name}` in a route stands for one segment, decoded only after it has been found."""

    def __init__(self, gateway: Gateway) -> None:
        described = Route("GET", OPENAPI_PATH, self._show_document, "public", answer={"type": "object"})
        self.routes = (*KERNEL_ROUTES, described, *gateway.routes)
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._document: bytes | None = None
        refuse_reserved(gateway)
        for route in self.routes:
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), route))
            else:
                self._exact.setdefault(route.path, {})[route.method] = route

    async def _show_document(self, gateway: Gateway, request: HttpRequest) -> Reply:
        """This document: every route, who may call it, what it takes and what it answers."""
        if self._document is None:
            self._document = await written(self.routes, HEALTH_PATHS)
        return Reply(self._document)

    def find(self, method: str, path: str, format: Format = "openai") -> tuple[Route, Mapping[str, str]]:
        """The route and its decoded parameters; `NotFound`, or 405 when only the method is wrong. `format` is the caller's."""
        if named_in(path) is not None:  # what is asked of a model is no part of its name, which a GET would show
            raise MethodNotAllowed({"POST"})
        allowed: dict[str, tuple[Route, Mapping[str, str]]]
        allowed = {route.method: (route, {}) for route in self._exact.get(path, {}).values()}
        for pattern, route in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None and route.method not in allowed:
                allowed[route.method] = route, {name: unquote(value) for name, value in found.groupdict().items()}
        if method in allowed:
            return allowed[method]
        if format == "gemini" and (name := _SLASHES.fullmatch(path)) is not None:
            return self.find(method, name[1] + name[2].replace("/", "%2F"))
        ways = {*allowed, "POST"} if path in KERNEL_PATHS else set(allowed)
        if ways and not (method == "POST" and ways == {"GET"} and _ACTION.fullmatch(path)):
            raise MethodNotAllowed(ways)
        raise nothing_at(path)


def nothing_at(path: str) -> NotFound:
    """The 404 of this path. SDKs show nothing else, so it tells a wrong base URL from an endpoint that is not served."""
    for place, advice in _ASTRAY:
        if place.match(path):
            return NotFound(advice)
    behind = _SERVED_BEHIND.fullmatch(path)
    if behind is not None and (behind[1] in KERNEL_PATHS or named_in(behind[1]) is not None):
        return NotFound("The base URL has something between the gateway's address and /v1 or /v1beta. Take it out.")
    if path.rpartition(":")[2] in ACTIONS:
        advice = "Some SDKs leave that out of a name with a slash: write models/NAME."
        return NotFound(f"The path has to name the model behind /models/. {advice}")
    if _UNDER_A_VERSION.match(path):
        return NotFound(f"muxx does not serve this endpoint. GET {OPENAPI_PATH} lists those that it does.")
    return NotFound()


def _pattern(path: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{[a-z_]+\})", path)
    return re.compile("".join(f"(?P<{p[1:-1]}>[^/]+)" if p.startswith("{") else re.escape(p) for p in pieces))


async def list_models(gateway: Gateway, request: HttpRequest) -> Reply:
    """The models this key may use, in the caller's format, names without a wildcard first."""
    return Reply.json(model_list(usable_models(gateway, request), format_at(request.path, request.headers)))


async def show_model(gateway: Gateway, request: HttpRequest) -> Reply:
    """One model by its id. One that this key may not use is answered as a name nobody serves."""
    name = request.params["id"]
    targets = _usable_targets(gateway, request, name)
    if not targets:
        raise ModelNotFound("No such model here. GET /v1/models lists what this key may use.", param="model")
    return Reply.json(model_object(name, targets[0].provider.name, format_at(request.path, request.headers)))


def usable_models(gateway: Gateway, request: HttpRequest) -> list[tuple[str, str]]:
    """(name, provider) of every listed model the caller may use."""
    identity = request.identity
    paid = gateway.projects.provider_keys(identity.project) if identity is not None else ()
    allowed = identity.models if identity is not None else ()
    found = ((name, _usable_targets(gateway, request, name)) for name in gateway.routing.names(paid, allowed))
    return [(name, targets[0].provider.name) for name, targets in found if targets]


def _usable_targets(gateway: Gateway, request: HttpRequest, name: str) -> tuple[Target, ...]:
    """The targets that a call of this name has for this key; none where the key may not use it."""
    allowed = request.identity.models if request.identity is not None else ()
    return targets_of(gateway.plan(name), allowed, name)


KERNEL_ROUTES = (
    Route("GET", "/v1/models", list_models, answer=MODELS),
    Route("GET", "/v1/models/{id}", show_model, answer=MODEL),
    Route("GET", "/v1beta/models", list_models, answer=MODELS),
    Route("GET", "/v1beta/models/{id}", show_model, answer=MODEL),
)

RESERVED_PATHS = frozenset({*KERNEL_PATHS, OPENAPI_PATH, *HEALTH_PATHS, *(route.path for route in KERNEL_ROUTES)})

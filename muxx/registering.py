"""What plugins register at the start, looked at item by item: what could not work is refused in the plugin's name.

A start that fails at nobody's door is tried again and again by those who watch over its processes, and a role that nobody knows
would open a route to every key.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic import BaseModel

from .configtypes import NAME, NAME_WORDS, EndpointName, is_web_address
from .errors import PluginLoadError
from .plugins import PluginSet
from .request import Method, Role, Route
from .targets import OnUnsupported, Provider

if TYPE_CHECKING:
    from .transport import Transport


_NAMED = re.compile(r"\{[a-z_]+\}")
"""A segment of a route's path that may be anything."""

UNSUPPORTED = get_args(OnUnsupported)

HTTP = "http"
"""The transport of providers that name no other."""


class Registered(NamedTuple):
    """What `register_providers` gave, by name."""

    providers: Mapping[str, Provider]
    transports: Mapping[str, tuple[str, Transport]]
    """Each with the name of its plugin."""
    plugins: Mapping[str, str]
    """Whose each of the providers is."""


def registered_providers(plugins: PluginSet, gateway: Any) -> Registered:
    """Every plugin's; of rows with one name that of the first in calling order wins. `gateway`: None to check the file alone."""
    rows: dict[str, tuple[str, Provider]] = {}
    transports: dict[str, tuple[str, Transport]] = {}
    for plugin, item in plugins.registered("register_providers", gateway=gateway):
        match item:
            case Provider():
                rows[item.name] = plugin, item
            case (str() as name, transport) if _carries(transport):
                if name == HTTP or transports.setdefault(name, (plugin, transport))[1] is not transport:
                    whose = "muxx's own" if name == HTTP else f"that of plugin {transports[name][0]!r}"
                    raise PluginLoadError(plugin, f"it brings a transport {name!r}, which is the name of {whose}; rename it")
            case _:
                text = f"its register_providers gives a {type(item).__name__}"
                raise PluginLoadError(plugin, f"{text}; give muxx.Provider rows and (name, transport) pairs")
    for plugin, row in rows.values():
        if (problem := _problem_of_row(row, {HTTP, *transports})) is not None:
            raise PluginLoadError(plugin, f"its provider {row.name!r} {problem}")
    plugin_of = {name: plugin for name, (plugin, _) in rows.items()}
    return Registered({name: row for name, (_, row) in rows.items()}, transports, plugin_of)


def _problem_of_row(row: Provider, transports: set[str]) -> str | None:
    """What the same row in the file would be refused for, and a transport that is not there."""
    known = get_args(EndpointName)
    if not re.fullmatch(NAME, row.name):
        return f"has a name that no model can be asked for by; {NAME_WORDS}"
    if row.transport not in transports:
        return f"names the transport {row.transport!r}, which no plugin brings; give ({row.transport!r}, transport) beside it"
    if isinstance(row.endpoints, str) or (unknown := [name for name in row.endpoints if name not in known]):
        named = repr(row.endpoints) if isinstance(row.endpoints, str) else ", ".join(map(repr, unknown))
        return f"has endpoints that are none: {named}; give a tuple of: {', '.join(known)}"
    if row.on_unsupported not in UNSUPPORTED:
        return f"has the on_unsupported {row.on_unsupported!r}; it may be one of: {', '.join(UNSUPPORTED)}"
    if row.transport == HTTP and not (row.address_env and row.base_url.startswith("/")) and not is_web_address(row.base_url):
        return f"has the base_url {row.base_url!r}; it must be an http:// or https:// URL with a host"
    return None


def _carries(transport: Any) -> bool:
    return callable(getattr(transport, "send", None)) and callable(getattr(transport, "close", None))


def registered_routes(plugins: PluginSet, gateway: Any) -> dict[tuple[str, str], tuple[str, Route]]:
    """Every plugin's, with its plugin's name, by method and path, in which the names of segments do not count."""
    routes: dict[tuple[str, str], tuple[str, Route]] = {}
    for plugin, route in plugins.registered("register_routes", gateway=gateway):
        if (problem := _problem_of(route)) is not None:
            raise PluginLoadError(plugin, problem)
        there = routes.setdefault((route.method, _NAMED.sub("{}", route.path)), (plugin, route))
        if there[1] is not route:
            text = f"it serves {route.method} {route.path}, and so does plugin {there[0]!r}"
            raise PluginLoadError(plugin, f"{text}; give one another path, or switch one off")
    return routes


def _problem_of(route: Any) -> str | None:
    if not isinstance(route, Route):
        return f"its register_routes gives a {type(route).__name__}; give muxx.Route"
    for what, value, known in (("role", route.role, get_args(Role)), ("method", route.method, get_args(Method))):
        if value not in known:
            return f"its route {route.path} has the {what} {value!r}; it may be one of: {', '.join(known)}"
    if not route.path.startswith("/"):
        return f"its route {route.path!r} is no path; begin it with a slash"
    names = _NAMED.findall(route.path)
    if set("{}") & set(_NAMED.sub("", route.path)) or len(names) != len(set(names)):
        return f"its route {route.path} cannot be read; name each segment once, in small letters, as in /v1/things/{{name}}"
    for what, shape in (("body", route.body), ("query", route.query), ("answer", route.answer)):
        if not (shape is None or isinstance(shape, Mapping) or (isinstance(shape, type) and issubclass(shape, BaseModel))):
            return f"its route {route.path} has {shape!r} for its {what}; give a pydantic model or a JSON Schema"
    if not callable(route.handler):
        return f"its route {route.path} has no handler; give it an `async def handler(gateway, request)`"
    if not _takes_a_request(route.handler):
        return f"the handler of its route {route.path} cannot be called; make it an `async def handler(gateway, request)`"
    return None


def _takes_a_request(handler: Any) -> bool:
    """Whether a handler's reply could be awaited. Of what is no function nothing can be known."""
    function = handler.func if isinstance(handler, partial) else handler
    if (inspect.isfunction(function) or inspect.ismethod(function)) and not inspect.iscoroutinefunction(function):
        return False
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        pass  # it has none to look at
    return True

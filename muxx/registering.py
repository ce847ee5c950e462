"""What plugins register at the start, looked at item by item: what could not work is refused in the plugin's name.

A start that fails at nobody's door is tried again and again by those who watch over its processes, and a role that nobody knows
would open a route to every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from .errors import PluginLoadError
from .plugins import PluginSet
from .request import Method, Role, Route
from .targets import Provider

if TYPE_CHECKING:
    from .transport import Transport


class Registered(NamedTuple):
    """What `register_providers` gave, by name."""

    providers: Mapping[str, Provider]
    transports: Mapping[str, Transport]


def registered_providers(plugins: PluginSet, gateway: Any) -> Registered:
    """Every plugin's; of those with one name the first in calling order wins. `gateway`: None to check the file alone."""
    providers: dict[str, Provider] = {}
    transports: dict[str, Transport] = {}
    for plugin, item in plugins.registered("register_providers", gateway=gateway):
        match item:
            case Provider():
                providers[item.name] = item
            case (str() as name, transport) if _carries(transport):
                transports[name] = transport
            case _:
                text = f"its register_providers gives a {type(item).__name__}"
                raise PluginLoadError(plugin, f"{text}; give muxx.Provider rows and (name, transport) pairs")
    return Registered(providers, transports)


def _carries(transport: Any) -> bool:
    return callable(getattr(transport, "send", None)) and callable(getattr(transport, "close", None))


def registered_routes(plugins: PluginSet, gateway: Any) -> dict[tuple[str, str], tuple[str, Route]]:
    """Every plugin's, with its plugin's name, by method and path."""
    routes: dict[tuple[str, str], tuple[str, Route]] = {}
    for plugin, route in plugins.registered("register_routes", gateway=gateway):
        if (problem := _problem_of(route)) is not None:
            raise PluginLoadError(plugin, problem)
        there = routes.setdefault((route.method, route.path), (plugin, route))
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
    if not callable(route.handler):
        return f"its route {route.path} has no handler; give it an `async def handler(gateway, request)`"
    return None

"""What a careful reader would say of a plugin's source: nothing that muxx refuses, and much that it would suffer from."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from muxx.config import PluginConfig
from muxx.explain import json_schema
from muxx.hookspecs import HOOK_NAMES, REQUEST_HOOKS

from .state import CONTAINERS, modules_of

BLOCKING = {
    "time.sleep": "asyncio.sleep in an `async def`",
    "urllib.request.urlopen": "`gateway.http`",
    "requests.get": "`gateway.http`",
    "requests.post": "`gateway.http`",
    "requests.request": "`gateway.http`",
    "httpx.get": "`gateway.http`",
    "httpx.post": "`gateway.http`",
    "subprocess.run": "asyncio.create_subprocess_exec",
    "subprocess.check_output": "asyncio.create_subprocess_exec",
    "os.system": "asyncio.create_subprocess_exec",
    "socket.create_connection": "asyncio.open_connection",
    "sqlite3.connect": "`gateway.db`",
    "open": "reading once, in `lifespan`, or asyncio.to_thread",
}
"""Calls that hold up every request of the process while they wait, and what to use instead."""

SECRETIVE = re.compile(r"(?:^|_)(?:key|token|secret|password|credential)s?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """A piece of advice: `rule` names its kind."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


def advice(plugin: type, name: str) -> Iterator[Finding]:
    """All that can be said without running the plugin."""
    yield from _hooks(plugin)
    yield from _settings(plugin, name)
    yield from _state(plugin)
    yield from _tables(plugin, name)
    yield from _imports(plugin)


def _hooks(plugin: type) -> Iterator[Finding]:
    for attribute, value in _methods(plugin):
        marked = hasattr(value, "muxx_impl")
        near = difflib.get_close_matches(attribute, HOOK_NAMES, 1, 0.8)
        if not marked and near and attribute not in HOOK_NAMES:
            yield Finding("unmarked", f"{attribute}() looks like {near[0]} and is no hook; rename it, or mark it @muxx.hookimpl")
        hook = (value.muxx_impl or {}).get("specname") or attribute if marked else ""
        if hook in REQUEST_HOOKS:
            for call in _blocking_calls(value):
                yield Finding("blocks", f"{attribute}() calls {call}, which holds up every request: use {BLOCKING[call]}")


def _methods(plugin: type) -> Iterator[tuple[str, Any]]:
    for attribute in dir(plugin):
        value = inspect.getattr_static(plugin, attribute)
        if inspect.isfunction(value) and not attribute.startswith("_"):
            yield attribute, value


def _blocking_calls(function: Any) -> list[str]:
    return sorted({ast.unparse(node.func) for node in _tree(function) if isinstance(node, ast.Call)} & BLOCKING.keys())


def _tree(thing: Any) -> Iterator[ast.AST]:
    """Every node of a function's or a module's source; none where there is no source."""
    try:
        yield from ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError):
        return


def _settings(plugin: type, name: str) -> Iterator[Finding]:
    config: type[PluginConfig] = getattr(plugin, "Config", PluginConfig)
    properties = _properties(config, name)
    for option, field in config.model_fields.items():
        if option in PluginConfig.model_fields:
            continue
        if not properties.get(option, {}).get("description"):
            yield Finding("undescribed", f"Config.{option} says nothing of itself: put a docstring under it")
        if SECRETIVE.search(option) and field.annotation in (str, str | None):
            yield Finding("secret", f"Config.{option} is plain text: give it the type pydantic.SecretStr, which does not print")


def _properties(config: type[BaseModel], name: str) -> dict[str, Any]:
    schema = json_schema({name: config})  # type: ignore[dict-item]
    own = schema["$defs"]["PluginsConfig"]["properties"][name]["$ref"].rpartition("/")[2]
    properties: dict[str, Any] = schema["$defs"][own].get("properties", {})
    return properties


def _state(plugin: type) -> Iterator[Finding]:
    for cls in plugin.__mro__[:-1]:
        for attribute, value in vars(cls).items():
            if isinstance(value, CONTAINERS) and not attribute.startswith("__"):
                place, kind = f"{cls.__name__}.{attribute}", type(value).__name__
                yield Finding("shared", f"{place} is a {kind} on the class, which gateways share: make it in __init__")
    for module in modules_of(plugin):
        if any(isinstance(node, ast.Global) for node in _tree(module)):
            yield Finding("shared", f"{module.__name__} uses `global`, and gateways share it: keep state in the instance")


def _tables(plugin: type, name: str) -> Iterator[Finding]:
    begin = re.sub(r"\W", "_", name)
    for migration in getattr(plugin, "migrations", ()):
        for table in re.findall(r"CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?[\"'`\[]?(\w+)", migration.sql, re.I):
            if not table.startswith(begin):
                yield Finding("table", f"table {table} does not begin with the plugin's name: call it {begin}_{table}")


def _imports(plugin: type) -> Iterator[Finding]:
    for module in modules_of(plugin):
        for node in _tree(module):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for imported in names:
                if imported.startswith("muxx.") and not imported.startswith("muxx.testing"):
                    yield Finding("private", f"{module.__name__} imports {imported}, which is not public: import from muxx")

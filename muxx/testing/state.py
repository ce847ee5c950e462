"""State that a plugin keeps where two gateways would share it: on its classes, and in its modules."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

CONTAINERS = (dict, list, set, bytearray, deque)


def modules_of(plugin: type) -> list[ModuleType]:
    """The plugin's modules: those of its package, or the one file it is."""
    package = plugin.__module__.rpartition(".")[0] or plugin.__module__
    names = [name for name in sys.modules if name == plugin.__module__ or name == package or name.startswith(package + ".")]
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def shared_state(plugin: type) -> dict[str, str]:
    """Every container at the level of a module or a class of the plugin, by its qualified name, as text to be compared."""
    found = {}
    for module in modules_of(plugin):
        for name, value in _held(module.__name__, vars(module)):
            found[name] = repr(value)
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                found |= {name: repr(item) for name, item in _held(value.__qualname__, vars(value))}
    for cls in plugin.__mro__[:-1]:  # one that was made inside a function stands in no module
        found |= {name: repr(item) for name, item in _held(cls.__qualname__, vars(cls))}
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What has changed between two looks. What appears in between was loaded late, and that is no change."""
    return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])


def _held(owner: str, namespace: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(namespace.items()):
        if isinstance(value, CONTAINERS) and not name.startswith("__"):
            yield f"{owner}.{name}", value

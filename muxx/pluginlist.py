"""What `muxx plugins` says: every plugin there is, whether it is on, why not, and who is called when.

A plugin that is broken stops every start. Here it is a row with its reason, for this is where one looks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from .config import Config
from .configfile import load_config
from .discovery import Candidate, Found, candidates, chosen, config_classes, imported
from .errors import PluginLoadError
from .plugins import Chain, PluginSet, build

State = Literal["on", "off", "left out", "broken"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of `muxx plugins`."""

    name: str
    version: str | None
    order: int | None
    """Its place among those that are on, 1 first; a hook of its own may say otherwise (`Survey.chains`)."""
    hooks: list[str]
    """Those it implements; none of a plugin that is not on, for nobody has looked."""
    origin: str
    """The distribution, or the file."""
    state: State
    reason: str | None = None
    """Why it is not on."""


class Survey(NamedTuple):
    rows: list[Listed]
    """Those that are on in calling order, then the others by name."""
    chains: Mapping[str, Chain]
    """Of each hook that runs in an order: who implements it, in that order."""

    @property
    def broken(self) -> list[str]:
        """Why a start would be refused, a sentence per plugin."""
        return [row.reason or "" for row in self.rows if row.state == "broken"]


def survey(path: Path | None, plugins_dir: Path | None) -> Survey:
    """Look at every plugin. Raises `StartError` for what is no plugin's fault, such as a wrong configuration."""
    there = candidates(plugins_dir)
    kept = chosen(there)
    found = imported(kept)
    config = load_config(path, config_classes(found), plugins_dir=plugins_dir)
    plugins, broken = _build_what_can_be(found, config)
    on = [
        Listed(plugin.name, plugin.version, place, list(plugin.hooks), plugin.origin, "on")
        for place, plugin in enumerate(reversed(plugins.plugins), start=1)
    ]
    others = [
        *(_listed(item, "broken", str(broken[item.name])) for item in found if item.name in broken),
        *(_switched_off(item, config) for item in plugins.disabled),
        *(_listed(item, "left out", "MUXX_LOAD_PLUGINS") for item in there if item not in kept),
    ]
    return Survey(on + sorted(others, key=lambda row: row.name), plugins.chains)


def _build_what_can_be(found: Iterable[Found], config: Config) -> tuple[PluginSet, dict[str, PluginLoadError]]:
    """The set without those that cannot be used, and what is wrong with each of them."""
    broken: dict[str, PluginLoadError] = {}
    while True:
        try:
            return build([item for item in found if item.name not in broken], config), broken
        except PluginLoadError as error:
            broken[error.plugin] = error


def _switched_off(item: Found, config: Config) -> Listed:
    if config.plugins.leaves_out(item.name):
        return _listed(item, "left out", "[plugins] only")
    return _listed(item, "off", "enabled = false")


def _listed(item: Found | Candidate, state: State, reason: str) -> Listed:
    return Listed(item.name, item.version, None, [], item.origin, state, reason)

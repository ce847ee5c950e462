"""Read a configuration file: TOML in, a `Config` out.

- A file may say exactly what is declared; any other key is an error.
- `load_config` reports every error at once, one line each with its key's path. No line repeats a value: any may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .config import Config, PluginConfig
from .errors import StartError
from .sources import Sources
from .tomlfile import Loc, Problem, TomlFile, key_path
from .validation import hint, validated


class ConfigError(StartError):
    """The configuration cannot be used. `errors` holds one line per error: the file, the key's path, what is wrong."""

    def __init__(self, file: Path | None, problems: Iterable[Problem], data: Mapping[str, Any] | None = None) -> None:
        label = str(file) if file is not None else "built-in defaults"
        self.problems = tuple(dict.fromkeys(problems))
        self.data = data or {}
        """What the file says, as far as it can be read."""
        self.errors = [": ".join(filter(None, (label, key_path(p.loc), " ".join(p.text.split())))) for p in self.problems]
        super().__init__("\n".join(self.errors), exit_code=2)


def load_config(
    path: str | Path | None,
    plugin_configs: Mapping[str, type[PluginConfig]] | None = None,
    *,
    plugins_dir: Path | None = None,
    sources: Sources | None = None,
) -> Config:
    """The configuration in `path`, or the defaults for None; raises `ConfigError` with everything that is wrong.

    `plugin_configs` maps every installed plugin to its settings' class. Without it the plugins' tables are not looked into.
    `plugins_dir` is where those of one file were found: noted in the result, for whoever looks again. `sources` is what it is
    read from, where others are to read the same.
    """
    source = Path(path) if path is not None else None
    try:
        file = TomlFile(source, sources)
        config = _read(file, plugin_configs, plugins_dir)
    except RecursionError:
        raise ConfigError(source, [Problem((), "is nested too deeply")]) from None
    if config is None or file.problems:
        raise ConfigError(source, file.problems, file.data)
    return config


def _read(file: TomlFile, classes: Mapping[str, type[PluginConfig]] | None, plugins_dir: Path | None) -> Config | None:
    if any(not problem.loc for problem in file.problems):
        return None  # the file itself cannot be read, so nothing more can be said about it
    file.data.setdefault("database", {})  # so that the default path, too, is relative to the file
    settings = _plugin_settings(file, classes or {})
    config = validated(Config, file.data, (), file)
    if config is not None:
        config.note_origin(file.path, plugins_dir, file.written, settings)
        file.problems += [Problem(*problem) for problem in config.problems_of_plugins()]
    return config


def _plugin_settings(file: TomlFile, classes: Mapping[str, type[PluginConfig]]) -> dict[str, PluginConfig]:
    """Validate every plugin's table; a plugin that is off may leave out what it requires when on."""
    section = file.data.get("plugins", {})
    if not classes or not isinstance(section, dict):
        return {}
    file.problems += _unknown_plugins(section, classes)
    settings: dict[str, PluginConfig] = {}
    for name, cls in classes.items():
        table = section.get(name, {})
        if isinstance(table, dict):
            value = validated(cls, table, ("plugins", name), file, partial=is_off(name, section))
            settings |= {} if value is None else {name: value}
    return settings


def is_off(name: str, section: dict[str, Any]) -> bool:
    only = section.get("only")
    return section.get(name, {}).get("enabled") is False or (isinstance(only, list) and name not in only)


def _unknown_plugins(section: dict[str, Any], classes: Mapping[str, type[PluginConfig]]) -> Iterator[Problem]:
    if "MUXX_LOAD_PLUGINS" in os.environ:
        return  # plugins were left out on purpose; their settings may stay in the file
    named: list[tuple[Loc, Any]] = [(("plugins", name), name) for name, table in section.items() if isinstance(table, dict)]
    for key in ("only", "order"):
        names = section.get(key)
        named += [(("plugins", key, i), name) for i, name in enumerate(names)] if isinstance(names, list) else []
    for loc, name in named:
        if isinstance(name, str) and name not in classes:
            yield Problem(loc, "no plugin of this name is installed" + hint(name, classes))

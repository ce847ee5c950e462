"""A configuration and the plugins that are there, read and held against each other: with everything that is wrong, at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from .config import Config
from .configfile import ConfigError, is_off, load_config
from .discovery import Found, config_classes, discover
from .errors import StartError
from .plugins import PluginSet, build
from .providers import BUILT_IN, provider_rows
from .registering import registered_providers
from .routing import RoutingTable
from .sources import Sources
from .tomlfile import Loc, Problem
from .validation import hint


class Loaded(NamedTuple):
    """A configuration and the plugins that were there when it was checked."""

    found: list[Found]
    config: Config


def load_checked(path: Path | None, plugins_dir: Path | None, sources: Sources | None = None) -> Loaded:
    """The configuration in `path` as it is now, or as `sources` have it, checked against the plugins that are there."""
    sources = sources or Sources()
    found = discover(plugins_dir, sources)
    try:
        config = load_config(path, config_classes(found), plugins_dir=plugins_dir, sources=sources)
    except ConfigError as error:
        raise ConfigError(path, [*error.problems, *_more_problems(error, found)], error.data) from error
    return Loaded(found, config)


def build_checked(found: Sequence[Found], config: Config) -> PluginSet:
    """The plugins that are on, if a service can start with them and the configuration. Raises `StartError` where it cannot."""
    plugins = build(found, config)
    plugins.require_authenticator()
    check_models(config, plugins)
    return plugins


def check_models(config: Config, plugins: PluginSet) -> None:
    """Raise `ConfigError` with every provider without an address, and every target nobody provides; building a gateway would
    stop at the first."""
    rows = registered_providers(plugins, None).providers
    said = config.model_dump(include={"providers", "models"}, exclude_unset=True)
    if problems := list(_problems_of_names(said, rows)):
        raise ConfigError(config.path, problems)
    RoutingTable(config, provider_rows(config, rows))


def _more_problems(error: ConfigError, found: Sequence[Found]) -> list[Problem]:
    """What `check_models` would say of a file that has other errors; nothing where plugins cannot be asked what they bring."""
    if not error.data:  # as of a file that cannot even be found
        return []
    section = error.data.get("plugins")
    section = section if isinstance(section, dict) else {}
    asked = [item for item in found if not is_off(item.name, section) and (item.problem or _brings_providers(item.cls))]
    try:
        config = Config.model_validate({"plugins": {item.name: section[item.name] for item in asked if item.name in section}})
        rows = registered_providers(build(asked, config), None).providers
    except (StartError, ValidationError):
        return []
    known = {problem.loc for problem in error.problems}
    return [problem for problem in _problems_of_names(error.data, rows) if problem.loc not in known]


def _brings_providers(cls: type) -> bool:
    marks = ((name, getattr(getattr(cls, name, None), "muxx_impl", None)) for name in dir(cls))
    return any(mark is not None and (mark.get("specname") or name) == "register_providers" for name, mark in marks)


def _problems_of_names(data: Mapping[str, Any], registered: Iterable[str]) -> Iterator[Problem]:
    """Providers that nobody knows and that have no address, and targets of providers nobody knows."""
    providers = data.get("providers")
    providers = providers if isinstance(providers, dict) else {}
    known = {*(row.name for row in BUILT_IN), *registered}
    for name, overlay in providers.items():
        if name not in known and isinstance(overlay, dict) and "base_url" not in overlay:
            text = "no built-in provider has this name, so it needs a base_url"
            yield Problem(("providers", name), text + hint(name, known))
    known = known | set(providers)
    for loc, target in _targets(data.get("models")):
        provider, slash, _ = target.partition("/")
        if slash and provider not in known:
            names = hint(provider, known) or f" (there are {', '.join(sorted(known))})"
            yield Problem(loc, "names no known provider" + names)


def _targets(models: Any) -> Iterator[tuple[Loc, str]]:
    """Every target with its place. Of a file that has errors nothing is sure but that it is TOML."""
    for i, model in enumerate(models if isinstance(models, list | tuple) else ()):
        targets = model.get("targets") if isinstance(model, dict) else ()
        for j, spec in enumerate(targets if isinstance(targets, list | tuple) else ()):
            target = spec.get("target") if isinstance(spec, dict) else spec
            if isinstance(target, str):
                yield ("models", i, "targets", j), target

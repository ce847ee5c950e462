"""Find plugins: those that installed distributions bring, and the files of `--plugins-dir`. Import those that are asked for.

What cannot be imported is found all the same, with its problem: the configuration may have switched it off.
"""

from __future__ import annotations

import difflib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import groupby
from pathlib import Path

from pydantic import ConfigDict

from .config import PluginConfig
from .errors import PluginLoadError, StartError
from .pluginfiles import load_file, plugin_files, plugin_name
from .sources import Sources

GROUP = "muxx"
STANDARD_DISTRIBUTION = "muxx"

SLOW_SECONDS = 5.0
"""A plugin that takes longer to be there is named in the log."""

log = logging.getLogger("muxx.plugins")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that is there, before anything of it is imported."""

    name: str
    origin: str
    """The distribution that brings it, or the path of its file."""
    version: str | None
    """The distribution's; a file has none."""
    load: Callable[[], type]
    """Import it and give its class, or raise `PluginLoadError`."""
    is_file: bool = False


class Unloaded:
    """What stands for the class of a plugin that could not be loaded. Nobody can say which settings that one takes."""

    class Config(PluginConfig):
        model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin class and where it came from, before it is built. One with a `problem` is refused unless it is off."""

    name: str
    cls: type
    origin: str
    version: str | None
    problem: PluginLoadError | None = None

    @property
    def config_class(self) -> type[PluginConfig]:
        cls = getattr(self.cls, "Config", PluginConfig)
        if not (isinstance(cls, type) and issubclass(cls, PluginConfig)):
            raise PluginLoadError(self.name, "its Config must be a class derived from muxx.PluginConfig")
        if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
            text = "its Config names a type that is not there; import it outside of `if TYPE_CHECKING:`"
            raise PluginLoadError(self.name, text)
        return cls


def candidates(plugins_dir: Path | None = None, sources: Sources | None = None) -> list[Candidate]:
    """Every plugin of the entry-point group, and every file of `plugins_dir`, by name; those that share one are all in it."""
    there: dict[tuple[str, str], Candidate] = {}
    for distribution in _distributions():
        about = distribution.metadata  # parsed anew each time it is asked for
        origin, version = about["Name"], about["Version"]
        for entry in distribution.entry_points.select(group=GROUP):
            there[entry.name, origin] = Candidate(entry.name, origin, version, partial(_import, entry, origin))
    sources = sources or Sources()
    for path in plugin_files(plugins_dir, sources) if plugins_dir is not None else ():
        name = plugin_name(path)
        there[name, str(path)] = Candidate(name, str(path), None, partial(load_file, path, sources), is_file=True)
    return [there[key] for key in sorted(there)]


def _distributions() -> Iterator[metadata.Distribution]:
    """Those that bring plugins, each once: one may be on sys.path more than once, as an editable install is.

    `metadata.entry_points` would parse those of all that is installed, and most of it brings no plugin.
    """
    section = f"[{GROUP}]"
    bringing = (item for item in metadata.distributions() if section in (item.read_text("entry_points.txt") or ""))
    return map(metadata.distribution, {name for item in bringing if (name := item.name)})  # a name is parsed metadata


def _import(entry: metadata.EntryPoint, distribution: str) -> type:
    try:
        cls = entry.load()
    except (Exception, SystemExit) as error:
        text = f"{entry.value} cannot be imported ({type(error).__name__}: {error}); upgrade or uninstall {distribution}"
        raise PluginLoadError(entry.name, text) from error
    if not isinstance(cls, type):
        raise PluginLoadError(entry.name, f"{entry.value} is no class; its entry point has to name one, as in 'muxx_demo:Demo'")
    return cls


def chosen(there: Sequence[Candidate]) -> list[Candidate]:
    """Those that `MUXX_LOAD_PLUGINS` leaves: all where it is unset, else the standard ones and the ones it names, by commas.

    A name that is nobody's is refused: a misspelt guard would be left out without a word.
    """
    listed = os.environ.get("MUXX_LOAD_PLUGINS")
    if listed is None:
        return list(there)
    wanted = [name.strip() for name in listed.split(",") if name.strip()]
    refuse_unknown("MUXX_LOAD_PLUGINS", wanted, {c.name for c in there})
    return [c for c in there if c.origin == STANDARD_DISTRIBUTION or c.name in wanted]


def discover(plugins_dir: Path | None = None, sources: Sources | None = None) -> list[Found]:
    """The plugins that `MUXX_LOAD_PLUGINS` leaves, imported, by name. One that cannot be loaded is among them, with its problem:
    whether that matters, the configuration says."""
    return imported(chosen(candidates(plugins_dir, sources)))


def imported(these: Iterable[Candidate]) -> list[Found]:
    """The plugins of these candidates, which are in the order of their names."""
    return [_found(list(same)) for _, same in groupby(these, key=lambda c: c.name)]


def _found(same: Sequence[Candidate]) -> Found:
    """The plugin of a name, from all that claim it."""
    first = same[0]
    try:
        if len(same) > 1:
            raise PluginLoadError(first.name, _clash(first, same[1]))
        with named_when_slow(first.name, "be imported"):
            found = Found(first.name, first.load(), first.origin, first.version)
        found.config_class  # noqa: B018 - asked here, so that one that is none is this plugin's problem
    except PluginLoadError as problem:
        return Found(first.name, Unloaded, first.origin, first.version, problem)
    return found


@contextmanager
def named_when_slow(plugin: str, what: str) -> Iterator[None]:
    """Around what every start and every command waits for."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    if seconds > SLOW_SECONDS:
        log.warning("plugin %s took %.1f s to %s; begin what is heavy in its lifespan", plugin, seconds, what)


def _clash(one: Candidate, other: Candidate) -> str:
    if one.is_file and other.is_file:
        return f"{one.origin} and {other.origin} give this one name; rename one of them"
    if one.is_file or other.is_file:
        file, distribution = (one, other) if one.is_file else (other, one)
        return f"{file.origin} has the name of a plugin that {distribution.origin} brings; rename the file"
    return f"two distributions bring this name ({one.origin}, {other.origin}); uninstall one"


def config_classes(found: Iterable[Found]) -> dict[str, type[PluginConfig]]:
    """Each plugin's settings class, for reading `[plugins.<name>]` strictly."""
    return {f.name: f.config_class for f in found}


def refuse_unknown(where: str, named: Iterable[str], known: set[str]) -> None:
    """Raise `StartError` where any of the names that stand there is no plugin's."""
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "is its package installed, or its file in --plugins-dir?"
            raise StartError(f"{where} names {name!r}, but there is no such plugin; {hint}")

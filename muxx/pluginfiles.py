"""Plugins of one file each: the `*.py` of the folder that `--plugins-dir` names.

- A file's stem is its plugin's name, with underscores for dashes. Names that begin with an underscore or a dot are passed over.
- The plugin is the one class with hooks that the file defines. Classes whose names begin with an underscore do not count.
- A file is read and run whenever plugins are looked for, so a reload takes it as it is then. Nothing is written beside it.
- Its folder does not come onto `sys.path`: a plugin of more than one file is a distribution.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from .errors import PluginLoadError, StartError
from .sources import Sources

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
"""A plugin's name, where muxx makes it: good in TOML, in SQL and as a part of a module's name."""

RESERVED = frozenset({"only", "order"})
"""Keys of `[plugins]` that are no plugin's table."""


def plugin_files(folder: Path, sources: Sources) -> list[Path]:
    """Its plugin files. Raises `StartError` when the folder cannot be read."""
    try:
        paths = [folder / name for name in sources.names(folder)]
    except OSError as error:
        text = f"the folder of --plugins-dir, {folder}, cannot be read ({error.strerror}); make it, or name another"
        raise StartError(text) from error
    return [path for path in paths if path.suffix == ".py" and path.name[0] not in "_."]


def plugin_name(path: Path) -> str:
    return path.stem.replace("-", "_")


def load_file(path: Path, sources: Sources) -> type:
    """Run a file and give its plugin class. Raises `PluginLoadError`, whose text names the file."""
    name = plugin_name(path)
    if not NAME.fullmatch(name) or name in RESERVED:
        text = f"{path} gives no name to a plugin; begin it with a letter, go on with letters, digits and single dashes"
        raise PluginLoadError(name, f"{text}, and call it neither {' nor '.join(sorted(RESERVED))}")
    try:
        source = sources.read(path)
    except OSError as error:
        raise PluginLoadError(name, f"{path} cannot be read ({error.strerror}); mend that, or take it away") from error
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else error
        raise PluginLoadError(name, f"{path}{place} is not valid Python ({said}); mend it, or take the file away") from error
    return _plugin_class(name, path, _run(name, path, source, code))


def _run(name: str, path: Path, source: bytes, code: object) -> ModuleType:
    """The file as a module. It stands in `sys.modules` by a name that no import statement would hit upon, for dataclasses and
    pydantic look classes up there; by another one when its text has changed, so that classes of the old text keep theirs."""
    digest = hashlib.sha256(f"{path.absolute()}\0".encode() + source).hexdigest()[:16]
    module = ModuleType(f"muxx_plugin_file_{name}_{digest}")
    module.__file__ = str(path)
    former = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        exec(code, vars(module))  # type: ignore[arg-type]  # noqa: S102 - running it is what the operator asked for
    except (Exception, SystemExit) as error:
        if former is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = former
        text = f"{path}{_line_in(path, error)} cannot be imported ({type(error).__name__}: {error})"
        raise PluginLoadError(name, f"{text}; mend it, or take the file away") from error
    return module


def _line_in(path: Path, error: BaseException) -> str:
    """Where in the file it went wrong."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}," if lines else ""


def _plugin_class(name: str, path: Path, module: ModuleType) -> type:
    own = {value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__}
    classes = sorted((cls for cls in own if cls.__name__[0] != "_" and _has_hooks(cls)), key=lambda cls: cls.__name__)
    if not classes:
        text = f"{path} defines no class with a hook; put @muxx.hookimpl above the methods that are hooks"
        raise PluginLoadError(name, f"{text}, or begin the file's name with an underscore if it is no plugin")
    if len(classes) > 1:
        names = ", ".join(cls.__name__ for cls in classes)
        text = f"{path} defines more than one class with hooks ({names}), and a file is one plugin"
        raise PluginLoadError(name, f"{text}; begin the others' names with an underscore, or move them to files of their own")
    return classes[0]


def _has_hooks(cls: type) -> bool:
    """A mark that stands above `@staticmethod`, where nobody looks, is on that and not on its function; it is refused as such."""
    there = ((getattr(cls, name, None), inspect.getattr_static(cls, name, None)) for name in dir(cls))
    return any(hasattr(member, "muxx_impl") for members in there for member in members)

"""Read a TOML file and fill in its `${…}`. Knows no option: what the values mean is `muxx.config`'s business.

- `${NAME}` is an environment variable, `${NAME:-default}` one that may be unset or empty, `${file:/path}` a file's text without
  its last line ends, `$$` a dollar sign. Only string values are filled in, never keys; the result is never looked at again.
- A key whose substituted value comes out empty counts as not written: `"${NAME:-}"` means "when there is one".
- A `Problem` names the key, the variable or the file, and never a value.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from .sources import Sources

Loc = tuple[str | int, ...]
"""Where a value stands: `("models", 0, "name")`."""

BOM = b"\xef\xbb\xbf"
"""What editors of Windows begin a file with."""

MAX_SUBSTITUTED_FILE = 64 * 1024
"""Far above any secret, far below what a mistaken `${file:/dev/zero}` would read."""

_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{file:(?P<file>[^}]+)\}|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<or>:-(?P<default>[^}]*))?\}|(?P<bad>\{))"
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Problem(NamedTuple):
    loc: Loc
    text: str


def key_path(loc: Loc) -> str:
    """`models[0].name`; a key that TOML would want quoted is quoted, so a path is always one line."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += ("." if path else "") + (step if _BARE_KEY.fullmatch(step) else json.dumps(step))
    return path


class TomlFile:
    """A file's data with every substitution done, what was substituted, and all that went wrong on the way."""

    def __init__(self, path: Path | None, sources: Sources | None = None) -> None:
        self.path = path
        self._sources = sources or Sources()
        self.problems: list[Problem] = []
        self.directory = self._directory()
        self.written: dict[Loc, str] = {}
        """Every substituted string as it stands in the file."""
        self.data: dict[str, Any] = self._filled(self._parsed(), ())

    def _directory(self) -> Path:
        """Where the paths begin that are relative to the file."""
        try:
            return (self.path.parent if self.path is not None else Path()).resolve()
        except FileNotFoundError:  # of all directories only the working one has to be there
            self._problem((), "cannot be found: the working directory has been deleted. Change to another, or give a whole path")
        except RuntimeError:  # as Python says it before 3.13
            self._problem((), "cannot be read: its directory is a loop of symbolic links")
        return Path()

    def _parsed(self) -> dict[str, Any]:
        if self.path is None or self.problems:
            return {}
        try:
            return tomllib.loads(self._sources.read(self.path).removeprefix(BOM).decode())
        except OSError as error:
            self._problem((), f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._problem((), f"is not UTF-8 text, at byte {error.start}")
        except ValueError as error:  # tomllib's own error and Python's limit on digits; neither quotes a value
            self._problem((), f"is not valid TOML: {error}")
        return {}

    def _problem(self, loc: Loc, text: str) -> None:
        self.problems.append(Problem(loc, text))

    def _filled(self, value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            filled = {key: self._filled(item, (*loc, key)) for key, item in value.items()}
            return {key: item for key, item in filled.items() if item != "" or (*loc, key) not in self.written}
        if isinstance(value, list):
            return [self._filled(item, (*loc, index)) for index, item in enumerate(value)]
        return self._text(value, loc) if isinstance(value, str) and "$" in value else value

    def _text(self, text: str, loc: Loc) -> str:
        if any(match["dollar"] is None for match in _REFERENCE.finditer(text)):
            self.written[loc] = text
        return _REFERENCE.sub(lambda match: self._referenced(match, loc), text)

    def _referenced(self, match: re.Match[str], loc: Loc) -> str:
        if match["dollar"]:
            return "$"
        if match["file"]:
            return self._file_text(match["file"], loc)
        if match["bad"]:
            self._problem(loc, "has a '${' that is none of ${NAME}, ${NAME:-default}, ${file:/path}; $$ is a dollar sign")
            return ""
        return self._variable(match, loc)

    def _variable(self, match: re.Match[str], loc: Loc) -> str:
        value = os.environ.get(match["name"])
        if match["or"]:
            if "${" in match["default"]:
                self._problem(loc, f"the default of {match['name']} holds another '${{'; only one substitution is made")
                return ""
            value = value or match["default"]
        if value is None:
            self._problem(loc, f"the environment variable {match['name']} is not set")
        elif not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            self._problem(loc, f"the environment variable {match['name']} is not UTF-8 text")
        else:
            return value
        return ""

    def _file_text(self, name: str, loc: Loc) -> str:
        try:
            content = self._sources.read(self.directory / name, MAX_SUBSTITUTED_FILE + 1)
            if len(content) <= MAX_SUBSTITUTED_FILE:
                return content.decode().rstrip("\r\n")
            reason = f"is longer than {MAX_SUBSTITUTED_FILE // 1024} KiB"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except ValueError:  # bytes that are not UTF-8, or a NUL in the name
            reason = "is not UTF-8 text"
        self._problem(loc, f"the file {json.dumps(name)} {reason}")
        return ""

"""A database as a first start leaves it, so that thousands of gateways under test need not each make theirs.

A gateway that finds it checks it and looks whether it is up to date, as at any start that is not the first. What a first start
does is for the tests of the database, and for those that start muxx as a process.
"""

from __future__ import annotations

import os
from pathlib import Path

from muxx.checking import Loaded
from muxx.config import Config
from muxx.discovery import STANDARD_DISTRIBUTION
from muxx.host import Host, Paths
from muxx.plugins import build
from muxx.recorder import MIGRATIONS, NAME
from muxx.secret import configured


class Template:
    """Made by the first gateway that could use it: both files with the tables of all standard plugins, and their secret."""

    def __init__(self) -> None:
        self._files: list[bytes] = []

    async def lay(self, loaded: Loaded) -> None:
        """Put a copy where this gateway would begin its database, unless it would begin another one than most."""
        paths = Paths.beside(loaded.config.database.path)
        places = (paths.database, paths.logs, paths.secret)
        if not _is_usual(loaded.config) or not paths.database.parent.is_dir() or any(path.exists() for path in places):
            return
        if self._files:
            for path, content in zip(places, self._files, strict=True):
                _write(path, content)
        else:
            await _make(loaded)
            self._files = [path.read_bytes() for path in places]


def _is_usual(config: Config) -> bool:
    """A plugin that is off has no tables, and others may ask whether it has."""
    switched_off = any(table.get("enabled") is False for table in config.plugins.tables.values())
    return config.plugins.only is None and not switched_off and configured(config) is None


async def _make(loaded: Loaded) -> None:
    standard = [item for item in loaded.found if item.origin == STANDARD_DISTRIBUTION]
    async with Host.open(loaded.config) as host:
        await host.db.migrate(NAME, MIGRATIONS)
        for plugin in reversed(build(standard, loaded.config).plugins):
            await host.db.migrate(plugin.name, getattr(plugin.instance, "migrations", ()))


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)

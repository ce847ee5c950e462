"""The files that a configuration and its plugins are read from, each read once.

Invariant: whoever is handed what was read reads the same, whatever has become of the files since.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Self


class Sources:
    """Reads files and folders, and keeps what they held. Made by `handed`, it knows what was read elsewhere, and nothing more."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        """What files held, a character for each byte."""
        self._folders: dict[str, list[str]] = {}
        self._is_handed = False

    @classmethod
    def handed(cls, data: bytes) -> Self:
        """Those of another process: `data` is from its `to_hand_over`."""
        sources = cls()
        sources._texts, sources._folders = json.loads(data)
        sources._is_handed = True
        return sources

    def to_hand_over(self) -> bytes:
        return json.dumps((self._texts, self._folders)).encode()

    def read(self, path: Path, most: int = -1) -> bytes:
        """What a file holds, no more than the first `most` bytes of it; raises what opening and reading it raises."""
        name = self._known(path, self._texts)
        if name not in self._texts:
            with path.open("rb") as file:
                self._texts[name] = file.read(most).decode("latin-1")
        return self._texts[name].encode("latin-1")

    def names(self, folder: Path) -> list[str]:
        """What lies in a folder; raises what listing it raises."""
        name = self._known(folder, self._folders)
        if name not in self._folders:
            self._folders[name] = os.listdir(folder)
        return self._folders[name]

    def _known(self, path: Path, those: dict[str, str] | dict[str, list[str]]) -> str:
        name = str(path.absolute())
        if self._is_handed and name not in those:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return name

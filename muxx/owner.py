"""Whose the files beside a database are: its owner's, whoever makes them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give_to_owner_of(path: Path, made: int) -> None:
    """`made` is an open file that this process has just made, and no link: under root it goes to whom `path` belongs, as SQLite
    does with its files. So a command under sudo leaves nothing behind that a service of another user cannot read."""
    if os.geteuid() == 0:
        with suppress(OSError):  # no such path yet, or a file system that leaves owners as they are
            owner = path.stat()
            os.fchown(made, owner.st_uid, owner.st_gid)

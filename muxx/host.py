"""What one host holds in common: the files beside the database, the database itself, and the secret.

The gateway, the recorder and every command open a `Host`; any number of them may be open at once, in any number of processes.
Only one instance serves: it holds the lock of `lock_instance`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from . import projectstore, secret
from .db import Database, beside, logs_path
from .errors import StartError
from .journal import BALLAST
from .projectstore import ProjectStore
from .secret import Secret
from .shared import Shared
from .sqlite import needing_the_database

if TYPE_CHECKING:
    from .config import Config


@dataclass(frozen=True)
class Paths:
    """Where everything lies: beside the database, and named after it."""

    database: Path
    logs: Path
    secret: Path
    shared: Path
    journal: Path
    lock: Path
    ballast: Path

    @classmethod
    def beside(cls, database: Path) -> Paths:
        def named(suffix: str) -> Path:
            return beside(database, suffix)

        journal = named(".journal")
        return cls(database, logs_path(database), named(".secret"), named(".shared"), journal, named(".lock"), journal / BALLAST)


LOST = "{}: was deleted while muxx runs, and with it what its processes tell one another. Restart muxx: it is made anew."


def _lock_file(paths: Paths) -> int:
    try:
        return os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"{paths.lock}: cannot be opened: {error.strerror}. Check its owner and permissions.", 3) from error


def locked(paths: Paths) -> int:
    """An open file that keeps every other instance from the database; `StartError` where one has it."""
    fd = _lock_file(paths)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StartError(f"{paths.database}: another instance owns the database. Stop it, or use another file.", 3) from error
    return fd


def is_served(paths: Paths) -> bool:
    """Whether an instance owns the database now."""
    if not paths.lock.exists():
        return False
    fd = _lock_file(paths)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Host:
    """Made by `await Host.open(config)` or `async with Host.open(config) as host`; belongs to the event loop it was opened in."""

    def __init__(self, config: Config, paths: Paths, db: Database, shared: Shared, given: Secret, root: bytes) -> None:
        self.config = config
        self.paths = paths
        self.db = db
        self.shared = shared
        self._root = root
        self._lock = -1
        self.projects = ProjectStore(self, given.provider_keys)
        """Reads and changes projects; how they stand for requests is `gateway.projects`."""

    @staticmethod
    def open(config: Config, *, scans_apart: bool = False) -> Opening:
        """Open, and on the first run make, all that a host holds. `scans_apart` is for the database.

        Raises `StartError` with exit code 3 when something is unusable.
        """
        return Opening(config, scans_apart)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, by HKDF-SHA256 from the secret that the database began with.

        They tell nothing of the secret or of another purpose's, and stay when `muxx secret rotate` changes it.
        """
        return secret.derived(self._root, purpose)

    def lock_instance(self) -> None:
        """Become the instance that serves this database, until `close` or the death of the process. Taken twice: `StartError`."""
        self._lock = locked(self.paths)

    async def close(self) -> None:
        """Idempotent."""
        await self.db.close()
        self.shared.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Opening(Awaitable[Host]):
    """A host about to be opened: await it, or enter it."""

    def __init__(self, config: Config, scans_apart: bool) -> None:
        self._config = config
        self._scans_apart = scans_apart
        self._host: Host | None = None

    def __await__(self) -> Generator[None, None, Host]:
        return _open(self._config, self._scans_apart).__await__()

    async def __aenter__(self) -> Host:
        self._host = await self
        return self._host

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._host is not None:
            await self._host.close()
        with needing_the_database():
            if isinstance(error, sqlite3.Error):
                raise error


async def migrate_kernel(db: Database) -> None:
    """Bring the kernel's own tables up to date."""
    await db.migrate(projectstore.NAME, projectstore.MIGRATIONS)
    await db.migrate(secret.NAME, secret.MIGRATIONS)


async def _open(config: Config, scans_apart: bool) -> Host:
    paths = Paths.beside(config.database.path)
    db = Database(paths.database, durability=config.database.durability, scans_apart=scans_apart)
    try:
        with needing_the_database():
            await db.open()
            given = await secret.found(config, paths.secret, db)
            await migrate_kernel(db)
            root = await secret.root_of(given, db)
        return Host(config, paths, db, _opened(paths), given, root)
    except BaseException:
        await db.close()
        raise


def _opened(paths: Paths) -> Shared:
    """The counters. One that begins beside an instance that has others would not see its revoked keys, nor it this one's."""
    shared = Shared(paths.shared)
    if shared.made and is_served(paths):
        paths.shared.unlink(missing_ok=True)
        shared.close()
        raise StartError(LOST.format(paths.shared), 3)
    return shared

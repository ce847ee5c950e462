"""What one host holds in common: the files beside the database, the database itself, and the secret.

The gateway, the recorder and every command open a `Host`; any number of them may be open at once, in any number of processes.
Only one instance serves: it holds the lock of `lock_instance`.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .db import Database, logs_path
from .errors import StartError
from .journal import BALLAST
from .projectstore import MIGRATIONS, NAME, ProjectStore
from .shared import Shared

if TYPE_CHECKING:
    from .config import Config

SECRET_BYTES = 32


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
            return database.with_name(database.name + suffix)

        journal = named(".journal")
        return cls(database, logs_path(database), named(".secret"), named(".shared"), journal, named(".lock"), journal / BALLAST)


class Host:
    """Made by `await Host.open(config)` or `async with Host.open(config) as host`; belongs to the event loop it was opened in."""

    def __init__(self, config: Config, paths: Paths, db: Database, shared: Shared, secret: bytes) -> None:
        self.config = config
        self.paths = paths
        self.db = db
        self.shared = shared
        self._secret = secret
        self._lock = -1
        self.projects = ProjectStore(self)
        """Reads and changes projects; how they stand for requests is `gateway.projects`."""

    @staticmethod
    def open(config: Config) -> Opening:
        """Open, and on the first run make, all that a host holds.

        Raises `StartError` with exit code 3 when something is unusable.
        """
        return Opening(config)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, by HKDF-SHA256 from the one secret.

        They tell nothing of the secret or of another purpose's.
        """
        key = hmac.digest(b"muxx", self._secret, hashlib.sha256)
        return hmac.digest(key, purpose.encode() + b"\x01", hashlib.sha256)

    def lock_instance(self) -> None:
        """Become the instance that serves this database, until `close` or the death of the process. Taken twice: `StartError`."""
        fd = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StartError(
                f"{self.paths.database}: another instance owns the database. Stop it, or use another file.", 3
            ) from error
        self._lock = fd

    async def close(self) -> None:
        """Idempotent."""
        await self.db.close()
        self.shared.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Opening(Awaitable[Host]):
    """A host about to be opened: await it, or enter it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._host: Host | None = None

    def __await__(self) -> Generator[None, None, Host]:
        return _open(self._config).__await__()

    async def __aenter__(self) -> Host:
        self._host = await self
        return self._host

    async def __aexit__(self, *exception: object) -> None:
        if self._host is not None:
            await self._host.close()


async def _open(config: Config) -> Host:
    paths = Paths.beside(config.database.path)
    db = Database(paths.database, durability=config.database.durability)
    try:
        await db.open()
        secret = await _secret(config, paths, db)
        await db.migrate(NAME, MIGRATIONS)
        return Host(config, paths, db, Shared(paths.shared), secret)
    except BaseException:
        await db.close()
        raise


async def _secret(config: Config, paths: Paths, db: Database) -> bytes:
    """`MUXX_SECRET`, else `[server] secret`, else `<database>.secret`, which is made once, while no key depends on one."""
    configured = config.server.secret.get_secret_value() if config.server.secret else ""
    if text := os.environ.get("MUXX_SECRET") or configured:
        return text.encode()
    if not paths.secret.exists():
        if await _has_keys(db):
            raise StartError(
                f"{paths.secret}: is missing, and the keys in the database need it. Restore it, or set MUXX_SECRET.",
                3,
            )
        _make_secret(paths.secret)
    secret = paths.secret.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StartError(f"{paths.secret}: is not {SECRET_BYTES} bytes long. Restore it from a backup, or set MUXX_SECRET.", 3)
    return secret


async def _has_keys(db: Database) -> bool:
    """Whether there is anything that only the secret it was made with can read."""
    found = await db.read("SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('keys', 'provider_keys')")
    tables = {row["name"] for row in found}
    if "keys" in tables and await db.read("SELECT 1 FROM keys LIMIT 1"):
        return True
    return "provider_keys" in tables and bool(await db.read("SELECT 1 FROM provider_keys LIMIT 1"))


def _make_secret(path: Path) -> None:
    """The file appears whole, readable by its owner only; of two processes that make it at once the first one's stays."""
    unnamed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    fd = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(fd, secrets.token_bytes(SECRET_BYTES))
        os.fsync(fd)
        os.link(unnamed, path)
    except FileExistsError:
        pass
    finally:
        os.close(fd)
        unnamed.unlink()

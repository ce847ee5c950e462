"""The one secret of a host: where it comes from, whether it is the database's, and how it is exchanged for another.

Two things come of it by HKDF-SHA256. What `derive` gives, as the pepper of key hashes, comes from the root: the secret that the
database began with. It stays when the secret changes, for nobody could hash keys anew whose text nobody has; from then on it is
in the database, encrypted under the secret of the day. What encrypts the keys of providers comes from the secret of the day, and
is exchanged with it.

The database holds a mark of its secret, so that another one is told at the start. A mark takes milliseconds to make, so that a
copy of the database is of little use for trying guesses.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .db import Database, Migration
from .errors import StartError
from .owner import give_to_owner_of
from .sealing import CannotOpen, Seal
from .sqlite import Connection

if TYPE_CHECKING:
    from .config import Config

NAME = "secret"
VARIABLE = "MUXX_SECRET"
SECRET_BYTES = 32
SHORT_SECRET = 16
"""Bytes below which one is thought to be a word."""
MARK_BYTES = 16

MIGRATIONS = (
    Migration(
        "main",
        """
        CREATE TABLE secret (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            mark BLOB NOT NULL,
            root BLOB
        ) STRICT
        """,
    ),
)
_READ = "SELECT mark, root FROM secret"
_PUT = "INSERT OR REPLACE INTO secret (id, mark, root) VALUES (1, ?, ?)"
_FIRST = "INSERT OR IGNORE INTO secret (id, mark) VALUES (1, ?)"


class Secret:
    """The secret of a host, as far as it is needed: what it was given cannot be read from it, nor printed."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(b"muxx", secret, hashlib.sha256)

    @cached_property
    def mark(self) -> bytes:
        """What tells it from another one."""
        return _mark(self._key)

    @cached_property
    def provider_keys(self) -> Seal:
        """What encrypts the keys of providers."""
        return Seal(lambda: derived(self._key, "provider-keys"))

    @cached_property
    def _wrapping(self) -> Seal:
        return Seal(lambda: derived(self._key, "root"))

    def wrapped(self, root: bytes) -> bytes:
        return self._wrapping.shut(root.hex(), NAME)

    def root(self, wrapped: bytes | None) -> bytes:
        """What `derive` goes by; raises `CannotOpen` where another secret encrypted it."""
        return self._key if wrapped is None else bytes.fromhex(self._wrapping.open(wrapped, NAME))


@lru_cache(maxsize=2)
def _mark(key: bytes) -> bytes:
    """A process of a service that is forked off knows the mark already; two, for one secret is exchanged for another."""
    return hashlib.scrypt(key, salt=b"muxx mark", n=2**12, r=8, p=1, dklen=MARK_BYTES)


def derived(key: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, by the second step of HKDF. They tell nothing of the key or of another purpose's."""
    return hmac.digest(key, purpose.encode() + b"\x01", hashlib.sha256)


def configured(config: Config) -> bytes | None:
    """`MUXX_SECRET`, else `[server] secret`; None where neither is set."""
    in_file = config.server.secret.get_secret_value() if config.server.secret else ""
    return (os.environ.get(VARIABLE) or in_file).encode("utf-8", "surrogateescape") or None


def from_file(path: Path) -> bytes:
    """The secret in `<database>.secret`."""
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}. Check its owner and permissions.", 3) from error
    if len(secret) != SECRET_BYTES:
        raise StartError(f"{path}: is not {SECRET_BYTES} bytes long. Restore it from a backup, or set {VARIABLE}.", 3)
    return secret


async def found(config: Config, path: Path, db: Database) -> Secret:
    """The secret of this start. Where none is configured it is in `path`, which is made once, while nothing depends on one."""
    given = configured(config)
    if given is None:
        if not path.exists():
            if await _is_needed(db):
                text = f"{path}: is missing, and the keys in the database need it. Restore it, or set {VARIABLE}."
                raise StartError(text, 3)
            make_file(path, secrets.token_bytes(SECRET_BYTES), config.database.path)
        given = from_file(path)
    return Secret(given)


async def root_of(secret: Secret, db: Database) -> bytes:
    """The root, and with it the proof that this is the database's secret; the first one is remembered.

    Raises `StartError` with exit code 3 for another, as soon as anything depends on the one before.
    """
    row = await marked(db)
    if row is None:
        row = await _remember(secret, db)
    mark, wrapped = row
    if mark != secret.mark:
        if wrapped is not None or await _is_needed(db):
            raise StartError(_ANOTHER, 3)
        mark, wrapped = await _remember(secret, db, replace=True)
    try:
        return secret.root(wrapped)
    except CannotOpen:
        raise StartError(_ANOTHER, 3) from None


_ANOTHER = (
    f"the secret is not the one this database was made with, so no key would work. Set {VARIABLE}, [server] secret or the file "
    "beside the database back to it; `muxx secret rotate` changes it."
)


async def marked(db: Database) -> tuple[bytes, bytes | None] | None:
    """The mark of the database's secret and the wrapped root; None where it has met no secret yet."""
    rows = await db.read(_READ)
    return (rows[0]["mark"], rows[0]["root"]) if rows else None


async def _remember(secret: Secret, db: Database, *, replace: bool = False) -> tuple[bytes, bytes | None]:
    """Of several processes that do so at once, the first one's stays."""

    async def write(connection: Connection) -> tuple[bytes, bytes | None]:
        if replace:
            await connection.execute(_PUT, (secret.mark, None))
        else:
            await connection.execute(_FIRST, (secret.mark,))
        [row] = await connection.execute_fetchall(_READ)
        return row["mark"], row["root"]

    return await db.write(write)


async def put(connection: Connection, secret: Secret, root: bytes) -> None:
    """Within a transaction: from now on this is the database's secret, and the root stays."""
    await connection.execute(_PUT, (secret.mark, secret.wrapped(root)))


async def _is_needed(db: Database) -> bool:
    """Whether there is anything that only the secret it was made with can read."""
    rows = await db.read("SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('keys', 'provider_keys')")
    tables = {row["name"] for row in rows}
    if "keys" in tables and await db.read("SELECT 1 FROM keys LIMIT 1"):
        return True
    return "provider_keys" in tables and bool(await db.read("SELECT 1 FROM provider_keys LIMIT 1"))


def make_file(path: Path, secret: bytes, database: Path) -> None:
    """The file appears whole, for the database's owner alone to read; of two processes that make it at once the first wins."""
    unnamed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        fd = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            give_to_owner_of(database, fd)
            os.write(fd, secret)
            os.fsync(fd)
            os.link(unnamed, path)
        except FileExistsError:
            pass
        finally:
            os.close(fd)
            unnamed.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise StartError(f"{path}: cannot be made: {error.strerror}. Check the directory and its permissions.", 3) from error


def sync_directory(path: Path) -> None:
    """Have the names in it survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

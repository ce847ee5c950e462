"""`muxx secret rotate`: exchange the host's secret for another, while nothing serves.

Everything in the database changes in one transaction. Where the new secret is a file, it lies beside the old one before that and
takes its place after it, so a rotation that was cut off at any moment, by a power cut too, is finished by the next.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .audit import note_change
from .db import Database
from .errors import StartError
from .host import Paths, locked, migrate_kernel
from .projectstore import reseal
from .sealing import CannotOpen
from .secret import SECRET_BYTES, Secret, configured, from_file, make_file, marked, put, sync_directory
from .sqlite import Connection

if TYPE_CHECKING:
    from .config import Config

OLD_VARIABLE = "MUXX_SECRET_OLD"


@dataclass(frozen=True)
class Rotated:
    """What came of it. `file` is where the new secret lies, None: it is configured; `provider_keys` were encrypted anew, None:
    the secret had been exchanged before."""

    file: Path | None
    provider_keys: int | None


async def rotate(config: Config, old_file: Path | None) -> Rotated:
    """Exchange the secret. The new one is what is configured, else a new file; the old one is `MUXX_SECRET_OLD`, or in
    `old_file`, or the file beside the database.

    Raises `StartError` with exit code 3 while an instance serves, and for an old secret that is not the database's.
    """
    paths = Paths.beside(config.database.path)
    if not paths.database.exists():
        raise StartError(f"{paths.database}: there is no database, and so no secret to change.", 3)
    lock = locked(paths)
    db = Database(paths.database, durability="power")  # the old secret is given up next: what needs the new one has to be there
    try:
        await db.open()
        await migrate_kernel(db)
        return await _exchange(db, paths, configured(config), old_file)
    finally:
        await db.close()
        os.close(lock)


async def _exchange(db: Database, paths: Paths, given: bytes | None, old_file: Path | None) -> Rotated:
    pending = paths.secret.with_name(paths.secret.name + ".new")
    if given is None and not pending.exists():
        make_file(pending, secrets.token_bytes(SECRET_BYTES), paths.database)
    new = Secret(given or from_file(pending))
    row = await marked(db)
    count = None
    if row is None or _root(new, *row) is None:
        count = await _write(db, *_old_root(paths, old_file, row), new)
    if given is None:
        os.replace(pending, paths.secret)
        sync_directory(paths.secret.parent)
    return Rotated(None if given else paths.secret, count)


async def _write(db: Database, old: Secret, root: bytes, new: Secret) -> int:
    async def write(connection: Connection) -> int:
        count = await reseal(connection, old.provider_keys, new.provider_keys)
        await put(connection, new, root)
        await note_change(connection, "secret.rotate", provider_keys=count)
        return count

    return await db.write(write)


def _old_root(paths: Paths, old_file: Path | None, row: tuple[bytes, bytes | None] | None) -> tuple[Secret, bytes]:
    """The old secret, and the root it opens."""
    for text in _candidates(paths, old_file):
        secret = Secret(text)
        root = secret.root(None) if row is None else _root(secret, *row)
        if root is not None:
            return secret, root
    raise StartError(
        f"the old secret is not known. Give the one this database was made with as {OLD_VARIABLE}, or with --old-file FILE.", 3
    )


def _candidates(paths: Paths, old_file: Path | None) -> Iterator[bytes]:
    if old := os.environ.get(OLD_VARIABLE):
        yield old.encode("utf-8", "surrogateescape")
    if old_file is not None:
        text = old_file.read_bytes()
        yield from (text, text.rstrip(b"\r\n"))  # a text file ends its line, and a secret of random bytes may seem to
    if paths.secret.exists():
        yield from_file(paths.secret)


def _root(secret: Secret, mark: bytes, wrapped: bytes | None) -> bytes | None:
    """The root, if this is the database's secret."""
    try:
        return secret.root(wrapped) if secret.mark == mark else None
    except CannotOpen:
        return None

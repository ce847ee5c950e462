"""The tables of projects and of their providers' keys, and the only SQL that touches them.

Every change is one transaction with its row in the audit log; when its method returns, it binds on every worker's next request.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import TypeAdapter, ValidationError

from . import audit
from .configtypes import ApiKey
from .db import Migration
from .errors import InvalidRequest, NotFound, StartError
from .projectsettings import Own, changed, checked, flat, resolved_settings
from .providers import BUILT_IN
from .sealing import CannotOpen
from .sqlite import Connection
from .tomlfile import Loc, key_path

if TYPE_CHECKING:
    from .host import Host
    from .sealing import Seal

NAME = "projects"
_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
SHOWN = 4
"""Characters of a provider's key that lists show, of one that is long enough to spare them."""
MOST_KEY = 4096

MIGRATIONS = (
    Migration(
        "main",
        """
        CREATE TABLE projects (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created_at REAL NOT NULL,
            archived_at REAL,
            settings TEXT NOT NULL DEFAULT '{}'
        ) STRICT;
        INSERT INTO projects (id, name, created_at)
            VALUES ('proj_' || lower(hex(randomblob(10))), 'default', (julianday('now') - 2440587.5) * 86400.0);
        CREATE TABLE provider_keys (
            project TEXT NOT NULL REFERENCES projects (name),
            provider TEXT NOT NULL,
            sealed BLOB NOT NULL,
            last4 TEXT NOT NULL,
            created_at REAL NOT NULL,
            PRIMARY KEY (project, provider)
        ) STRICT;
        """,
    ),
    Migration("main", audit.TABLE),
    Migration(  # an alert of dollars could once have a share, which meant nothing
        "main",
        """
        UPDATE projects SET settings = json_set(settings, '$.alerts', (
            SELECT json_group_array(
                CASE WHEN json_extract(value, '$.usd') IS NULL THEN json(value) ELSE json_remove(value, '$.share') END
            )
            FROM json_each(settings, '$.alerts')
        ))
        WHERE json_type(settings, '$.alerts') = 'array';
        """,
    ),
)

_ALL = "SELECT id, name, created_at, archived_at, settings FROM projects ORDER BY created_at, name"
_PAGE = (
    "SELECT id, name, created_at, archived_at, settings FROM projects"
    " WHERE (:name IS NULL OR name = :name) AND (:archived IS NULL OR (archived_at IS NOT NULL) = :archived)"
    " AND (:after IS NULL OR (created_at, name) > (SELECT created_at, name FROM projects WHERE id = :after))"
    " ORDER BY created_at, name LIMIT :limit"
)
_BY_NAME = "SELECT id, name, created_at, archived_at, settings FROM projects WHERE name = ?"
_BY_ID = "SELECT id, name, created_at, archived_at, settings FROM projects WHERE id = ?"
_INSERT = "INSERT OR IGNORE INTO projects (id, name, created_at, settings) VALUES (?, ?, ?, ?)"
_KEYS = "SELECT project, provider, last4, created_at FROM provider_keys WHERE project = ? ORDER BY provider"
_SEALED = "SELECT project, provider, sealed FROM provider_keys"
_RESEAL = "UPDATE provider_keys SET sealed = ? WHERE project = ? AND provider = ?"
_PUT_KEY = "INSERT OR REPLACE INTO provider_keys (project, provider, sealed, last4, created_at) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project as the database knows it. `own` is what it sets itself, nested as `[project]` in the file; times are Unix
    seconds."""

    id: str
    name: str
    created_at: float
    archived_at: float | None
    own: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProviderKeyRow:
    """What may be shown of a provider's key that a project has: never the key."""

    project: str
    provider: str
    last4: str
    created_at: float


class ProjectStore:
    """`host.projects`. `by` is the id of the key that asks for a change; None: a command does.

    Raises `NotFound` for a project that does not exist, and `InvalidRequest` for a change that cannot be.
    """

    def __init__(self, host: Host, seal: Seal) -> None:
        """`seal` encrypts the keys of providers."""
        self._host = host
        self._db = host.db
        self._seal = seal

    def _bump(self) -> None:
        self._host.shared.bump("projects")

    async def rows(self) -> list[ProjectRow]:
        """Every project, oldest first, archived ones too."""
        return [_row(row) for row in await self._db.read(_ALL)]

    async def doubt(self, name: str | None) -> str | None:
        """A sentence for whoever asks what a project did, where there is none of this name: nothing will be found of it, or only
        what is left of another database's."""
        if name is None or await self._db.read(_BY_NAME, (name,)):
            return None
        near = get_close_matches(name, [row.name for row in await self.rows()], n=1)
        return f"There is no project of the name {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")

    async def page(self, name: str | None, archived: bool | None, after: str | None, limit: int) -> list[ProjectRow]:
        """Some projects, oldest first, behind the one with the id `after`. None means any."""
        if after is not None and not await self._db.read(_BY_ID, (after,)):
            raise InvalidRequest("after must be the id of a project you have been given.", param="after")
        wanted = {"name": name, "archived": archived, "after": after, "limit": limit}
        return [_row(row) for row in await self._db.read(_PAGE, wanted)]

    async def named(self, name: str) -> ProjectRow:
        return _only(await self._db.read(_BY_NAME, (name,)))

    async def with_id(self, project_id: str) -> ProjectRow:
        return _only(await self._db.read(_BY_ID, (project_id,)))

    async def create(self, name: str, settings: Any = None, *, by: str | None = None) -> ProjectRow:
        """A new project. Names are never given twice, not even after one was archived: rows of the log name projects by them."""
        if not _VALID_NAME.fullmatch(name):
            words = "name must be up to 64 letters, digits, dots, dashes and underscores, starting with a letter or digit."
            raise InvalidRequest(words, param="name")
        own = checked({} if settings is None else settings)

        self._check_plugins({}, own)

        async def write(db: Connection) -> None:
            if not await _insert(db, name, own):
                raise InvalidRequest("There is a project of this name already.", param="name")
            await audit.note_change(db, "project.create", by=by, project=name, settings=dict(flat(own)))

        await self._db.write(write)
        self._bump()
        return await self.named(name)

    async def change(self, name: str, changes: Any, *, by: str | None = None) -> ProjectRow:
        """Set and take back settings by a merge patch: nested as in the file, and null takes one back.

        Where they depend on what is set now, `changes` is a function of that: no other change comes between.
        """

        async def write(db: Connection) -> None:
            row = await _living(db, name)
            own = changed(row.own, changes(row.own) if callable(changes) else changes)
            self._check_plugins(row.own, own)
            await db.execute("UPDATE projects SET settings = ? WHERE name = ?", (orjson.dumps(own).decode(), name))
            before, after = dict(flat(row.own)), dict(flat(own))
            told = {key: after.get(key) for key in {**before, **after} if before.get(key) != after.get(key)}
            await audit.note_change(db, "project.change", by=by, project=name, settings=told)

        await self._db.write(write)
        self._bump()
        return await self.named(name)

    async def archive(self, name: str, *, by: str | None = None) -> ProjectRow:
        """Refuse the project's keys from the next request on. Its rows stay; a project archived before keeps its first date."""

        async def write(db: Connection) -> None:
            row = _only(await _fetched(db, _BY_NAME, (name,)))
            if row.archived_at is None:
                await db.execute("UPDATE projects SET archived_at = ? WHERE name = ?", (time.time(), name))
                await audit.note_change(db, "project.archive", by=by, project=name)

        await self._db.write(write)
        self._bump()
        return await self.named(name)

    async def restore(self, name: str, *, by: str | None = None) -> ProjectRow:
        """Take the project out of the archive: its keys that were not revoked work again from the next request on."""

        async def write(db: Connection) -> None:
            row = _only(await _fetched(db, _BY_NAME, (name,)))
            if row.archived_at is not None:
                await db.execute("UPDATE projects SET archived_at = NULL WHERE name = ?", (name,))
                await audit.note_change(db, "project.restore", by=by, project=name)

        await self._db.write(write)
        self._bump()
        return await self.named(name)

    # Keys of providers.

    async def provider_keys(self, name: str) -> list[ProviderKeyRow]:
        """Whose keys the project has, by the providers' names."""
        await self.named(name)
        return [ProviderKeyRow(**dict(zip(row.keys(), row, strict=True))) for row in await self._db.read(_KEYS, (name,))]

    async def set_provider_key(self, name: str, provider: str, key: str, *, by: str | None = None) -> ProviderKeyRow:
        """Use this key for the project's requests to the provider, from the next one on, in the place of any other."""
        if not key or len(key) > MOST_KEY or not _can_be_sent(key):
            raise InvalidRequest("The key must be printable ASCII without spaces, for it is sent in a header.", param="key")
        self._check_provider(provider)
        sealed = self._seal.shut(key, name, provider)
        last4 = key[-SHOWN:] if len(key) >= 4 * SHOWN else ""
        made = ProviderKeyRow(name, provider, last4, time.time())

        async def write(db: Connection) -> None:
            await _living(db, name)
            await db.execute(_PUT_KEY, (name, provider, sealed, last4, made.created_at))
            await audit.note_change(db, "provider_key.set", by=by, project=name, subject=provider)

        await self._db.write(write)
        self._bump()
        return made

    async def remove_provider_key(self, name: str, provider: str, *, by: str | None = None) -> None:
        """Call the provider with the operator's key again."""

        async def write(db: Connection) -> None:
            _only(await _fetched(db, _BY_NAME, (name,)))
            sql = "DELETE FROM provider_keys WHERE project = ? AND provider = ?"
            async with db.execute(sql, (name, provider)) as cursor:
                if cursor.rowcount == 0:
                    raise NotFound("The project has no key of that provider.")
            await audit.note_change(db, "provider_key.remove", by=by, project=name, subject=provider)

        await self._db.write(write)
        self._bump()

    async def opened(self) -> list[tuple[str, str, str | Exception]]:
        """(project, provider, key) of every provider's key; an exception in the place of one that cannot be opened."""
        found: list[tuple[str, str, str | Exception]] = []
        for project, provider, sealed in map(tuple, await self._db.read(_SEALED)):
            try:
                found.append((project, provider, self._seal.open(sealed, project, provider)))
            except Exception as error:
                found.append((project, provider, error))
        return found

    def _check_plugins(self, before: Own, after: Own) -> None:
        """Refuse what a plugin finds wrong with a change. What it found wrong before, be it at another place of an array, stands
        in the way of no other change."""
        old = Counter(text for _, text in self._problems_of_plugins(before))
        new = []
        for loc, text in self._problems_of_plugins(after):
            old[text] -= 1
            if old[text] < 0:
                new.append((key_path(loc[1:])[:100], text))
        if new:
            raise InvalidRequest("; ".join(f"{key}: {text}" for key, text in new[:10]) + ".", param=new[0][0])

    def _problems_of_plugins(self, own: Own) -> list[tuple[Loc, str]]:
        config = self._host.config
        try:
            section = resolved_settings(config.project, own)
        except ValidationError:  # of an older muxx: a change that mends it is welcome
            return []
        return list(config.model_copy(update={"project": section}).problems_of_plugins())

    def _check_provider(self, name: str) -> None:
        """Only plugins know of more providers than the file and what is built in, and theirs are not known to every command."""
        known = {row.name for row in BUILT_IN} | self._host.config.providers.keys()
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        if name not in known and (near or not _VALID_NAME.fullmatch(name)):
            nearest = f" Did you mean '{near[0]}'?" if near else ""
            raise InvalidRequest(f"There is no provider of this name.{nearest}", param="provider")


async def reseal(db: Connection, old: Seal, new: Seal) -> int:
    """Within a transaction: encrypt every provider's key anew; how many there are. One that `old` cannot open stops it all."""
    sealed = list(map(tuple, await db.execute_fetchall(_SEALED)))
    for project, provider, text in sealed:
        try:
            again = new.shut(old.open(text, project, provider), project, provider)
        except CannotOpen:
            command = f"muxx projects provider-keys remove {project} {provider}"
            raise StartError(
                f"project {project}: its key of provider {provider} cannot be opened. With the old secret, `{command}`; "
                "then change the secret, and set the key anew.",
                3,
            ) from None
        await db.execute(_RESEAL, (again, project, provider))
    return len(sealed)


async def ensure_project(db: Connection, name: str) -> None:
    """Within a transaction that makes something for the project: make the project too, if there is none of that name.

    Raises `InvalidRequest` for one that is archived.
    """
    if await _insert(db, name, {}):
        return
    await _living(db, name)


async def _insert(db: Connection, name: str, own: Mapping[str, Any]) -> bool:
    """False when there is a project of this name."""
    values = ("proj_" + secrets.token_hex(10), name, time.time(), orjson.dumps(own).decode())
    async with db.execute(_INSERT, values) as cursor:
        return cursor.rowcount > 0


async def _living(db: Connection, name: str) -> ProjectRow:
    row = _only(await _fetched(db, _BY_NAME, (name,)))
    if row.archived_at is not None:
        raise InvalidRequest("The project is archived, so nothing about it changes. Restore it first.", param="project")
    return row


async def _fetched(db: Connection, sql: str, values: tuple[Any, ...]) -> list[Any]:
    return list(await db.execute_fetchall(sql, values))


def _only(rows: list[Any]) -> ProjectRow:
    if not rows:
        raise NotFound("There is no such project.")
    return _row(rows[0])


def _row(row: Any) -> ProjectRow:
    project_id, name, created_at, archived_at, settings = row
    return ProjectRow(project_id, name, created_at, archived_at, orjson.loads(settings))


def _can_be_sent(key: str) -> bool:
    try:
        TypeAdapter(ApiKey).validate_python(key)
    except ValidationError:
        return False
    return True

"""Projects and their settings, resolved once per request.

Invariants: a request that begins after a change was acknowledged is served by it, in every worker; an archived project's keys
are answered as keys that do not exist; a project of which something cannot be read is served nothing, rather than too much.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from .errors import AuthenticationError, MuxxError
from .projectsettings import resolved_settings, settings_of
from .settings import Project, ProjectSettings

if TYPE_CHECKING:
    from .config import Config
    from .host import Host
    from .projectstore import ProjectRow

REREAD_SECONDS = 15.0
"""For a command killed between its commit and its bump: what it did takes effect all the same, a little later."""

_NO_KEYS: Mapping[str, str] = {}
_log = logging.getLogger("muxx.projects")


class _Known(NamedTuple):
    project: Project
    keys: Mapping[str, str] = _NO_KEYS
    refusal: type[MuxxError] | None = None


class Projects:
    """Names to projects with every layer of their settings applied: a project's own, else `[project]` in the file, else what is
    built in. All of it is held in memory, as it was at `_version` of the shared counter "projects" or later."""

    def __init__(self, config: Config, host: Host) -> None:
        self._config = config
        self._host = host
        self._defaults = settings_of(config.project)
        self._known: dict[str, _Known] = {}
        self._version: int | None = None
        self._loading = asyncio.Lock()

    @property
    def stale(self) -> bool:
        """Some process has changed a project since they were read: `catch_up` before the next `resolve`."""
        return self._host.shared.version("projects") != self._version

    async def catch_up(self) -> None:
        """Return once what is in memory is of the counter's present value. Requests that wait share one reading."""
        async with self._loading:
            while self.stale:
                await self._load()

    async def reread(self) -> None:
        async with self._loading:
            await self._load()

    def resolve(self, name: str) -> Project:
        """The project of that name; one that the database does not know has the file's settings. Names come from authenticated
        identities only, so what is remembered is bounded by them.

        Raises `AuthenticationError` for an archived one, and `MuxxError` for one of which something cannot be read.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _Known(Project(name, self._defaults))
        if known.refusal is not None:
            raise known.refusal()
        return known.project

    def provider_keys(self, name: str) -> Mapping[str, str]:
        """The project's own keys, by the providers' names."""
        known = self._known.get(name)
        return _NO_KEYS if known is None else known.keys

    @property
    def defaults(self) -> ProjectSettings:
        """What holds for a project that sets nothing itself."""
        return self._defaults

    def own_settings(self) -> Mapping[str, ProjectSettings]:
        """Of every project that sets something itself, what holds for it, as it was read last: for work that looks at all."""
        return {name: known.project.settings for name, known in self._known.items() if known.project.settings != self._defaults}

    async def admit(self, name: str) -> None:
        """Raise what `resolve` does, as things stand now."""
        if self.stale:
            await self.catch_up()
        self.resolve(name)

    async def _load(self) -> None:
        """Read all rows. The counter is read before them: a change between the two is read now and looked for once more."""
        version = self._host.shared.version("projects")
        store = self._host.projects
        known = {row.name: self._known_of(row) for row in await store.rows()}
        keys: dict[str, dict[str, str]] = {}
        for name, provider, key in await store.opened():
            if isinstance(key, str):
                keys.setdefault(name, {})[provider] = key
            else:
                _log.error(
                    "project %s: its key of provider %s cannot be opened, so it is served nothing; set the key anew",
                    name,
                    provider,
                )
                known[name] = known[name]._replace(refusal=known[name].refusal or MuxxError)
        for name, own in keys.items():
            known[name] = known[name]._replace(keys=own)
        self._known = known
        self._version = version

    def _known_of(self, row: ProjectRow) -> _Known:
        try:
            project = Project(
                row.name, settings_of(resolved_settings(self._config.project, row.own)) if row.own else self._defaults
            )
        except ValidationError:
            _log.error("project %s: its settings cannot be read, so it is served nothing; set them anew", row.name)
            return _Known(Project(row.name, self._defaults), refusal=MuxxError)
        return _Known(project, refusal=AuthenticationError if row.archived_at is not None else None)

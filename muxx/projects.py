"""Projects and their settings, resolved once per request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .exchange import Limits, Project, ProjectSettings

if TYPE_CHECKING:
    from .config import Config

DEFAULT_PROJECT = "default"


class Projects:
    """Names to projects with every layer of their settings applied: today `[project]` in the file, else what is built in."""

    def __init__(self, config: Config) -> None:
        limits = Limits(**config.project.limits.model_dump())
        self._settings = ProjectSettings(
            store_content=config.project.store_content,
            content_retention_days=config.project.content_retention_days,
            cache_enabled=config.project.cache.enabled,
            cache_ttl=config.project.cache.ttl,
            limits=limits if any(limits) else None,
        )
        self._known: dict[str, Project] = {}

    def resolve(self, name: str) -> Project:
        """The project of that name. Names come from authenticated identities only, so what is remembered is bounded by them."""
        project = self._known.get(name)
        if project is None:
            project = self._known[name] = Project(name, self._settings)
        return project

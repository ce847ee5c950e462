"""The hooks: routes and commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from muxx import Route, hookimpl

if TYPE_CHECKING:
    import click


class Projects:
    """Lets admins make, set up and archive projects, and see who changed what. Keeps nothing itself."""

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import projects

        cli.add_command(projects)

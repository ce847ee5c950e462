"""The hooks: routes and commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from muxx import Route, hookimpl

from . import routes

if TYPE_CHECKING:
    import click


class Projects:
    """Lets admins make, set up and archive projects, and see who changed what. Keeps nothing itself."""

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        keys = "/v1/projects/{id}/provider-keys"
        return [
            Route("GET", "/v1/project", routes.show_own),
            Route("GET", "/v1/projects", routes.list_projects, "admin"),
            Route("POST", "/v1/projects", routes.create, "admin"),
            Route("GET", "/v1/projects/{id}", routes.show),
            Route("PATCH", "/v1/projects/{id}", routes.change, "admin"),
            Route("DELETE", "/v1/projects/{id}", routes.archive, "admin"),
            Route("GET", keys, routes.list_provider_keys, "admin"),
            Route("PUT", keys + "/{provider}", routes.set_provider_key, "admin"),
            Route("DELETE", keys + "/{provider}", routes.remove_provider_key, "admin"),
            Route("GET", "/v1/audit", routes.list_changes, "admin"),
        ]

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import projects

        cli.add_command(projects)

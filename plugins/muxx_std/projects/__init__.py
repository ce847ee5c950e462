"""Projects for those who administer them: routes and commands over `host.projects`, which is the kernel's.

The kernel owns the tables, for it resolves settings and picks provider keys on every request. How they are managed is a plugin
like any other, so that an operator who keeps projects elsewhere switches it off.

`plugin` is the hooks, `routes` and `commands` are what they bring, and `present` how a project looks in both.
"""

from .plugin import Projects

__all__ = ["Projects"]

"""Projects for those who administer them: routes and commands over `host.projects`, which is the kernel's.

The kernel owns the tables, for it resolves settings and picks provider keys on every request. How they are managed is a plugin
like any other, so that an operator who keeps projects elsewhere switches it off.
"""

from .plugin import Projects

__all__ = ["Projects"]

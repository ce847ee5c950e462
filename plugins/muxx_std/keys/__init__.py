"""Who may call: muxx's own keys, made on the command line, held in memory, revoked on the very next request.

`format` is the text of a key, `credential` which one a request carries, `store` its table, `plugin` the hooks, `routes` what
admins reach over HTTP, `commands` what the shell sees, `present` what both show.
"""

from .plugin import Keys

__all__ = ["Keys"]

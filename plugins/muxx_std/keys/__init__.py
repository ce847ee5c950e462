"""Who may call: muxx's own keys, made on the command line, held in memory, revoked on the very next request.

`format` is the text of a key, `store` its table, `plugin` the hooks, `commands` what the shell sees.
"""

from .plugin import Keys

__all__ = ["Keys"]

"""What happened: one row per request, a *generation*, readable over HTTP and on the command line.

`schema` is the tables and how a Record becomes a row, `filters` what may be asked for, `store` the SQL, `present` how a row looks
outside, `plugin` the hooks and routes, `commands` what the shell sees.
"""

from .plugin import Logs

__all__ = ["Logs"]

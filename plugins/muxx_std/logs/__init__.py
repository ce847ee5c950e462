"""What happened: one row per request, a *generation*, readable over HTTP and on the command line.

`schema` is the tables and how a Record becomes a row, `filters` what may be asked for, `store` writes rows and reads them.
`listing` finds a page of them, by the `indexes` where that is faster. `upkeep` is what becomes of stored rows: they are indexed,
and deleted by the rules of `retention` and `settings`, in `slices`; `kept` is what there is of them.

`plugin` is the hooks and routes, `exporting` gives all rows, `commands` and `retentioncommands` are for the shell, `present` is
how a row looks in all of them, and `described` says so in the OpenAPI document.
"""

from .plugin import Logs

__all__ = ["Logs"]

"""Spend caps: how much a project may spend in a day or a month; not passed by a cent, whatever the concurrency, on one host.

`worst` is the most a request may cost and `sizes` what models can do (`generate` makes its table), `account` what a project has
spent and holds, `holds` who holds it, `tally` what a process has not added up yet and `lists` the holds that end with it,
`ledger` takes holds and settles them, `refill` reads from rows what a crash or a reboot left open, `plugin` is the hooks,
`routes`, `commands` and `present` what an operator sees.
"""

from .plugin import SpendCaps

__all__ = ["SpendCaps"]

"""Alerts: somebody is told, once per crossing and window, of what a project spends or uses of its limits.

`settings` are who can be told, `rules` what a project wants to be told of; `spend` finds what has crossed them in the rows,
`plugin` in the standings of requests. A crossing is an event in `store`, with a delivery to each receiver, which `courier` takes
there by way of `webhook` and `mail`, in the words of `message`. `overview`, `routes` and `commands` show it all.
"""

from .plugin import Alerts

__all__ = ["Alerts"]

"""Limits: requests and tokens in a minute, requests in a day, requests at a time; exact, whatever the concurrency, on one host.

`minute`, `day` and `flying` are what is counted and how, `subject` what limits whom, `ledger` counts a request in all of them or
in none, `reserve` says how many tokens a request may come to, `plugin` is the hooks, `refill` rebuilds what a reboot forgot,
`commands` and `settingcommands` are for the shell, `routes` for HTTP, `present` is how it looks in both.
"""

from .plugin import RateLimits

__all__ = ["RateLimits"]

"""Analytics: what was spent, by whom and on what, and what the cache was good for, in milliseconds over any number of rows.

`schema` is the tables of sums and what keeps them true, `fold` adds rows to them, `periods` is calendars, `question` what may be
asked and of which table, `statement` the SQL of it, `figures` the answer, `hits` the answers that were given again most often,
`plugin` the hooks, `shapes`, `present`, `routes` and `commands` what an operator sees.
"""

from .plugin import Analytics

__all__ = ["Analytics"]

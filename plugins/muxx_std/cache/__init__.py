"""The exact cache: a request that was answered before is answered again, at no cost, and identical requests share one call.

`directives` is what a caller may say about it, `key` what makes two requests the same, `memory` the answers themselves, `plugin`
the hooks, `store` the SQL of the statistics, `routes` and `commands` what an operator sees.
"""

from .plugin import Cache

__all__ = ["Cache"]

"""The exact cache: a request that was answered before is answered again, at no cost, and identical requests share one call.

`directives` is what a caller may say about it, `key` what makes two requests the same, `memory` the answers themselves, `plugin`
the hooks and routes, `store` the SQL of the statistics, `commands` what the shell sees.
"""

from .plugin import Cache

__all__ = ["Cache"]

"""Metrics: `GET /metrics`, what Prometheus reads. One set for the host, whichever worker is asked.

`schema` is the table of sums and how rows of the log are added to them, `running` what the workers have under way, `exposition`
the text, `plugin` the hooks and the route.
"""

from .plugin import Metrics

__all__ = ["Metrics"]

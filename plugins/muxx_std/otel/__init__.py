"""Traces: a span of each request goes to a collector of OpenTelemetry's, in its GenAI conventions' words.

`settings` are the plugin's own, `store` which rows of the log are to be sent yet, `spans` what a row is as a span, `collector`
the way to who takes them, `plugin` the hooks.
"""

from .plugin import Traces

__all__ = ["Traces"]

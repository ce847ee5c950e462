"""The conformance suite: what any plugin has to keep to, whatever becomes of an exchange.

One small file in the plugin's own tests is all it takes:

    from muxx.testing.conformance import Conformance

    class TestMine(Conformance):
        plugin = Mine

It runs the plugin in a real gateway, in front of a scripted provider and between two plugins that look on, over every endpoint
that answers, in the formats of OpenAI, Anthropic and Google and translated between them, streamed and plain, cached and not,
alone and by several at once, answered, refused, failed, abandoned and crashed. Each test is one invariant, over all of it.

For a plugin that is installed: `python -m pytest -p muxx.testing.fixtures --pyargs muxx.testing.conformance --muxx-plugin NAME`.
"""

from __future__ import annotations

from .cases import FEW_WAYS, Case, matrix
from .evidence import Evidence, Subject
from .examining import examine
from .invariants import INVARIANTS, broken
from .suite import Conformance

__all__ = ["FEW_WAYS", "INVARIANTS", "Case", "Conformance", "Evidence", "Subject", "broken", "examine", "matrix"]

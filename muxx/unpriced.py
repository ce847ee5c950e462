"""The models that nobody has a price for, so that an operator hears of money that is not counted."""

from __future__ import annotations

import logging

from .targets import Target

MOST_TOLD = 100
"""Names come from clients: beyond as many, one more line says that there are others."""


class Unpriced:
    """The log names each model once. One whose provider is said to have no prices is none of them."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: set[tuple[str, str]] = set()

    def note(self, target: Target) -> None:
        """An answer of this target has no known cost."""
        named = target.provider.name, target.model
        if named in self._told or len(self._told) > MOST_TOLD or target.provider.prices == "none":
            return
        self._told.add(named)
        if len(self._told) > MOST_TOLD:
            self._log.warning("more models without a known price than are named here; GET /metrics and /v1/analytics count them")
            return
        advice = '[plugins.pricing] prices gives it one, prices = "none" of the provider says that there is none'
        self._log.warning("no price is known for model %s of provider %s, so its cost is null: %s", named[1], named[0], advice)

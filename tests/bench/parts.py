"""All parts of the bench, in the order of their page."""

from __future__ import annotations

from . import calls, counting, idle, log_store, memory, streams, tls, translation, workers
from .part import Part

PARTS: tuple[Part, ...] = (calls, streams, idle, memory, workers, tls, translation, log_store, counting)
BY_NAME = {part.NAME: part for part in PARTS}

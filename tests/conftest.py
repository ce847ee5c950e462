"""Fixtures of all tests: those of the kit that plugin authors use."""

from __future__ import annotations

import gc

pytest_plugins = ["muxx.testing.fixtures"]


def pytest_collection_finish() -> None:
    """Thousands of tests and the SDKs they use live to the end: the collector, which many tests call, need not look at them."""
    gc.collect()
    gc.freeze()

"""Fixtures of all tests: those of the kit that plugin authors use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import Distribution
from typing import Any

import hypothesis
import pytest
from loop_probe import LoopProbe
from money_kit import CHECKED, check_money, check_sums
from template_kit import Template
from thoroughness import examples

from muxx import discovery
from muxx.testing import running

pytest_plugins = ["muxx.testing.fixtures"]

hypothesis.settings.register_profile("muxx", max_examples=examples(100))
hypothesis.settings.load_profile("muxx")


def pytest_collection_finish() -> None:
    """Thousands of tests and the SDKs they use live to the end: the collector, which many tests call, need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _loop_probe() -> Iterator[LoopProbe]:
    probe = LoopProbe()
    with probe.watches():
        yield probe


@pytest.fixture(autouse=True)
def _nothing_holds_the_loop(_loop_probe: LoopProbe, request: pytest.FixtureRequest) -> Iterator[None]:
    """X04, in every test: see `loop_probe`."""
    _loop_probe.held.clear()
    yield
    assert _loop_probe.held == [] or request.node.get_closest_marker("holds_the_loop") is not None


@pytest.fixture(scope="session", autouse=True)
def _installed_plugins_are_found_once() -> Iterator[None]:
    """In the same folders as they were: to look through what is installed takes a fifth of a gateway's start."""
    look = discovery._distributions
    found: dict[object, list[Distribution]] = {}

    def look_once() -> Iterator[Distribution]:
        there = tuple((path, os.stat(path).st_mtime_ns) for path in sys.path if os.path.isdir(path))
        if there not in found:
            found[there] = list(look())
        return iter(found[there])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "_distributions", look_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _databases_are_copied() -> Iterator[None]:
    """For every gateway that begins one: see `template_kit`."""
    serve = running.serve_in_process
    template = Template()

    @asynccontextmanager
    async def lay_and_serve(loaded: Any, **options: Any) -> AsyncIterator[Any]:
        await template.lay(loaded)
        async with serve(loaded, **options) as served:
            yield served

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "serve_in_process", lay_and_serve)
        yield


@pytest.fixture(scope="session", autouse=True)
def _money_adds_up() -> Iterator[None]:
    """After every gateway that a test has run: see `money_kit`."""
    serve = running.serve_in_process

    @asynccontextmanager
    async def serve_and_check(loaded: Any, **options: Any) -> AsyncIterator[Any]:
        path = loaded.config.database.path
        async with serve(loaded, **options) as served:
            plugins = served.gateway.plugins.by_name
            yield served
        if CHECKED.get() and "spend_caps" in plugins:
            check_money(path.parent, path.stem)
        if CHECKED.get() and {"analytics", "logs"} <= plugins.keys():
            check_sums(path.parent, path.stem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "serve_in_process", serve_and_check)
        yield

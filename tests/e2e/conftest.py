"""Fixtures of the tests with real SDKs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from openai_kit import STALLS, TRANSPORTS, CountingGateway

from muxx.testing import clean_environment


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor a provider's setting on this machine leads a test astray."""
    foreign = {name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_"))}
    for name in (os.environ.keys() - clean_environment().keys()) | foreign:
        monkeypatch.delenv(name)


@pytest.fixture(params=TRANSPORTS)
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[CountingGateway]:
    """For what a transport may get wrong: the test runs with each."""
    async with CountingGateway({"server": {"transport": request.param}, "models": [STALLS]}) as running:
        yield running


@pytest.fixture
async def default_gateway() -> AsyncIterator[CountingGateway]:
    async with CountingGateway() as running:
        yield running

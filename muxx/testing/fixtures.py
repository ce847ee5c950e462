"""pytest fixtures. Ask for them in your conftest.py: `pytest_plugins = ["muxx.testing.fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from .settings import clean_environment
from .upstream import ScriptedUpstream

if TYPE_CHECKING:
    from .running import RunningGateway


@pytest_asyncio.fixture
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """A provider under the test's control."""
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def muxx_gateway(
    scripted_upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningGateway]:
    """A running gateway with the installed plugins, in front of `scripted_upstream`, untouched by this machine's environment."""
    from .running import RunningGateway  # here, so that tests without a gateway start without a server

    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    async with RunningGateway(upstream=scripted_upstream, directory=tmp_path) as gateway:
        yield gateway

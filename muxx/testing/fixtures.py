"""pytest fixtures. Ask for them in your conftest.py: `pytest_plugins = ["muxx.testing.fixtures"]`.

- `scripted_upstream`: a provider under the test's control.
- `muxx_gateway`: a running gateway in front of it, with the installed plugins and those of `muxx_plugins`, configured by
  `muxx_config`. Override these two in your conftest.py, or in a module: they are a mapping of names to classes, and what is laid
  over the configuration.
- `muxx_stage`: makes stages, on which a plugin goes through exchanges without a server: `stage = await muxx_stage(Mine)`.

With `-p muxx.testing.fixtures` pytest knows the options of the conformance suite for installed plugins: `--muxx-plugin NAME`,
`--muxx-settings JSON`, `--muxx-changes answers` and `--muxx-changes requests`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from .settings import clean_environment
from .upstream import ScriptedUpstream

if TYPE_CHECKING:
    from .running import RunningGateway
    from .stage import Stage


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("muxx", "conformance of a muxx plugin")
    group.addoption("--muxx-plugin", metavar="NAME", help="run muxx.testing.conformance for this installed plugin")
    group.addoption("--muxx-settings", metavar="JSON", default="{}", help="its settings, [plugins.NAME]")
    changes = {"action": "append", "choices": ("answers", "requests"), "default": []}
    group.addoption("--muxx-changes", help="what it may change; may be given twice", **changes)


@pytest_asyncio.fixture
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """A provider under the test's control."""
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def muxx_plugins() -> Mapping[str, type]:
    """Plugins, name to class, that `muxx_gateway` finds beside the installed ones. Override it."""
    return {}


@pytest.fixture
def muxx_config() -> Mapping[str, Any]:
    """What is laid over the configuration of `muxx_gateway`. Override it."""
    return {}


@pytest_asyncio.fixture
async def muxx_gateway(
    scripted_upstream: ScriptedUpstream,
    muxx_plugins: Mapping[str, type],
    muxx_config: Mapping[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[RunningGateway]:
    """A running gateway in front of `scripted_upstream`, untouched by this machine's environment."""
    from .running import RunningGateway  # here, so that tests without a gateway start without a server

    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    gateway = RunningGateway(muxx_config, plugins=muxx_plugins, upstream=scripted_upstream, directory=tmp_path)
    async with gateway:
        yield gateway


@pytest_asyncio.fixture
async def muxx_stage() -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    """Makes stages: `stage = await muxx_stage(Mine, {"option": 1})`. They are taken down when the test is over."""
    from .stage import Stage

    async with AsyncExitStack() as stack:

        async def make(plugin: object, settings: Mapping[str, Any] | None = None, **options: Any) -> Stage:
            return await stack.enter_async_context(Stage(plugin, settings, **options))

        yield make

"""One gateway for all tests of a module that asks for `gateway`, in the module's own event loop (`http_kit.one_loop`)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from carrying_kit import serving

from muxx.testing import RunningGateway, chat


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(request: pytest.FixtureRequest) -> AsyncIterator[RunningGateway]:
    """Started with the module's `GATEWAY_CONFIG`, where it has one."""
    async with serving(config=getattr(request.module, "GATEWAY_CONFIG", {})) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> RunningGateway:
    """The module's gateway, before an upstream that answers everything and has been asked nothing."""
    shared_gateway.upstream.script(chat())
    shared_gateway.upstream.requests.clear()
    return shared_gateway

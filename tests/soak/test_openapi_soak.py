"""A running gateway keeps to its OpenAPI document, asked fifty times as much as in the fast tests."""

from __future__ import annotations

import asyncio

import pytest
from openapi_kit import MODES, Things, fuzz

from muxx.testing import RunningGateway

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ["nobody", "project", "admin"])
async def test_every_answer_conforms_to_the_document(role: str, mode: str) -> None:
    async with RunningGateway(mock=True) as gateway:
        things = await Things.of(gateway)
        assert await asyncio.to_thread(fuzz, things, role, mode, 200) > 1000
        assert (await gateway.get("/readyz")).status == 200

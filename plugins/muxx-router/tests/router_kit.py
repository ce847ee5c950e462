"""What the tests share: three models with prices everybody knows, and gateways that route among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import muxx
from muxx.testing import RawResponse, RunningGateway

from muxx_router import NAME, Router
from muxx_router.settings import RouterConfig

IS_INSTALLED = any(entry.name == NAME for entry in metadata.entry_points(group="muxx"))
PLUGINS = {} if IS_INSTALLED else {NAME: Router}
"""What a gateway under test has to be given: nothing, where the distribution is installed and found by itself."""

FLASH, MINI, LARGE = "google/gemini-1.5-flash", "openai/gpt-4o-mini", "openai/gpt-4o"
"""Per million tokens of input and output: $0.075 and $0.30, $0.15 and $0.60, $2.50 and $10.00."""
ROUTE = "router/cheapest"

FACTS: dict[str, dict[str, Any]] = {
    FLASH: {"context": 1_000_000, "max_output": 8_192, "has": ["vision", "json"]},
    MINI: {"context": 128_000, "max_output": 16_384, "has": ["tools", "vision", "json"]},
    LARGE: {"context": 128_000, "max_output": 16_384, "has": ["tools", "vision", "json", "audio"]},
}


def table(route: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """`[plugins.router]` with one route."""
    return {"models": FACTS, "routes": {ROUTE: route or {"candidates": [LARGE, MINI, FLASH]}}} | more


def config(route: Mapping[str, Any] | None = None, **more: Any) -> RouterConfig:
    return RouterConfig.model_validate_json(json.dumps(table(route, **more)), strict=True)


def whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which the routed name is known."""
    return {"models": [{"name": ROUTE, "targets": [MINI, FLASH, LARGE]}], "plugins": {NAME: settings}}


def gateway_for(route: Mapping[str, Any] | None = None, plugins: Mapping[str, type] | None = None, **more: Any) -> RunningGateway:
    return RunningGateway(whole(table(route, **more)), plugins={**PLUGINS, **(plugins or {})})


def asked(gateway: RunningGateway) -> list[str | None]:
    """The models the providers were asked for, in order."""
    return [request.model for request in gateway.upstream.requests]


async def decision(gateway: RunningGateway, response: RawResponse) -> dict[str, Any]:
    """What the row says of the routing."""
    found: dict[str, Any] = (await gateway.get_row(response.request_id))["attributes"][NAME]
    return found


def limited_to(*models: str) -> type:
    """An authenticator that lets everybody use these models only."""

    class Limited:
        @muxx.hookimpl
        def authenticate(self) -> muxx.Identity:
            return muxx.Identity("default", models=models)

    return Limited

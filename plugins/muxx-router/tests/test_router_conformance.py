"""The conformance suite of muxx, over a name that is routed: of its models one can take what the suite asks."""

from __future__ import annotations

from typing import ClassVar

import pytest
from muxx.testing.conformance import FEW_WAYS, Conformance
from router_kit import FACTS, LARGE, MINI

from muxx_router import NAME, Router

SMALL = "openai/gpt-3.5-turbo"
"""Its context holds no answer, so that nobody is left to fall back to: a failure stays one."""


class TestRouter(Conformance):
    plugin = Router
    name = NAME
    settings: ClassVar = {
        "models": {
            MINI: FACTS[MINI] | {"has": ["text_completion", "embeddings"]},
            SMALL: {"context": 10, "max_output": 10},
        },
        "routes": {"gpt-4o": {"candidates": [SMALL, MINI]}},
    }
    ways = FEW_WAYS


@pytest.mark.soak
class TestRouterOnAllWays(TestRouter):
    ways = ()


class TestRouterOfOtherNames(Conformance):
    """What is not routed goes where it was planned."""

    plugin = Router
    name = NAME
    ways = FEW_WAYS
    settings: ClassVar = {
        "models": {LARGE: FACTS[LARGE]},
        "routes": {"router/cheapest": {"candidates": [LARGE]}},
    }
    config: ClassVar = {"models": [{"name": "router/cheapest", "targets": [LARGE]}]}

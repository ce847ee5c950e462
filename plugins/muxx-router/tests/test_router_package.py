"""The distribution: what makes it a plugin, what its settings may say, and what its page says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import muxx
import orjson
import pytest
from muxx.testing import RunningGateway
from pydantic import BaseModel
from router_kit import FACTS, LARGE, MINI, PLUGINS, ROUTE, table, whole

from muxx_router import NAME
from muxx_router.demand import MEDIA
from muxx_router.settings import ModelFacts, RouteConfig, RouterConfig, Tier

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


# ── the page ──


def shown(default: Any) -> str:
    """A default as the page writes it."""
    return "none" if default in (None, (), {}) else f"`{orjson.dumps(default).decode()}`"


@pytest.mark.parametrize(
    ("cls", "before"), [(RouterConfig, ""), (ModelFacts, "models.NAME."), (RouteConfig, "routes.NAME."), (Tier, "tiers[].")]
)
def test_the_page_names_every_option_with_its_default(cls: type[BaseModel], before: str) -> None:
    for option, field in cls.model_fields.items():
        if option not in muxx.PluginConfig.model_fields and option not in ("models", "routes"):
            row = re.search(rf"^\| `{re.escape(before + option)}` \| (.+?) \|", PAGE, re.M)
            assert row is not None, option
            default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
            assert row[1] == default, option


@pytest.mark.parametrize("block", re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S))
async def test_a_gateway_starts_with_the_configuration_on_the_page_and_routes_its_names(block: str) -> None:
    settings = tomllib.loads(block)
    async with RunningGateway(settings, plugins=PLUGINS) as gateway:
        for name in settings["plugins"][NAME]["routes"]:
            response = await gateway.chat(model=name)
            row = await gateway.get_row(response.request_id)
            assert (response.status, len(row["attributes"][NAME]["order"]) > 1) == (200, True)


def test_the_page_names_every_need() -> None:
    for need in {*MEDIA.values(), "tools", "json", "embeddings", "text_completion"}:
        assert f"`{need}`" in PAGE


# ── settings ──


async def problems(settings: Mapping[str, Any]) -> list[str]:
    """What a start with these settings fails with."""
    with pytest.raises(muxx.ConfigError) as caught:
        async with RunningGateway(whole(settings), plugins=PLUGINS):
            pass
    return [line.partition("plugins.router")[2] for line in caught.value.errors]


def tiers(*limits: int | None) -> dict[str, Any]:
    return {"tiers": [{"candidates": [MINI]} | ({} if limit is None else {"up_to": limit}) for limit in limits]}


LIMITS = "every tier but the last needs an up_to, each above the one before"
SLIPS: list[tuple[dict[str, Any], str]] = [
    (table({"candidates": [MINI], "tiers": [{"candidates": [LARGE]}]}), "give it either candidates or tiers"),
    (table({"expected_output": 5}), "give it either candidates or tiers"),
    (table(tiers(5, 7)), "the last of its tiers is for all longer prompts, so it may have no up_to"),
    (table(tiers(7, 5, None)), LIMITS),
    (table(tiers(5, 5, None)), LIMITS),
    (table(tiers(None, None)), LIMITS),
    (table({"candidates": [MINI, "mini"]}), "candidate 2 of route 1 needs a table under models, with its context at least"),
    (table({"candidates": [ROUTE]}, models=FACTS | {ROUTE: {"context": 1}}), "candidate 1 of route 1 is itself a route; name a "
     "model there"),
    (table({"candidates": [MINI], "unpriced": "lst"}), "must be 'last' or 'exclude' (did you mean 'last'?)"),
    (table(models=FACTS | {MINI: {"contxt": 1, "context": 1}}), "unknown key (did you mean 'context'?)"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), SLIPS)
async def test_a_slip_is_told_with_its_mend(settings: dict[str, Any], said: str) -> None:
    [line] = await problems(settings)
    assert line.endswith(f": {said}"), line


async def test_no_name_and_no_candidate_may_hold_a_star() -> None:
    assert await problems(table() | {"routes": {"router/*": {"candidates": [MINI]}}}) != []
    assert await problems(table({"candidates": ["gpt-*"]})) != []


async def test_without_routes_it_does_nothing() -> None:
    async with RunningGateway(plugins=PLUGINS) as gateway:
        assert (await gateway.chat()).status == 200

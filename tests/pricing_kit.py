"""What the tests of pricing share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muxx import Cost, Provider, Target, Usage
from muxx_std.pricing import Pricing
from muxx_std.pricing.overrides import PricingConfig
from muxx_std.pricing.source import VENDORS
from muxx_std.pricing.table import shipped_table

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
MILLION = 10**6
USD = 10**12
VERSION = "genai-prices-0.2.3"
MODELS = [(vendor, model.id) for vendor, rows in shipped_table().vendors.items() for model in rows.models]


def pricing(**settings: Any) -> Pricing:
    return Pricing(PricingConfig.model_validate(settings))


def target(model: str, prices: str | None = None) -> Target:
    return Target(Provider("somewhere", "http://127.0.0.1:1/v1", prices=prices), model)


def price(model: str, usage: Usage, vendor: str | None = None, **settings: Any) -> Cost | None:
    return pricing(**settings).price(target(model, vendor), usage, NOW)


DATA: list[dict[str, Any]] = [
    {
        "id": "openai",
        "models": [
            {
                "id": "m",
                "match": {"or": [{"equals": "M"}, {"regex": r"^m-\d{4}$"}]},
                "prices": [
                    {"prices": {"input_mtok": 0.1, "output_mtok": {"base": 2, "tiers": [{"start": 100, "price": 3}]}}},
                    {
                        "constraint": {"start_date": "2026-01-01"},
                        "prices": {"input_mtok": 0.2, "output_reasoning_mtok": 7, "output_mtok": 2},
                    },
                ],
            }
        ],
    },
    {"id": "anthropic", "models": []},
    {"id": "google", "models": [], "fallback_model_providers": ["anthropic", "elsewhere"]},
    {"id": "elsewhere", "models": "not looked at"},
    *({"id": vendor, "models": []} for vendor in VENDORS if vendor not in ("openai", "anthropic", "google")),
]
"""In the format of genai-prices' data.json."""


def data_file(directory: Path, data: Any) -> Path:
    path = directory / "data.json"
    path.write_text(json.dumps(data))
    return path

"""The price table: read, checked and compiled once; looked up by vendor, model and service tier.

The file is JSON that `generate.py` writes: vendors, each with its models in matching order (the first model whose rule holds is
the one), each with its prices from a date on, in pico-dollars per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from muxx import StartError

from .match import Matcher, compile_rule, with_dashed_date
from .rates import KINDS, Period, Rates, Tariff

SHIPPED = Path(__file__).with_name("prices.json")
FORMAT = 1
"""Of the file. A reader refuses another one instead of guessing."""


@dataclass(frozen=True, slots=True)
class Model:
    """One row: its rule, its usual prices, and those of the service tiers that have their own."""

    id: str
    matches: Matcher
    tariff: Tariff
    service_tiers: Mapping[str, Tariff]

    def in_tier(self, service_tier: str | None) -> Tariff:
        return self.service_tiers.get(service_tier, self.tariff) if service_tier else self.tariff


@dataclass(frozen=True, slots=True)
class Vendor:
    models: tuple[Model, ...]
    fallback: tuple[str, ...] = ()
    """Vendors whose models this one serves too, at their usual prices (Google serves Anthropic's)."""


@dataclass(frozen=True, slots=True)
class Table:
    version: str
    vendors: Mapping[str, Vendor] = field(repr=False)

    def find(self, vendor: str, name: str, service_tier: str | None = None) -> Tariff | None:
        """The tariff for a model's name as a request gives it; None when the vendor's table does not know it."""
        rows = self.vendors.get(vendor)
        if rows is None:
            return None
        name = name.lower()
        for candidate in dict.fromkeys((name, with_dashed_date(name))):
            for model in rows.models:
                if model.matches(candidate):
                    return model.in_tier(service_tier)
            for model in self._fallback_models(rows):
                if model.matches(candidate):
                    return model.tariff
        return None

    def _fallback_models(self, rows: Vendor) -> Iterator[Model]:
        for other in rows.fallback:
            yield from self.vendors[other].models


@cache
def shipped_table() -> Table:
    """The table in the package. Frozen, so that every gateway of the process can hold the same one."""
    return read_table(SHIPPED)


def read_table(path: Path) -> Table:
    """The table in a file; `StartError` with one clear line when it is none."""
    try:
        return parse_table(path.read_bytes())
    except OSError as error:
        raise StartError(f"price table {path} cannot be read ({error.strerror}); write one with `muxx prices update`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartError(f"{path} is not a price table ({error}); write one with `muxx prices update`") from error


def parse_table(data: bytes) -> Table:
    """The table in the bytes of its file. Everything is compiled here, so a broken row shows at start and not at a request."""
    raw = orjson.loads(data)
    if raw["format"] != FORMAT:
        raise ValueError(f"its format is {raw['format']!r}, this muxx reads {FORMAT}")
    version = str(raw["version"])
    vendors = {
        name: Vendor(tuple(_model(m, version) for m in rows["models"]), tuple(rows.get("fallback", ())))
        for name, rows in raw["vendors"].items()
    }
    for name, vendor in vendors.items():
        if not vendors.keys() >= set(vendor.fallback):
            raise ValueError(f"vendor {name!r} falls back to one that is not there")
    return Table(version, vendors)


def _model(raw: Mapping[str, Any], version: str) -> Model:
    model = raw["id"]
    tiers = {tier: _tariff(model, version, rows) for tier, rows in raw.get("service_tiers", {}).items()}
    return Model(model, compile_rule(raw["match"]), _tariff(model, version, raw["prices"]), tiers)


def _tariff(model: str, version: str, rows: list[Mapping[str, Any]]) -> Tariff:
    periods = tuple(sorted((_period(row) for row in rows), key=lambda p: p.starts, reverse=True))
    if not periods:
        raise ValueError(f"{model} has no prices")
    return Tariff(model, version, periods)


def _period(row: Mapping[str, Any]) -> Period:
    starts = datetime.fromisoformat(row["from"]).replace(tzinfo=UTC).timestamp() if "from" in row else 0.0
    if not row["rates"]:
        return Period(starts, None)
    tiers = sorted((tier["above"], _rates(tier["rates"])) for tier in row.get("tiers", ()))
    return Period(starts, _rates(row["rates"]), tuple(tiers))


def _rates(raw: Mapping[str, Any]) -> Rates:
    for kind, price in raw.items():
        if kind not in KINDS or type(price) is not int or price < 0:
            raise ValueError(f"{kind} = {price!r} is not a price in pico-dollars per token")
    return Rates.of(raw)

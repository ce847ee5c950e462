"""The price table: read once; looked up by vendor, model and service tier.

The file is JSON that `generate.py` writes: vendors, each with its models in matching order (the first model whose rule holds is
the one), each with its prices from a date on, in pico-dollars per token. Rules are compiled when the table is read, a row's
prices at its first use: of a thousand and more rows a gateway needs a few, and every command reads the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from muxx import StartError

from .match import Matcher, compile_rule, with_dashed_date
from .rates import KINDS, Hours, Period, Rates, Tariff

SHIPPED = Path(__file__).with_name("prices.json")
FORMAT = 2
"""Of the file. A reader refuses another one instead of guessing."""


class Model:
    """One row: its rule, its usual prices, and those of the service tiers that have their own."""

    def __init__(self, raw: Mapping[str, Any], version: str) -> None:
        self.id: str = raw["id"]
        self.matches: Matcher = compile_rule(raw["match"])
        self._raw = raw
        self._version = version

    @cached_property
    def tariff(self) -> Tariff:
        return _tariff(self.id, self._version, self._raw["prices"])

    @cached_property
    def service_tiers(self) -> Mapping[str, Tariff]:
        return {tier: _tariff(self.id, self._version, rows) for tier, rows in self._raw.get("service_tiers", {}).items()}

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
    """The table in the package, which every gateway of the process can hold. Its rows are as the generator left them: checked."""
    return _read(SHIPPED, _parsed)


def read_table(path: Path) -> Table:
    """The table in a file; `StartError` with one clear line when it is none."""
    return _read(path, parse_table)


def _read(path: Path, parse: Callable[[bytes], Table]) -> Table:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise StartError(f"price table {path} cannot be read ({error.strerror}); write one with `muxx prices update`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartError(f"{path} is not a price table ({error}); write one with `muxx prices update`") from error


def parse_table(data: bytes) -> Table:
    """The table in the bytes of its file, every row worked out, so that a broken one shows at start and not at a request."""
    table = _parsed(data)
    for rows in table.vendors.values():
        for model in rows.models:
            _ = model.tariff, model.service_tiers
    return table


def _parsed(data: bytes) -> Table:
    raw = orjson.loads(data)
    if raw["format"] != FORMAT:
        raise ValueError(f"its format is {raw['format']!r}, this muxx reads {FORMAT}")
    version = str(raw["version"])
    vendors = {
        name: Vendor(tuple(Model(m, version) for m in rows["models"]), tuple(rows.get("fallback", ())))
        for name, rows in raw["vendors"].items()
    }
    for name, vendor in vendors.items():
        if not vendors.keys() >= set(vendor.fallback):
            raise ValueError(f"vendor {name!r} falls back to one that is not there")
    return Table(version, vendors)


def _tariff(model: str, version: str, rows: list[Mapping[str, Any]]) -> Tariff:
    periods = tuple(sorted((_period(row) for row in rows), key=lambda p: p.starts, reverse=True))
    if not periods:
        raise ValueError(f"{model} has no prices")
    return Tariff(model, version, periods)


def _period(row: Mapping[str, Any]) -> Period:
    starts = datetime.fromisoformat(row["from"]).replace(tzinfo=UTC).timestamp() if "from" in row else 0.0
    return _prices(row, starts, tuple(map(_hours, row.get("hours", ()))))


def _hours(row: Mapping[str, Any]) -> Hours:
    return Hours(_second(row["from"]), _second(row["to"]), _prices(row, 0.0))


def _second(clock: str) -> float:
    at = time.fromisoformat(clock)
    return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6


def _prices(row: Mapping[str, Any], starts: float, hours: tuple[Hours, ...] = ()) -> Period:
    if not row["rates"]:
        return Period(starts, None, hours=hours)
    tiers = sorted((tier["above"], _rates(tier["rates"])) for tier in row.get("tiers", ()))
    return Period(starts, _rates(row["rates"]), tuple(tiers), hours)


def _rates(raw: Mapping[str, Any]) -> Rates:
    for kind, price in raw.items():
        if kind not in KINDS or type(price) is not int or price < 0:
            raise ValueError(f"{kind} = {price!r} is not a price in pico-dollars per token")
    return Rates.of(raw)

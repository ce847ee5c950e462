"""genai-prices' data, read from its package or from its `data.json`, in one checked shape.

Only what pricing needs is kept; everything else in the data is ignored, so that its growth breaks nothing here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

PACKAGE = "genai-prices"


class SourceError(Exception):
    """The data cannot be had, or cannot be turned into a table. The message says what to do."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SourceTier(_Lenient):
    start: int
    price: Decimal


class Tiered(_Lenient):
    base: Decimal
    tiers: tuple[SourceTier, ...]


class _Constraint(BaseModel):
    """When a price holds. A condition of a kind that is not known here is refused, for it may not be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str | None = None


class FromDay(_Constraint):
    """From the day on (UTC)."""

    start_date: date


class AtHours(_Constraint):
    """Every day from one time until another, which lies past midnight when it is the earlier one. UTC, where no zone is given."""

    start_time: time
    end_time: time


PriceMap = Mapping[str, Decimal | Tiered | None]


class Conditional(_Lenient):
    prices: PriceMap
    constraint: FromDay | AtHours | None = None

    def holds_on(self, day: date) -> bool:
        """Whether it holds for all of the day."""
        return self.constraint is None or (isinstance(self.constraint, FromDay) and day >= self.constraint.start_date)


class Variant(Conditional):
    constraint: FromDay | None = None
    when: Mapping[str, str]


class SourceModel(_Lenient):
    id: str
    match: Any
    prices: PriceMap | tuple[Conditional, ...]
    price_variants: tuple[Variant, ...] | None = None


class SourceProvider(_Lenient):
    id: str
    models: tuple[SourceModel, ...]
    fallback_model_providers: tuple[str, ...] | None = None


VENDORS = (
    "openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "moonshotai", "perplexity",
    "groq", "cerebras", "together", "fireworks", "openrouter", "azure",
)  # fmt: skip
"""Whose prices the table holds: who makes models first, then who serves those of others. Moonshot is there for Azure, which
serves its models at its prices. Other providers' entries in the data are not looked at."""

_PROVIDERS = TypeAdapter(list[SourceProvider])


def installed() -> tuple[str, list[SourceProvider]]:
    """The version and data of the installed genai-prices."""
    try:
        from genai_prices.data import providers
    except ImportError as error:
        raise SourceError(
            f"{PACKAGE} is not installed: `pip install -U {PACKAGE}`, or give its data file with --from FILE"
        ) from error
    version = f"{PACKAGE}-{metadata.version(PACKAGE)}"
    return version, _checked([_plain(p) for p in providers if p.id in VENDORS], version)


def from_file(path: Path) -> tuple[str, list[SourceProvider]]:
    """The data of a `data.json` in genai-prices' format; its version is the file's digest."""
    try:
        data = path.read_bytes()
        raw = json.loads(data, parse_float=Decimal)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, list):
        raise SourceError(f"{path} is not in {PACKAGE}' data format: it must be an array of providers")
    wanted = [entry for entry in raw if isinstance(entry, dict) and entry.get("id") in VENDORS]
    return f"{PACKAGE}-data-{hashlib.sha256(data).hexdigest()[:12]}", _checked(wanted, str(path))


def _checked(raw: list[Any], origin: str) -> list[SourceProvider]:
    try:
        return _PROVIDERS.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"{origin} is not in {PACKAGE}' data format: {where}: {first['msg']}") from error


def _plain(value: Any) -> Any:
    """The package's objects as the JSON they stand for: `or_` is `or`, a ModelPrice is the mapping in its attributes."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value).__name__ == "ModelPrice":
        return {key: _plain(item) for key, item in vars(value).items()}
    if dataclasses.is_dataclass(value):
        names = (f.name for f in dataclasses.fields(value))
        return {name.rstrip("_"): _plain(getattr(value, name)) for name in names if not name.startswith("_")}
    return value

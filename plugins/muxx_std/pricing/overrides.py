"""`[plugins.pricing]`: the operator's own prices, in USD per 1M tokens, exact because they are written as strings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from muxx import Config, PluginConfig

from .rates import KINDS, Period, Rates, Tariff
from .table import shipped_table

_USD = r"[0-9]{1,7}(\.[0-9]{1,6})?"


def pico_per_token(value: object) -> int:
    """A price in USD per 1M tokens as integer pico-dollars per token: $1 per 1M tokens is a million of them."""
    if not isinstance(value, str) or re.fullmatch(_USD, value) is None:
        raise ValueError('write USD per 1M tokens as a string with at most six decimals, e.g. "2.50"')
    whole, _, rest = value.partition(".")
    return int(whole) * 10**6 + int(rest.ljust(6, "0"))


Usd = Annotated[int, BeforeValidator(pico_per_token), WithJsonSchema({"type": "string", "pattern": f"^{_USD}$"})]


class _Prices(BaseModel):
    """A kind left out costs what the kind it is part of costs: cached input as input, reasoning as output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Usd
    output: Usd
    cache_read: Usd | None = None
    cache_write: Usd | None = None
    reasoning: Usd | None = None
    input_audio: Usd | None = None
    output_audio: Usd | None = None
    cache_read_audio: Usd | None = None
    cache_write_1h: Usd | None = None
    input_image: Usd | None = None
    output_image: Usd | None = None
    cache_read_image: Usd | None = None
    input_video: Usd | None = None
    output_video: Usd | None = None

    def rates(self) -> Rates:
        return Rates.of({kind: price for kind in KINDS if (price := getattr(self, kind)) is not None})


class OverrideTier(_Prices):
    """Prices of every token of a request whose input is longer than `above` tokens."""

    above: int = Field(gt=0)


class Override(_Prices):
    """Prices of the models whose name `model` matches (`*` stands for anything), at one vendor or at all."""

    model: str = Field(min_length=1)
    vendor: str | None = None
    tiers: tuple[OverrideTier, ...] = ()

    def tariff(self) -> Tariff:
        tiers = sorted(((tier.above, tier.rates()) for tier in self.tiers), key=lambda step: step[0])
        digest = hashlib.sha256(orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()
        return Tariff(self.model, f"override:{digest[:12]}", (Period(0.0, self.rates(), tuple(tiers)),))


class PricingConfig(PluginConfig):
    prices: tuple[Override, ...] = ()
    """Your own prices, looked through in order and before the table."""
    table: Path | None = None
    """A table written by `muxx prices update`, relative to this file; unset: the one muxx ships."""

    def problems_in(self, config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Providers of the file that name a price list nobody has. A table of one's own may not be written yet, so what is in
        it is looked at by the start."""
        if self.table is not None:
            return
        known = ("none", *shipped_table().vendors, *(row.vendor for row in self.prices if row.vendor is not None))
        for name, provider in config.providers.items():
            if provider.prices is not None and provider.prices not in known:
                near = get_close_matches(provider.prices, known, n=1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                yield ("providers", name, "prices"), f"there is no price list of this name{hint}"

    def table_path(self, config_file: Path | None) -> Path | None:
        """Where the table is: relative to the configuration file, as every path in it is."""
        return config_file.parent / self.table if self.table is not None and config_file is not None else self.table

"""Which prices apply: the operator's own first, then the table. What was found is remembered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from muxx import Provider, StartError

from .match import glob
from .overrides import Override, PricingConfig
from .rates import Tariff
from .table import Table, read_table, shipped_table

NO_PRICES = "none"
"""What a provider's row says when its models have no price."""

LONGEST_NAME = 256
REMEMBERED = 4096
"""Model names come from clients, so both the length of one and the number kept are bounded."""


class PriceBook:
    """One table under one list of overrides, both frozen: a name means the same price list for the book's whole life."""

    def __init__(self, table: Table, overrides: Iterable[Override] = ()) -> None:
        self.table = table
        self.overrides = tuple((row.vendor, glob(row.model), row.tariff()) for row in overrides)
        self._remembered = lru_cache(REMEMBERED)(self._find)

    @classmethod
    def open(cls, settings: PricingConfig, config_file: Path | None) -> PriceBook:
        """The book the settings ask for; `StartError` when their table cannot be used."""
        path = settings.table_path(config_file)
        return cls(shipped_table() if path is None else read_table(path), settings.prices)

    def find(self, vendor: str, name: str, service_tier: str | None = None) -> Tariff | None:
        """The prices of the model at the vendor; None when they are unknown."""
        return self._remembered(vendor, name, service_tier) if len(name) <= LONGEST_NAME else None

    def _find(self, vendor: str, name: str, service_tier: str | None) -> Tariff | None:
        if vendor == NO_PRICES:
            return None
        lower = name.lower()
        for of_vendor, matches, tariff in self.overrides:
            if of_vendor in (None, vendor) and matches(lower):
                return tariff
        return self.table.find(vendor, name, service_tier)

    @property
    def vendors(self) -> list[str]:
        """Every vendor with prices, the table's first."""
        return list(dict.fromkeys((*self.table.vendors, *(vendor for vendor, _, _ in self.overrides if vendor is not None))))

    def check(self, provider: Provider, plugin: str | None = None) -> None:
        """Refuse a row that names a price list nobody has: a slip of the pen would make all its costs unknown. Whose it is: the
        plugin's, or the file's."""
        if provider.prices is None or provider.prices in (NO_PRICES, *self.vendors):
            return
        near = difflib.get_close_matches(provider.prices, (NO_PRICES, *self.vendors), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f'use one of {", ".join(self.vendors)}, or "none"'
        place = f"providers.{provider.name}.prices" if plugin is None else f"plugin {plugin!r}: its provider {provider.name!r}"
        raise StartError(f"{place}: there is no price list {provider.prices!r}; {hint}")

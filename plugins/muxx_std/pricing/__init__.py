"""What an answer costs. `price` is integer arithmetic on a compiled row of the price table, about a microsecond.

The table is `prices.json`, generated from genai-prices' data (see NOTICE). The operator's own prices in `[plugins.pricing]` go
before it. A model nobody has a price for costs None, never 0.

`rates` is the arithmetic, `table` the file and `match` which names a row of it is for, `overrides` the operator's own prices, and
`book` which of both applies. `adjustments` corrects what rows say they cost. `commands` and `reprice` are for the shell, and
`generate` makes the file of what `source` reads, in the rules that `clauses` translates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from muxx import Cost, Target, Usage, hookimpl

from .adjustments import MIGRATIONS
from .book import PriceBook
from .overrides import PricingConfig
from .table import shipped_table

if TYPE_CHECKING:
    import click

    from muxx import Gateway

__all__ = ["Pricing"]


class Pricing:
    """A provider's models are priced by its row's vendor, or else by its format's; `prices = "none"` prices none of them."""

    Config = PricingConfig
    migrations = MIGRATIONS

    def __init__(self, config: PricingConfig) -> None:
        self.config = config
        self.book = PriceBook(shipped_table(), config.prices)

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """A gateway opens the table its file names, and does not start with a provider whose prices nobody has."""
        self.book = PriceBook.open(self.config, gateway.config.path)
        for provider in gateway.providers.values():
            overlay = gateway.config.providers.get(provider.name)
            in_file = overlay is not None and overlay.prices is not None
            self.book.check(provider, None if in_file else gateway.plugin_of_provider.get(provider.name))
        yield

    @hookimpl
    def price(self, target: Target, usage: Usage, at: float) -> Cost | None:
        tariff = self.book.find(target.provider.vendor, target.model, usage.service_tier)
        return None if tariff is None else tariff.cost(usage, at)

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import prices_group

        cli.add_command(prices_group(self.config))

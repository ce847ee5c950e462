"""`muxx prices reprice`: what rows would have cost by the prices of today's table and file, and the difference booked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from muxx import Config, Host, MomentArgument, config_option, echo_json, known_providers, run_async, table, usd

from .adjustments import MIGRATIONS, Correction, PricedRow, Span, book, count, pages
from .book import PriceBook
from .match import glob
from .overrides import PricingConfig

if TYPE_CHECKING:
    from muxx import Provider


@dataclass
class Total:
    """What the rows of one model and pair of tables come to."""

    rows: int = 0
    before_pico: int = 0
    after_pico: int = 0


@dataclass
class Outcome:
    rows: int = 0
    """Rows looked at."""
    unpriced: int = 0
    """Those of no known price: they stay as they are."""
    changed_meanwhile: int = 0
    totals: dict[tuple[str, str | None, str], Total] = field(default_factory=dict)

    def add(self, correction: Correction) -> None:
        row, cost = correction
        total = self.totals.setdefault((row.model, row.version, cost.price_version), Total())
        total.rows += 1
        total.before_pico += row.pico or 0
        total.after_pico += cost.total_pico

    @property
    def difference_pico(self) -> int:
        return sum(total.after_pico - total.before_pico for total in self.totals.values())


@click.command("reprice")
@config_option
@click.option("--from", "since", type=MomentArgument(), required=True, help="Rows from this moment on.")
@click.option("--to", "until", type=MomentArgument(), help="Rows before this moment.  [default: now]")
@click.option("--project", metavar="NAME", help="Only this project's rows.")
@click.option("--model", "pattern", default="*", metavar="GLOB", help="Only models whose name matches; * stands for anything.")
@click.option("--dry-run", is_flag=True, help="Show the difference and book nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def reprice(
    settings: PricingConfig,
    config: Config,
    since: float,
    until: float | None,
    project: str | None,
    pattern: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Price rows again, by the prices as they are known now, and book the difference. Safe to repeat, and beside a running muxx.

    Each row is priced as of the moment its request came. What it cost before stays in the table price_adjustments.
    """
    span = Span(since, time.time() if until is None else until, project)
    if span.until <= span.since:
        raise click.BadParameter("is not after --from", param_hint="--to")
    pricer = Pricer(PriceBook.open(settings, config.path), known_providers(config), pattern)
    outcome = run_async(_reprice(config, pricer, span, dry_run))
    _show(outcome, dry_run, as_json)


class Pricer:
    """Says what is to be corrected."""

    def __init__(self, book: PriceBook, providers: Mapping[str, Provider], pattern: str) -> None:
        self._book = book
        self._providers = providers
        self._matches = glob(pattern)

    def corrections(self, rows: Iterable[PricedRow], outcome: Outcome) -> list[Correction]:
        found = []
        for row in rows:
            outcome.rows += 1
            if not (self._matches(row.model.lower()) or self._matches(row.priced_as.lower())):
                continue
            provider = self._providers.get(row.provider)
            tariff = None if provider is None else self._book.find(provider.vendor, row.priced_as, row.usage.service_tier)
            cost = None if tariff is None else tariff.cost(row.usage, row.started_at)
            if cost is None:
                outcome.unpriced += 1
            elif (cost.input_pico, cost.output_pico) != (row.input_pico, row.output_pico):
                found.append(Correction(row, cost))
        return found


async def _reprice(config: Config, pricer: Pricer, span: Span, dry_run: bool) -> Outcome:
    outcome = Outcome()
    async with Host.open(config) as host:
        await host.db.migrate("pricing", MIGRATIONS)
        total = await count(host.db, span)
        if not total:
            return outcome
        with click.progressbar(length=total, label="Pricing rows", file=sys.stderr) as progress:
            async for rows in pages(host.db, span):
                corrections = pricer.corrections(rows, outcome)
                for correction in corrections:
                    outcome.add(correction)
                if corrections and not dry_run:
                    outcome.changed_meanwhile += len(corrections) - await book(host.db, corrections)
                progress.update(len(rows))
    return outcome


def _show(outcome: Outcome, dry_run: bool, as_json: bool) -> None:
    rows = [
        {
            "model": model,
            "from": before or "unknown",
            "to": after,
            "rows": total.rows,
            "before_usd": usd(total.before_pico),
            "after_usd": usd(total.after_pico),
            "difference_usd": signed(total.after_pico - total.before_pico),
        }
        for (model, before, after), total in sorted(outcome.totals.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    ]
    if as_json:
        echo_json(
            {
                "booked": not dry_run,
                "rows": outcome.rows,
                "unpriced_rows": outcome.unpriced,
                "changed_meanwhile": outcome.changed_meanwhile,
                "difference_usd": signed(outcome.difference_pico),
                "models": rows,
            }
        )
        return
    columns = ("model", "from", "to", "rows", "before_usd", "after_usd", "difference_usd")
    table(columns, [[row[column] for column in columns] for row in rows])
    _tell(outcome, dry_run)


def _tell(outcome: Outcome, dry_run: bool) -> None:
    booked = "Nothing was booked: this was a dry run." if dry_run else "Booked."
    changed = sum(total.rows for total in outcome.totals.values())
    click.echo(f"{changed} of {outcome.rows} rows cost something else: {signed(outcome.difference_pico)} USD. {booked}", err=True)
    if outcome.unpriced:
        click.echo(f"{outcome.unpriced} rows have no known price and stay as they are.", err=True)
    if outcome.changed_meanwhile:
        click.echo(f"{outcome.changed_meanwhile} rows were changed by somebody else meanwhile; run it again.", err=True)


def signed(pico: int) -> str:
    """A difference of money, exact."""
    return ("-" if pico < 0 else "+" if pico else "") + (usd(abs(pico)) or "0")


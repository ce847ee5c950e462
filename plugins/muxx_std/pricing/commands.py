"""`muxx prices …`: what the gateway charges by, as it stands now. Amounts are USD per 1M tokens, exact."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from muxx import Config, config_option, echo_json, table, usd

from .book import PriceBook
from .match import glob
from .overrides import PricingConfig
from .rates import KINDS, PART_OF, Hours, Period, Rates, Tariff
from .reprice import reprice

TOKENS = 10**6
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def prices_group(settings: PricingConfig) -> click.Group:
    """The commands, under the plugin's settings."""

    @click.group("prices", help="List, show, update and correct the prices answers are charged by.")
    @click.pass_context
    def group(ctx: click.Context) -> None:
        ctx.obj = settings

    for command in (list_prices, show_price, update_prices, reprice):
        group.add_command(command)
    return group


@click.command("list")
@config_option
@click.option("--vendor", help="Only this vendor's models.")
@click.option("--model", "pattern", default="*", metavar="GLOB", help="Only models whose id matches; * stands for anything.")
@_as_json
@click.pass_obj
def list_prices(settings: PricingConfig, config: Config, vendor: str | None, pattern: str, as_json: bool) -> None:
    """List your own prices and the table's, in USD per 1M tokens. A kind left out costs what it is part of costs."""
    book = _open(settings, config, vendor)
    matches = glob(pattern)
    rows = [
        {"vendor": of_vendor, **_described(tariff)}
        for of_vendor, tariff in _all(book)
        if (vendor is None or of_vendor in (None, vendor)) and matches(tariff.model.lower())
    ]
    if as_json:
        echo_json(rows)
    else:
        _show(("vendor", "model"), [((row["vendor"], row["model"]), row) for row in rows])


@click.command("show")
@config_option
@click.argument("model")
@click.option("--vendor", help="Whose table to look in; without it the first vendor that knows the name.")
@_as_json
@click.pass_obj
def show_price(settings: PricingConfig, config: Config, model: str, vendor: str | None, as_json: bool) -> None:
    """Show what a model costs, by any name it is called by, with its tiers, its changes and the table that says so."""
    book = _open(settings, config, vendor)
    found = {v: tariff for v in book.vendors if (tariff := book.find(v, model))}
    of_vendor = vendor or next(iter(found), None)
    if of_vendor is None or of_vendor not in found:
        where = f" at {vendor}" if found else ""
        raise click.ClickException(f"no price is known for {model!r}{where}; give it one in [plugins.pricing] prices")
    tariff = found.pop(of_vendor)
    row = {
        "vendor": of_vendor,
        "name": model,
        **_described(tariff),
        **_detailed(book, of_vendor, model, tariff),
        "other_vendors": list(found),
    }
    if as_json:
        echo_json(row)
        return
    click.echo(f"{of_vendor}/{tariff.model}, USD per 1M tokens, {tariff.version}")
    _show(("when",), _conditions(row))
    if found:
        click.echo(f"Priced by {', '.join(found)} too: see --vendor.")


@click.command("update")
@config_option
@click.option("--from", "file", type=click.Path(path_type=Path), metavar="FILE", help="A data.json of genai-prices.")
@_as_json
@click.pass_obj
def update_prices(settings: PricingConfig, config: Config, file: Path | None, as_json: bool) -> None:
    """Write a new table from the installed genai-prices, or from its data file. Nothing is fetched from the network.

    It goes to where [plugins.pricing] table says, else beside the database.
    """
    from .generate import write
    from .source import SourceError, from_file, installed

    database = config.database.path
    path = settings.table_path(config.path) or database.with_name(f"{database.stem}-prices.json")
    try:
        version, providers = from_file(file) if file is not None else installed()
        count = write(path, version, providers)
    except SourceError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    if as_json:
        echo_json({"path": str(path), "version": version, "models": count})
    else:
        click.echo(f"{path}: {version}, {count} models")
    if settings.table is None:
        click.echo(f'To use it, set table = "{path}" in [plugins.pricing], and reload muxx (SIGHUP).', err=True)
    else:
        click.echo("A running muxx uses it from its next reload (SIGHUP).", err=True)


def _open(settings: PricingConfig, config: Config, vendor: str | None) -> PriceBook:
    book = PriceBook.open(settings, config.path)
    if vendor is not None and vendor not in book.vendors:
        raise click.BadParameter(f"there is no price list {vendor!r}; there is {', '.join(book.vendors)}", param_hint="--vendor")
    return book


def _all(book: PriceBook) -> Iterator[tuple[str | None, Tariff]]:
    """Every row, in the order they are looked through. An override without a vendor holds for all."""
    for of_vendor, _, tariff in book.overrides:
        yield of_vendor, tariff
    for vendor, rows in book.table.vendors.items():
        for model in rows.models:
            yield vendor, model.tariff


def _described(tariff: Tariff) -> dict[str, Any]:
    """The row as it holds today, at the hours that have no other prices."""
    return {"model": tariff.model, **_period(tariff.at(time.time())), "price_version": tariff.version}


def _detailed(book: PriceBook, vendor: str, name: str, tariff: Tariff) -> dict[str, Any]:
    """Its other prices: of service tiers, and of other days."""
    names = sorted({tier for rows in book.table.vendors.values() for model in rows.models for tier in model.service_tiers})
    others = {tier: found for tier in names if (found := book.find(vendor, name, tier)) is not None and found is not tariff}
    history = [{"from": _day(period), **_period(period)} for period in reversed(tariff.periods)]
    return {
        "service_tiers": {tier: _period(other.at(time.time())) for tier, other in others.items()},
        "history": history if len(history) > 1 else [],
    }


def _day(period: Period) -> str | None:
    return datetime.fromtimestamp(period.starts, UTC).date().isoformat() if period.starts else None


def _period(period: Period) -> dict[str, Any]:
    hours = [{"from": _clock(some.since), "to": _clock(some.until), **_tiered(some.period)} for some in _by_clock(period)]
    return {**_tiered(period), "hours": hours}


def _by_clock(period: Period) -> list[Hours]:
    return sorted(period.hours, key=lambda some: some.since)


def _clock(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).time().isoformat("minutes")


def _tiered(period: Period) -> dict[str, Any]:
    return {**_amounts(period.rates), "tiers": [{"above": above, **_amounts(rates)} for above, rates in period.tiers]}


def _amounts(rates: Rates | None) -> dict[str, str | None]:
    """USD per 1M tokens by kind; null where there is no token price."""
    if rates is None:
        return dict.fromkeys(KINDS)
    unknown = [kind for kind in KINDS if "output" in (kind, *PART_OF.get(kind, ()))] if rates.output is None else ()
    return {kind: None if kind in unknown else usd(getattr(rates, kind) * TOKENS) for kind in KINDS}


Condition = tuple[tuple[str | None, ...], dict[str, Any]]
"""What a line of a table is about, and its amounts by kind."""


def _show(head: tuple[str, ...], lines: Iterable[Condition]) -> None:
    """A table with a column for each kind that costs something else in any line than what it is part of."""
    lines = list(lines)
    apart = [kind for kind in KINDS if kind not in PART_OF or any(row[kind] != row[PART_OF[kind][0]] for _, row in lines)]
    table((*head, *apart), [[*about, *(amounts[kind] for kind in apart)] for about, amounts in lines])


def _conditions(row: dict[str, Any]) -> Iterator[Condition]:
    """A shown model: a line for each condition under which it costs something else."""
    yield from _block("today", row)
    for tier, amounts in row["service_tiers"].items():
        yield from _block(f"service tier {tier}", amounts)
    for change in row["history"]:
        yield from _block(f"from {change['from']}" if change["from"] else "at first", change)


def _block(when: str, amounts: dict[str, Any]) -> Iterator[Condition]:
    yield (when,), amounts
    for tier in amounts["tiers"]:
        yield (f"{when}, input > {tier['above']}",), tier
    for some in amounts.get("hours", ()):
        yield from _block(f"{when}, {some['from']}-{some['to']} UTC", some)

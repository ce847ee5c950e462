"""Write `prices.json` from genai-prices' data: `python -m muxx_std.pricing.generate [PATH]`. Same input, same bytes.

Searches, requests, seconds and characters are not tokens; a model priced only by them has no token price, and its cost is
unknown. Of the request-dependent prices the service tiers are kept, and with them Anthropic's fast mode (the answer names its
tier); batch prices and regional routes are not, because no answer muxx carries says them. A model without prices whose name ends
with `:free` costs nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from .clauses import to_rule
from .source import (
    VENDORS,
    AtHours,
    Conditional,
    FromDay,
    PriceMap,
    SourceError,
    SourceModel,
    SourceProvider,
    Tiered,
    Variant,
    installed,
)
from .table import FORMAT, SHIPPED, parse_table

_KINDS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
    "cache_audio_read_mtok": "cache_read_audio",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_image_mtok": "input_image",
    "output_image_mtok": "output_image",
    "cache_image_read_mtok": "cache_read_image",
    "input_video_mtok": "input_video",
    "output_video_mtok": "output_video",
}

_NAME_TIERS = ({"service_tier"}, {"speed"})

FREE = ":free"
_NOTHING = {"input_mtok": Decimal(0), "output_mtok": Decimal(0)}

WHOLE_WITHIN = 10_000
"""A price finer than a pico-dollar is taken up to the next one, when that adds no more than one part in so many: OpenRouter
writes a twelfth of a dollar as 0.0833333333333333."""

Row = dict[str, Any]


def build(version: str, providers: Sequence[SourceProvider]) -> Row:
    """The table as a JSON value; `SourceError` names the model that cannot be priced exactly."""
    by_id = {provider.id: provider for provider in providers}
    if missing := [vendor for vendor in VENDORS if vendor not in by_id]:
        raise SourceError(f"the data has no prices of {', '.join(missing)}")
    return {"format": FORMAT, "version": version, "vendors": {vendor: _vendor(by_id[vendor]) for vendor in VENDORS}}


def _vendor(provider: SourceProvider) -> Row:
    rows: Row = {"models": [_model(provider.id, model) for model in provider.models]}
    if fallback := [other for other in provider.fallback_model_providers or () if other in VENDORS]:
        rows = {"fallback": fallback, **rows}
    return rows


def _model(vendor: str, model: SourceModel) -> Row:
    try:
        row: Row = {"id": model.id, "match": to_rule(model.match), "prices": _history(model, None)}
        names = sorted({name for v in model.price_variants or () if (name := _tier_of(v)) is not None})
        tiers = {name: _history(model, name) for name in names}
    except SourceError as error:
        raise SourceError(f"{vendor}/{model.id}: {error}") from error
    if apart := {name: rows for name, rows in tiers.items() if rows != row["prices"]}:
        row["service_tiers"] = apart
    return row


def _tier_of(variant: Variant) -> str | None:
    """The tier whose price it is, if it depends on nothing else."""
    return next(iter(variant.when.values())) if variant.when.keys() in _NAME_TIERS else None


def _history(model: SourceModel, service_tier: str | None) -> list[Row]:
    """The prices from each day on which they change, oldest first; the first one has no day."""
    standard = model.prices if isinstance(model.prices, tuple) else (Conditional(prices=model.prices or _given_away(model)),)
    variants = [v for v in model.price_variants or () if service_tier and _tier_of(v) == service_tier]
    days = sorted({c.constraint.start_date for c in (*standard, *variants) if isinstance(c.constraint, FromDay)})
    history: list[Row] = []
    latest: Row | None = None
    for day in (date.min, *days):
        row = _on(day, standard, variants)
        if row != latest:
            history.append({"from": day.isoformat(), **row} if history else row)
        latest = row
    return history


def _given_away(model: SourceModel) -> PriceMap:
    return _NOTHING if model.id.endswith(FREE) else {}


def _on(day: date, standard: Sequence[Conditional], variants: Sequence[Variant]) -> Row:
    """The day's prices: the last that hold all day, else the first of all; and those of some hours that stand after them."""
    if not standard:
        return _period({})
    changes = _changes(day, variants)
    at = next((i for i in reversed(range(len(standard))) if standard[i].holds_on(day)), 0)
    row = _period({**standard[at].prices, **changes})
    hours = [
        {"from": _utc(c.constraint.start_time), "to": _utc(c.constraint.end_time), **_period({**c.prices, **changes})}
        for c in reversed(standard[at + 1 :])
        if isinstance(c.constraint, AtHours)
    ]
    return {**row, "hours": hours} if hours else row


def _changes(day: date, variants: Sequence[Variant]) -> PriceMap:
    """Kind by kind, the price of the first variant that holds on the day."""
    changes: dict[str, Decimal | Tiered | None] = {}
    for variant in variants:
        if variant.holds_on(day):
            for kind, price in variant.prices.items():
                changes.setdefault(kind, price)
    return changes


def _utc(clock: time) -> str:
    zoned = clock if clock.tzinfo is not None else clock.replace(tzinfo=UTC)
    return datetime.combine(date(1970, 1, 2), zoned).astimezone(UTC).time().isoformat()


def _period(prices: PriceMap) -> Row:
    known = {kind: price for key, kind in _KINDS.items() if (price := prices.get(key)) is not None}
    if "input" not in known:
        return {"rates": {}}
    starts = sorted({tier.start for price in known.values() if isinstance(price, Tiered) for tier in price.tiers})
    row: Row = {"rates": _rates(known, lambda tiered: tiered.base)}
    if starts:
        row["tiers"] = [{"above": start, "rates": _rates(known, _price_above(start))} for start in starts]
    return row


def _price_above(start: int) -> Callable[[Tiered], Decimal]:
    """Of tiered prices, the one for an input just longer than `start`."""

    def pick(tiered: Tiered) -> Decimal:
        reached = [tier for tier in tiered.tiers if tier.start <= start]
        return max(reached, key=lambda tier: tier.start).price if reached else tiered.base

    return pick


def _rates(prices: Mapping[str, Decimal | Tiered], pick: Callable[[Tiered], Decimal]) -> dict[str, int]:
    return {kind: _pico(pick(price) if isinstance(price, Tiered) else price) for kind, price in prices.items()}


def _pico(usd_per_million: Decimal) -> int:
    """USD per 1M tokens as pico-dollars per token. Refused when it is far from a whole number of them."""
    pico = usd_per_million.scaleb(6)
    if not pico.is_finite() or pico < 0 or (whole := pico.to_integral_value(ROUND_CEILING)) - pico > pico / WHOLE_WITHIN:
        raise SourceError(f"${usd_per_million} per 1M tokens is not a whole number of pico-dollars per token")
    return int(whole)


def dump(table: Row) -> bytes:
    """The table's file: one model a line, so that a change of price is a change of one line."""
    vendors = [
        f'{json.dumps(name)}: {{{_fallback(rows)}"models": [\n' + ",\n".join(map(_line, rows["models"])) + "\n]}"
        for name, rows in table["vendors"].items()
    ]
    head = f'{{"format": {table["format"]}, "version": {json.dumps(table["version"])}, "vendors": {{\n'
    return (head + ",\n".join(vendors) + "\n}}\n").encode()


def _fallback(rows: Row) -> str:
    return f'"fallback": {json.dumps(rows["fallback"])}, ' if "fallback" in rows else ""


def _line(model: Row) -> str:
    return json.dumps(model, ensure_ascii=False, separators=(",", ":"))


def write(path: Path, version: str, providers: Sequence[SourceProvider]) -> int:
    """Write the table so that a reader finds the old one or the new one, never a part; returns how many models it has."""
    data = dump(build(version, providers))
    count = sum(len(vendor.models) for vendor in parse_table(data).vendors.values())
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return count


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED, *installed())

"""Every price against genai-prices, to the pico-dollar; and what holds for any price and any usage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers as oracle_providers
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice
from hypothesis import given
from hypothesis import strategies as st
from pricing_kit import MILLION, MODELS, NOW, USD, VERSION, price
from thoroughness import some

from muxx import Cost, Usage
from muxx_std.pricing.book import PriceBook
from muxx_std.pricing.rates import HIGHEST_SIDE_PICO, KINDS, Period, Rates, Tariff
from muxx_std.pricing.source import VENDORS
from muxx_std.pricing.table import Model, shipped_table

# ── the oracle ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def changes_by_the_hour(row: Model) -> bool:
    return any(period.hours for period in row.tariff.periods)


def words(clause: Any) -> Iterator[str]:
    """Names that each clause of a rule was written for."""
    for value in vars(clause).values():
        if isinstance(value, list):
            for part in value:
                yield from words(part)
        elif hasattr(clause, "regex"):
            if "(?!" not in value:
                name = re.sub(r"\\d\{(\d)\}", lambda m: "20261012"[: int(m[1])], value.strip("^$"))
                yield name.replace(r"\d", "7").replace(r"\.", ".").replace("[-@]", "@")
        else:
            yield value


def variants(vendor: str, word: str) -> tuple[str, ...]:
    """The name and some like it; of OpenRouter's, which are many and all exact, a few."""
    few = (word, f"{word}-20261012", f"x{word}")
    return few if vendor == "openrouter" else (*few, f"{word}-latest", f"{word}-001", f"models/{word}", f"{word}-tts")


NAMES = sorted(
    {
        (provider.id, name)
        for provider in oracle_providers
        if provider.id in VENDORS
        for model in provider.models
        for word in (model.id, *words(model.match))
        for name in variants(provider.id, word)
    }
)

USAGES = [
    Usage(1000, 500),
    Usage(0, 0),
    Usage(1, 0),
    Usage(1234, 567, cache_read_tokens=1000),
    Usage(9000, 10, cache_read_tokens=4000, cache_write_tokens=3000, reasoning_tokens=7),
    Usage(9000, 10, cache_read_tokens=4000, cache_write_tokens=3000, cache_write_1h_tokens=1000),
    Usage(1000, 100, input_audio_tokens=600, output_audio_tokens=70),
    Usage(1000, 1290, output_image_tokens=1290),
    Usage(1000, 1500, cache_read_tokens=500, input_image_tokens=700, cache_read_image_tokens=300, output_image_tokens=1290, reasoning_tokens=100),
    Usage(5000, 900, input_video_tokens=3000, input_audio_tokens=400, input_image_tokens=258, output_video_tokens=800),
    Usage(1000, 100, cache_read_tokens=300, cache_read_audio_tokens=200, input_audio_tokens=500, output_audio_tokens=30),
]
DAYS = [datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)]
CLOCK = [timedelta(minutes=half_hours * 30) + more for half_hours in range(48) for more in (timedelta(0), timedelta(seconds=-1))]
MOMENTS = [day + clock for day in (*DAYS, datetime(2026, 8, 20, tzinfo=UTC)) for clock in CLOCK]


def oracle_usage(usage: Usage) -> genai_prices.Usage:
    return genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        cache_audio_read_tokens=usage.cache_read_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_image_tokens=usage.output_image_tokens,
        cache_image_read_tokens=usage.cache_read_image_tokens,
        input_video_tokens=usage.input_video_tokens,
        output_video_tokens=usage.output_video_tokens,
    )


def usages(row: Model) -> list[Usage]:
    """Some, and those on both sides of each of the row's tiers."""
    steps = {above for period in row.tariff.periods for above, _ in period.tiers}
    return USAGES + [Usage(at + more, 333, cache_read_tokens=at // 3) for at in sorted(steps) for more in (0, 1)]


def has_token_price(prices: ModelPrice, usage: Usage) -> bool:
    return prices.input_mtok is not None and (prices.output_mtok is not None or not usage.output_tokens)


def is_finer_than_a_pico_dollar(prices: ModelPrice) -> bool:
    return any(isinstance(price, Decimal) and price * MILLION % 1 for price in vars(prices).values())


def test_every_name_finds_the_model_the_oracle_finds() -> None:
    snapshot = get_snapshot()
    by_id = {provider.id: provider for provider in snapshot.providers}
    assert len(NAMES) > 5000
    for vendor, name in some(NAMES):
        theirs = by_id[vendor].find_model(name, all_providers=snapshot.providers)
        ours = shipped_table().find(vendor, name)
        assert (ours and ours.model) == (theirs and theirs.id), (vendor, name)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_model_costs_what_the_oracle_says_to_the_pico_dollar(vendor: str) -> None:
    """Tolerance 0, but for prices finer than a pico-dollar. Where the data has no token price the oracle says 0 and muxx says
    unknown, unless the name says that it is free. The oracle raises on none of these."""
    provider = next(p for p in oracle_providers if p.id == vendor)
    compared = 0
    for model, row in zip(provider.models, shipped_table().vendors[vendor].models, strict=True):
        tiers = {(way, v.when[way]) for v in model.price_variants or () for way in ("service_tier", "speed") if way in v.when}
        for (way, tier), day, usage in itertools.product((("", None), *sorted(tiers)), DAYS, usages(row)):
            context = {way: tier} if tier else None
            theirs = model.calc_price(oracle_usage(usage), provider, genai_request_timestamp=day, price_context=context)
            ours = row.in_tier(tier).cost(usage, day.timestamp())
            prices = model.get_prices(day, context)
            what = (model.id, tier, day, usage)
            assert (ours is not None) == (has_token_price(prices, usage) or row.id.endswith(":free")), what
            if ours is None:
                continue
            more = ours.input_pico - theirs.input_price * USD, ours.output_pico - theirs.output_price * USD
            if is_finer_than_a_pico_dollar(prices):
                assert vendor == "openrouter", what
                assert 0 <= more[0] <= usage.input_tokens, what
                assert 0 <= more[1] <= usage.output_tokens, what
            else:
                assert more == (0, 0), what
            compared += 1
    assert compared > 100


def test_only_cache_writes_at_one_vendor_are_finer_than_a_pico_dollar() -> None:
    """So all else is compared at tolerance 0."""
    finer = {
        (provider.id, kind)
        for provider in oracle_providers
        if provider.id in VENDORS
        for model in provider.models
        for day in DAYS
        for kind, price in vars(model.get_prices(day)).items()
        if isinstance(price, Decimal) and price * MILLION % 1
    }
    assert finer == {("openrouter", "cache_write_mtok")}


@pytest.mark.parametrize(
    "model", [model.id for model in shipped_table().vendors["deepseek"].models if changes_by_the_hour(model)]
)
def test_prices_of_some_hours_hold_from_their_first_second_until_their_last(model: str) -> None:
    provider = next(p for p in oracle_providers if p.id == "deepseek")
    theirs = next(m for m in provider.models if m.id == model)
    ours = shipped_table().vendors["deepseek"].models[provider.models.index(theirs)].tariff
    usage = Usage(1000, 100, cache_read_tokens=300)
    seen = set()
    for moment in MOMENTS:
        cost = ours.cost(usage, moment.timestamp())
        oracle = theirs.calc_price(oracle_usage(usage), provider, genai_request_timestamp=moment)
        assert cost is not None
        assert (cost.input_pico, cost.output_pico) == (oracle.input_price * USD, oracle.output_price * USD), moment
        seen.add(cost.total_pico)
    assert len(seen) > 1


def test_gemini_audio_with_cached_tokens_is_priced_where_the_oracle_raises() -> None:
    """The answer says how much was audio and how much was cached, but not how much was both."""
    with pytest.raises(ValueError, match="cache_audio_read_tokens"):
        genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1000, input_audio_tokens=400, cache_read_tokens=300),
            "gemini-2.0-flash",
            provider_id="google",
        )
    cost = price("gemini-2.0-flash", Usage(1000, 0, cache_read_tokens=300, input_audio_tokens=400), "google")
    assert cost == Cost(300 * 100_000 + 300 * 25_000 + 400 * 700_000, 0, VERSION)


# ── properties ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

counts = st.integers(-5, 10**6) | st.sampled_from([-(10**18), 10**18, 2**63, 2**64])
any_usage = st.builds(Usage, *[counts] * len(KINDS))
leaf = st.integers(0, 200_000)
priced_models = st.sampled_from(MODELS)
BOOK = PriceBook(shipped_table())


@given(priced_models, any_usage)
def test_no_usage_however_impossible_raises_or_costs_less_than_nothing(model: tuple[str, str], usage: Usage) -> None:
    tariff = BOOK.find(*model)
    cost = tariff.cost(usage, NOW) if tariff is not None else None
    if cost is not None:
        assert 0 <= cost.input_pico <= HIGHEST_SIDE_PICO
        assert 0 <= cost.output_pico <= HIGHEST_SIDE_PICO
        assert cost.total_pico == cost.input_pico + cost.output_pico < 2**63


@given(priced_models, any_usage, st.integers(0, 10**6))
def test_more_tokens_never_cost_less(model: tuple[str, str], usage: Usage, more: int) -> None:
    tariff = BOOK.find(*model)
    before = tariff.cost(usage, NOW) if tariff is not None else None
    if tariff is None or before is None:
        return
    usage = usage._replace(input_tokens=usage.input_tokens + more)
    longer = tariff.cost(usage, NOW)
    assert longer is not None
    assert longer.input_pico >= before.input_pico
    assert longer.output_pico >= before.output_pico
    usage = usage._replace(output_tokens=usage.output_tokens + more)
    both = tariff.cost(usage, NOW)
    assert both is None or both.output_pico >= longer.output_pico


@given(st.builds(Rates, *[st.integers(0, 10**9)] * len(KINDS)), st.fixed_dictionaries(dict.fromkeys(KINDS, leaf)))
def test_a_cost_is_the_sum_of_its_parts(rates: Rates, tokens: dict[str, int]) -> None:
    """`tokens` are of one kind each: `input` and `output` those that are of no other."""
    made = {"output", "reasoning", "output_audio", "output_image", "output_video"}
    cached = tokens["cache_read"] + tokens["cache_read_audio"] + tokens["cache_read_image"]
    usage = Usage(
        input_tokens=sum(tokens[kind] for kind in KINDS if kind not in made),
        output_tokens=sum(tokens[kind] for kind in made),
        cache_read_tokens=cached,
        cache_write_tokens=tokens["cache_write"] + tokens["cache_write_1h"],
        cache_write_1h_tokens=tokens["cache_write_1h"],
        reasoning_tokens=tokens["reasoning"],
        input_audio_tokens=tokens["input_audio"] + tokens["cache_read_audio"],
        output_audio_tokens=tokens["output_audio"],
        cache_read_audio_tokens=tokens["cache_read_audio"],
        input_image_tokens=tokens["input_image"] + tokens["cache_read_image"],
        output_image_tokens=tokens["output_image"],
        cache_read_image_tokens=tokens["cache_read_image"],
        input_video_tokens=tokens["input_video"],
        output_video_tokens=tokens["output_video"],
    )
    cost = Tariff("m", "v", (Period(0, rates),)).cost(usage, NOW)
    assert cost is not None
    assert cost.input_pico == sum(tokens[kind] * getattr(rates, kind) for kind in KINDS if kind not in made)
    assert cost.output_pico == sum(tokens[kind] * getattr(rates, kind) for kind in made)


@given(st.builds(Rates, leaf, st.none() | leaf, *[leaf] * (len(KINDS) - 2)), any_usage | st.builds(Usage, counts, counts))
def test_prices_that_never_change_are_those_of_each_moment(rates: Rates, usage: Usage) -> None:
    """What is worked out the short way comes to the same as by periods, of which there are two here."""
    always, now = Tariff("m", "v", (Period(0, rates),)), Tariff("m", "v", (Period(1, rates), Period(0, rates)))
    assert now.flat is None
    assert always.cost(usage, NOW) == now.cost(usage, NOW)


def test_impossible_parts_are_held_within_the_whole() -> None:
    assert price("gpt-4o", Usage(100, 10, cache_read_tokens=10**9)) == price("gpt-4o", Usage(100, 10, cache_read_tokens=100))
    assert price("gpt-4o", Usage(100, 10, cache_read_tokens=-5)) == price("gpt-4o", Usage(100, 10))
    assert price("gpt-4o", Usage(-100, -10)) == Cost(0, 0, VERSION)


def test_a_kind_without_its_own_price_costs_what_it_is_part_of() -> None:
    rates = Rates.of({"input": 10, "output": 20})
    assert rates == Rates(10, 20, 10, 10, 20, 10, 20, 10, 10, 10, 20, 10, 10, 20)
    assert Rates.of({"input": 10, "output": 20, "cache_write": 12}).cache_write_1h == 12
    assert Rates.of({"input": 10, "output": 20, "cache_read": 1, "input_audio": 90}).cache_read_audio == 90
    assert Rates.of({"input": 10, "output": 20, "cache_read": 1, "input_image": 90}).cache_read_image == 90

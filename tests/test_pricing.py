"""What an answer costs, by hand: the published prices, who is priced by what, the operator's own prices."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import datetime
from decimal import Decimal

import pytest
from pricing_kit import MILLION, NOW, USD, VERSION, price, pricing, target
from pydantic import ValidationError

from muxx import Cost, Provider, Target, Usage
from muxx.providers import BUILT_IN
from muxx.targets import Format
from muxx_std.pricing.book import LONGEST_NAME, REMEMBERED
from muxx_std.pricing.match import glob
from muxx_std.pricing.overrides import PricingConfig
from muxx_std.pricing.source import VENDORS

# ── the contract's list ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CONTRACT = [
    ("openai", "gpt-4o", "2.50", "10.00"),
    ("openai", "gpt-4o-2024-08-06", "2.50", "10.00"),
    ("openai", "gpt-4o-2024-11-20", "2.50", "10.00"),
    ("openai", "gpt-4o-2024-05-13", "5.00", "15.00"),
    ("openai", "gpt-4o-mini", "0.15", "0.60"),
    ("openai", "gpt-4o-mini-2024-07-18", "0.15", "0.60"),
    ("openai", "gpt-4-turbo", "10.00", "30.00"),
    ("openai", "gpt-4", "30.00", "60.00"),
    ("openai", "gpt-3.5-turbo", "0.50", "1.50"),
    ("openai", "gpt-3.5-turbo-0125", "0.50", "1.50"),
    ("anthropic", "claude-3-5-sonnet", "3.00", "15.00"),
    ("anthropic", "claude-3-5-sonnet-latest", "3.00", "15.00"),
    ("anthropic", "claude-3-5-sonnet-20241022", "3.00", "15.00"),
    ("anthropic", "claude-3-5-haiku", "0.80", "4.00"),
    ("anthropic", "claude-3-5-haiku-latest", "0.80", "4.00"),
    ("google", "gemini-1.5-pro", "1.25", "5.00"),
    ("google", "gemini-1.5-pro-002", "1.25", "5.00"),
    ("google", "gemini-1.5-flash", "0.075", "0.30"),
    ("google", "gemini-1.5-flash-latest", "0.075", "0.30"),
    ("google", "models/gemini-1.5-flash", "0.075", "0.30"),
]


@pytest.mark.parametrize(("vendor", "model", "usd_in", "usd_out"), CONTRACT)
def test_published_prices_hold_to_the_pico_dollar(vendor: str, model: str, usd_in: str, usd_out: str) -> None:
    tokens = 100_000  # within every model's base tier
    cost = price(model, Usage(tokens, tokens), vendor)
    share = Decimal(tokens) / MILLION * USD
    assert cost == Cost(int(Decimal(usd_in) * share), int(Decimal(usd_out) * share), VERSION)


def test_one_token_of_the_cheapest_price_is_a_whole_number() -> None:
    assert price("gemini-1.5-flash", Usage(1, 1, cache_read_tokens=1), "google") == Cost(18_750, 300_000, VERSION)


def test_cached_tokens_are_part_of_the_input_and_reasoning_is_part_of_the_output() -> None:
    cost = price("gpt-4o", Usage(1000, 100, cache_read_tokens=400, reasoning_tokens=60))
    assert cost == Cost(600 * 2_500_000 + 400 * 1_250_000, 100 * 10_000_000, VERSION)


def test_a_cache_write_costs_its_own_price() -> None:
    cost = price("claude-3-5-sonnet", Usage(1000, 0, cache_read_tokens=300, cache_write_tokens=500), "anthropic")
    assert cost is not None
    assert cost.input_pico == 200 * 3_000_000 + 300 * 300_000 + 500 * 3_750_000


def test_pictures_that_a_model_makes_cost_their_own_price() -> None:
    cost = price("gemini-2.5-flash-image", Usage(10, 1300, output_image_tokens=1290), "google")
    assert cost == Cost(10 * 300_000, 10 * 2_500_000 + 1290 * 30_000_000, VERSION)


def test_audio_and_cached_audio_cost_their_own_prices() -> None:
    usage = Usage(1000, 100, 300, 0, 0, input_audio_tokens=500, output_audio_tokens=40, cache_read_audio_tokens=200)
    cost = price("gpt-4o-realtime-preview", usage)
    assert cost is not None
    assert cost.input_pico == 400 * 5_000_000 + 100 * 2_500_000 + 200 * 2_500_000 + 300 * 40_000_000
    assert cost.output_pico == 60 * 20_000_000 + 40 * 80_000_000


@pytest.mark.parametrize(("tokens", "usd_per_million"), [(200_000, "1.25"), (200_001, "2.5")])
def test_a_longer_input_makes_all_tokens_dearer(tokens: int, usd_per_million: str) -> None:
    cost = price("gemini-2.5-pro", Usage(tokens, 1), "google")
    assert cost is not None
    assert cost.input_pico == tokens * int(Decimal(usd_per_million) * MILLION)
    assert cost.output_pico == (10 if tokens <= 200_000 else 15) * MILLION


def test_the_service_tier_of_the_answer_has_its_own_price() -> None:
    costs = {tier: price("gpt-4o", Usage(1, 0, service_tier=tier)) for tier in (None, "default", "priority", "unheard-of")}
    assert {tier: cost.input_pico for tier, cost in costs.items() if cost} == {
        None: 2_500_000, "default": 2_500_000, "priority": 4_250_000, "unheard-of": 2_500_000,
    }  # fmt: skip


def test_the_price_is_that_of_the_day() -> None:
    plugin, seen = pricing(), {}
    for day in ("2025-06-09T23:59:59", "2025-06-10T00:00:00"):
        cost = plugin.price(target("o3"), Usage(1, 1), datetime.fromisoformat(day + "+00:00").timestamp())
        assert cost is not None
        seen[day] = (cost.input_pico, cost.output_pico)
    assert list(seen.values()) == [(10_000_000, 40_000_000), (2_000_000, 8_000_000)]


# ── who prices what ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_model_costs_nothing_known_and_not_zero() -> None:
    assert price("nobody-knows-this-model", Usage(1, 1)) is None
    assert price("mock", Usage(1, 1)) is None


@pytest.mark.parametrize(
    ("wire", "model", "vendor"),
    [
        ("openai", "gpt-4o", "openai"),
        ("anthropic", "claude-3-5-haiku", "anthropic"),
        ("gemini", "gemini-1.5-flash", "google"),
    ],
)
def test_a_provider_without_prices_of_its_own_is_priced_by_its_formats_vendor(wire: Format, model: str, vendor: str) -> None:
    plugin = pricing()
    unpriced = Provider("house", "http://127.0.0.1:1/v1", format=wire)
    assert unpriced.vendor == vendor
    cost = plugin.price(Target(unpriced, model), Usage(1, 1), NOW)
    assert cost == plugin.price(target(model, vendor), Usage(1, 1), NOW) is not None
    assert plugin.price(Target(unpriced, "mistral-large-latest"), Usage(1, 1), NOW) is None
    assert Provider("house", "http://127.0.0.1:1/v1", format=wire, prices="none").vendor == "none"


NO_TABLE = {"ollama", "vllm", "lmstudio", "llamacpp"}


def test_every_built_in_provider_has_a_table_but_those_on_the_operators_own_machine() -> None:
    tables = {row.name: row.vendor for row in BUILT_IN}
    assert {name for name, vendor in tables.items() if vendor == "none"} == NO_TABLE
    assert {vendor for vendor in tables.values() if vendor != "none"} == set(VENDORS) - {"moonshotai"}


@pytest.mark.parametrize(
    ("provider", "model", "usd_in", "usd_out"),
    [
        ("azure", "gpt-4o", "2.50", "10.00"),
        ("azure", "phi-4", "0.125", "0.50"),
        ("openrouter", "openai/gpt-4o", "2.50", "10.00"),
        ("openrouter", "anthropic/claude-sonnet-4", "3", "15"),
        ("groq", "llama-3.3-70b-versatile", "0.59", "0.79"),
        ("groq", "openai/gpt-oss-120b", "0.15", "0.60"),
        ("mistral", "codestral-latest", "0.30", "0.90"),
        ("xai", "grok-4", "3", "15"),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "0.88", "0.88"),
        ("fireworks", "accounts/fireworks/models/gpt-oss-120b", "0.15", "0.60"),
        ("cerebras", "gpt-oss-120b", "0.35", "0.75"),
        ("perplexity", "sonar-pro", "3", "15"),
    ],
)
def test_a_built_in_provider_prices_models_by_the_names_it_has_for_them(
    provider: str, model: str, usd_in: str, usd_out: str
) -> None:
    row = next(row for row in BUILT_IN if row.name == provider)
    cost = pricing().price(Target(row, model), Usage(1, 1), NOW)
    assert cost == Cost(int(Decimal(usd_in) * MILLION), int(Decimal(usd_out) * MILLION), VERSION)


def test_a_makers_prefix_means_the_aggregators_price_and_not_the_makers() -> None:
    assert price("openai/gpt-4o", Usage(1, 1), "openai") is None
    assert price("gpt-4o", Usage(1, 1), "openrouter") is None
    assert price("gpt-oss-120b", Usage(1, 1), "groq") is None


def test_deepseek_is_dearer_at_its_busy_hours() -> None:
    plugin = pricing()
    seen = []
    for clock in ("00:59:59", "01:00:00", "03:59:59", "04:00:00"):
        at = datetime.fromisoformat(f"2026-11-22T{clock}+00:00").timestamp()
        cost = plugin.price(target("deepseek-flash", "deepseek"), Usage(1, 1), at)
        assert cost is not None
        seen.append((cost.input_pico, cost.output_pico))
    assert seen == [(150_000, 600_000), (300_000, 1_200_000), (300_000, 1_200_000), (150_000, 600_000)]


def test_prices_none_means_no_price_even_for_a_known_name_or_an_override() -> None:
    own = [{"model": "*", "input": "1", "output": "1"}]
    assert price("gpt-4o", Usage(1, 1), "none", prices=own) is None


def test_google_prices_the_claude_models_it_serves() -> None:
    assert price("claude-3-sonnet@20240229", Usage(1, 0), "google") == Cost(3_000_000, 0, VERSION)


def test_a_model_not_priced_by_token_has_no_known_price() -> None:
    assert price("whisper-1", Usage(10, 0)) is None
    assert price("text-embedding-3-small", Usage(10, 0)) == Cost(200_000, 0, VERSION)
    assert price("text-embedding-3-small", Usage(10, 1)) is None


def test_names_from_clients_take_bounded_memory_and_never_fail() -> None:
    book = pricing().book
    for name in ("", " ", "\0", "é" * 50, "gpt-4o'; DROP TABLE generations;--", "x" * 10_000_000, "(" * LONGEST_NAME):
        assert book.find("openai", name) is None
    for number in range(REMEMBERED + 50):
        book.find("no such vendor", f"m{number}")
    assert book._remembered.cache_info().currsize == REMEMBERED


def test_upper_case_names_are_known() -> None:
    assert price("GPT-4o", Usage(1, 0)) == price("gpt-4o", Usage(1, 0))


# ── overrides ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_override_goes_before_the_table_and_says_so() -> None:
    own = [{"model": "gpt-4o*", "vendor": "openai", "input": "1.00", "output": "0.000001", "cache_read": "0.1"}]
    cost = price("gpt-4o-mini", Usage(10, 10, cache_read_tokens=5), prices=own)
    assert cost is not None
    assert (cost.input_pico, cost.output_pico) == (5 * MILLION + 5 * 100_000, 10)
    assert re.fullmatch("override:[0-9a-f]{12}", cost.price_version)
    unlike = price("gpt-4o-mini", Usage(), prices=[own[0] | {"input": "2.00"}])
    assert unlike is not None
    assert unlike.price_version != cost.price_version
    assert price("gpt-4", Usage(1, 0), prices=own) == price("gpt-4", Usage(1, 0))


def test_the_first_override_that_matches_wins_and_a_vendor_limits_it() -> None:
    own = [
        {"model": "my-model", "vendor": "acme", "input": "9", "output": "9"},
        {"model": "MY-*", "input": "3", "output": "3"},
        {"model": "*", "input": "1", "output": "1"},
    ]
    plugin = pricing(prices=own)
    found = [plugin.price(target(m, v), Usage(1, 0), NOW) for m, v in [("my-model", "acme"), ("my-model", None), ("other", None)]]
    assert [cost and cost.input_pico for cost in found] == [9 * MILLION, 3 * MILLION, MILLION]


def test_an_override_can_have_tiers() -> None:
    own = [{"model": "m", "input": "1", "output": "2", "tiers": [{"above": 100, "input": "3", "output": "4"}]}]
    plugin = pricing(prices=own)
    assert [(c.input_pico, c.output_pico) for n in (100, 101) if (c := plugin.price(target("m"), Usage(n, 1), NOW))] == [
        (100 * MILLION, 2 * MILLION), (303 * MILLION, 4 * MILLION),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [2.5, 2, "-1", "1e3", "2.50 ", "0.0000001", "", "NaN", "٣", "99999999", True])
def test_an_override_must_be_exact(bad: object) -> None:
    with pytest.raises(ValidationError, match="USD per 1M tokens as a string"):
        PricingConfig.model_validate({"prices": [{"model": "m", "input": bad, "output": "1"}]})


@pytest.mark.parametrize(
    "row",
    [
        {"model": "", "input": "1", "output": "1"},
        {"model": "m", "input": "1"},
        {"model": "m", "input": "1", "output": "1", "inptu": "1"},
    ],
)
def test_an_override_with_a_missing_or_unknown_key_is_refused(row: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        PricingConfig.model_validate({"prices": [row]})


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a*", "a", True), ("a*", "ba", False), ("*a", "ba", True), ("*", "", True), ("a*b*c", "a-b-b-c", True),
        ("a*a", "a", False), ("a*b*c", "a-c-b", False), ("a*b*c", "a-c", False), ("a?c", "abc", False),
        ("[ab]", "a", False), ("a.c", "abc", False), ("ab", "ab", True),
        ("*b*b", "ab", False), ("A", "a", True),
    ],
)  # fmt: skip
def test_only_the_star_is_special_in_a_pattern(pattern: str, name: str, matches: bool) -> None:
    assert glob(pattern)(name) is matches


def test_a_pattern_of_many_stars_costs_no_time() -> None:
    started = time.perf_counter()
    assert not glob("*a" * 60 + "b")("a" * LONGEST_NAME)
    assert time.perf_counter() - started < 0.1


# ── weight ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pricing_needs_neither_the_oracle_nor_a_server_nor_a_terminal() -> None:
    heavy = {"genai_prices", "aiohttp", "click", "rich"}
    code = f"import sys, muxx_std.pricing as p; p.Pricing(p.Pricing.Config()); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_remembered_price_takes_microseconds() -> None:
    plugin, gpt, usage = pricing(), target("gpt-4o"), Usage(1000, 500, cache_read_tokens=10)
    plugin.price(gpt, usage, NOW)
    started = time.perf_counter()
    for _ in range(2000):
        plugin.price(gpt, usage, NOW)
    assert (time.perf_counter() - started) / 2000 < 20e-6

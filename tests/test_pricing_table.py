"""The price table: how it is read, generated and matched."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from genai_prices.data import providers as oracle_providers
from pricing_kit import DATA, MILLION, NOW, VERSION, data_file, pricing, target

from muxx import Cost, Provider, StartError, Usage, hookimpl
from muxx.testing import RunningGateway
from muxx_std.pricing import Pricing
from muxx_std.pricing.clauses import to_rule
from muxx_std.pricing.generate import build, dump, write
from muxx_std.pricing.match import compile_rule, with_dashed_date
from muxx_std.pricing.source import VENDORS, SourceError, from_file, installed
from muxx_std.pricing.table import FORMAT, SHIPPED, parse_table, read_table

ROOT = Path(__file__).parent.parent

# ── the gateway's start ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def start(plugin: Pricing, config_file: Path | None, *rows: Provider) -> None:
    config = SimpleNamespace(path=config_file, providers={})
    gateway: Any = SimpleNamespace(config=config, providers={row.name: row for row in rows}, plugin_of_provider={})
    async for _ in plugin.lifespan(gateway):
        pass


async def test_a_provider_naming_a_price_list_nobody_has_stops_the_start() -> None:
    with pytest.raises(StartError, match=r"providers\.mine\.prices: .*'opnai'; did you mean 'openai'\?"):
        await start(pricing(), None, Provider("mine", "http://x", prices="opnai"))
    own = [{"model": "*", "vendor": "acme", "input": "1", "output": "1"}]
    await start(pricing(prices=own), None, Provider("a", "", prices="acme"), Provider("b", "", prices="none"), Provider("c", ""))


@pytest.mark.parametrize(
    ("file", "place"), [({}, "plugin 'office': its provider 'mine'"), ({"prices": "opnai"}, "providers.mine.prices")]
)
async def test_a_price_list_nobody_has_is_told_to_whoever_named_it(file: dict[str, str], place: str, tmp_path: Path) -> None:
    class Office:
        @hookimpl
        def register_providers(self) -> list[Provider]:
            return [Provider("mine", "http://127.0.0.1:1", prices="opnai")]

    (tmp_path / "own.json").write_bytes((ROOT / "plugins/muxx_std/pricing/prices.json").read_bytes())
    config = {"providers": {"mine": file}, "plugins": {"pricing": {"table": "own.json"}}}
    with pytest.raises(StartError, match=rf"{place}: there is no price list 'opnai'; did you mean 'openai'\?"):
        async with RunningGateway(config, plugins={"office": Office}, directory=tmp_path):
            pass


async def test_a_table_is_found_beside_the_configuration_and_used(tmp_path: Path) -> None:
    changed = SHIPPED.read_bytes().replace(b"genai-prices-0.2.3", b"mine").replace(b'"input":2500000', b'"input":1')
    (tmp_path / "prices.json").write_bytes(changed)
    plugin = pricing(table="prices.json")
    await start(plugin, tmp_path / "muxx.toml")
    assert plugin.price(target("gpt-4o"), Usage(5, 0), NOW) == Cost(5, 0, "mine")


def one_row(**changes: Any) -> bytes:
    row = {"id": "m", "match": ["is", "m"], "prices": [{"rates": {}}]} | changes
    return json.dumps({"format": FORMAT, "version": "x", "vendors": {"a": {"models": [row]}}}).encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a price table"),
        (b"[]", "not a price table"),
        (b'{"format":1}', "this muxx reads 2"),
        (one_row(match=["regex", "(a+)+$"]), "matching rule"),
        (one_row(prices=[]), "no prices"),
        (one_row(prices=[{"rates": {"input": 1.5}}]), "1.5"),
        (one_row(prices=[{"rates": {"input": -1}}]), "-1"),
        (one_row(prices=[{"rates": {"output": 1}}]), "not a price table"),
        (one_row(service_tiers={"flex": [{"rates": {"input": -2}}]}), "-2"),
        (one_row(prices=[{"rates": {}, "hours": [{"from": "01:00", "to": "25:00", "rates": {}}]}]), "not a price table"),
        (b'{"format":2,"version":"x","vendors":{"a":{"models":[],"fallback":["b"]}}}', "falls back"),
        (SHIPPED.read_bytes()[:5000], "not a price table"),
    ],
)
def test_a_broken_table_stops_the_start_with_one_line(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(data)
    with pytest.raises(StartError, match=problem) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    with pytest.raises(StartError, match="cannot be read"):
        read_table(tmp_path / "missing.json")


# ── the generator ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_table_is_what_the_generator_writes(tmp_path: Path) -> None:
    fresh = tmp_path / "prices.json"
    subprocess.run([sys.executable, "-m", "muxx_std.pricing.generate", str(fresh)], check=True)
    assert fresh.read_bytes() == SHIPPED.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["prices.json"]


def test_the_table_carries_its_sources_licence() -> None:
    notice = SHIPPED.with_name("NOTICE").read_text()
    assert "MIT License" in notice
    assert "Pydantic Services Inc." in notice


@pytest.mark.parametrize("plugin", ["pricing", "spend_caps"])
def test_the_wheel_carries_the_data_and_its_licence(plugin: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"][f"muxx_std.{plugin}"].split()
    data = [path.name for path in (ROOT / "plugins/muxx_std" / plugin).iterdir() if path.is_file() and path.suffix != ".py"]
    assert "NOTICE" in data
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_a_data_file_becomes_a_table(tmp_path: Path) -> None:
    version, providers = from_file(data_file(tmp_path, DATA))
    assert write(tmp_path / "out.json", version, providers) == 1
    tariff = read_table(tmp_path / "out.json").find("openai", "m-2026")
    assert tariff is not None
    assert tariff.version.startswith("genai-prices-data-")
    old, new = datetime(2025, 12, 31, tzinfo=UTC).timestamp(), datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert tariff.cost(Usage(100, 1), old) == Cost(100 * 100_000, 2 * MILLION, version)
    assert tariff.cost(Usage(101, 1), old) == Cost(101 * 100_000, 3 * MILLION, version)
    assert tariff.cost(Usage(1, 3, reasoning_tokens=1), new) == Cost(200_000, 11 * MILLION, version)


def altered(**changes: Any) -> list[Any]:
    data = json.loads(json.dumps(DATA))
    data[0]["models"][0].update(changes)
    return list(data)


AT_NIGHT = {"start_time": "22:30:00+01:00", "end_time": "02:00:00"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "array of providers"),
        (DATA[1:], "no prices of openai"),
        (altered(prices={"input_mtok": 0.0000001}), r"openai/m: .*not a whole number of pico-dollars"),
        (altered(prices={"input_mtok": 0.0012345}), "not a whole number"),
        (altered(prices={"input_mtok": -1}), "not a whole number"),
        (altered(prices={"input_mtok": "dear"}), "data format"),
        (altered(prices=[{"constraint": {"weekday": "sunday"}, "prices": {}}]), "data format"),
        (altered(price_variants=[{"when": {}, "constraint": AT_NIGHT, "prices": {}}]), "data format"),
        (altered(match={"regex": "(a+)+$"}), "no safe translation"),
        (altered(match={"regex": "^a.c$"}), "no safe translation"),
        (altered(match={"regex": "^[a-z]$"}), "no safe translation"),
        (altered(match={"sounds_like": "m"}), "not a matching clause"),
        (altered(match={}), "not a matching clause"),
    ],
)
def test_data_that_cannot_be_priced_exactly_and_safely_is_refused(tmp_path: Path, data: Any, problem: str) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(SourceError, match=problem):
        write(out, *from_file(data_file(tmp_path, data)))
    assert not out.exists()


def test_a_data_file_that_is_no_json_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        from_file(tmp_path / "data.json")
    (tmp_path / "data.json").write_bytes(b"\xff{")
    with pytest.raises(SourceError, match="not JSON"):
        from_file(tmp_path / "data.json")


@pytest.mark.parametrize(
    ("regex", "yes", "no"),
    [
        (r"^a\.b-\d{4}-\d\d$", ["a.b-2026-10"], ["a.b-2026-1", "axb-2026-10", "a.b-2026-101", "xa.b-2026-10", "a.b-２026-10"]),
        (r"^a-[xX@]\d", ["a-x1", "a-@9-more"], ["a-1", "a-x"]),
        (r"^(?!.*-[tT][tT][sS](?:$|-))", ["a", "a-ttsx", "tts"], ["a-tts", "a-tts-b"]),
    ],
)
def test_a_regular_expression_is_translated_and_never_run(regex: str, yes: list[str], no: list[str]) -> None:
    matches = compile_rule(to_rule({"regex": regex}))
    assert all(matches(name) for name in yes)
    assert not any(matches(name) for name in no)


def test_the_table_holds_every_model_of_the_data_and_only_whole_numbers() -> None:
    raw = json.loads(SHIPPED.read_bytes(), parse_float=pytest.fail)
    for provider in oracle_providers:
        if provider.id in VENDORS:
            assert [m["id"] for m in raw["vendors"][provider.id]["models"]] == [m.id for m in provider.models]
    assert parse_table(dump(build(*installed()))).version == raw["version"] == VERSION


def test_a_date_without_dashes_is_read_as_one_only_when_it_is_one() -> None:
    assert with_dashed_date("gpt-5.2-20251211") == "gpt-5.2-2025-12-11"
    assert with_dashed_date("gpt-5.2-20251311:x") == "gpt-5.2-20251311:x"
    assert with_dashed_date("gpt-20251211x") == "gpt-20251211x"


def test_the_oldest_price_holds_for_all_time_before_it() -> None:
    first, second = {"input": 1, "output": 1}, {"input": 2, "output": 2}
    prices = [{"from": "2027-01-01", "rates": second}, {"from": "2026-12-01", "rates": first}]
    tariff = parse_table(one_row(prices=prices)).find("a", "m")
    assert tariff is not None
    assert tariff.cost(Usage(1, 1), NOW) == Cost(1, 1, "x")


def test_a_model_without_prices_in_the_data_is_known_and_unpriced(tmp_path: Path) -> None:
    write(tmp_path / "out.json", *from_file(data_file(tmp_path, altered(prices=[]))))
    tariff = read_table(tmp_path / "out.json").find("openai", "m")
    assert tariff is not None
    assert tariff.cost(Usage(1, 1), NOW) is None


def test_prices_of_some_hours_go_before_those_of_the_day_that_they_stand_after(tmp_path: Path) -> None:
    prices = [
        {"prices": {"input_mtok": 1}},
        {"constraint": AT_NIGHT, "prices": {"input_mtok": 5}},
        {"constraint": {"start_date": "2026-01-01"}, "prices": {"input_mtok": 2}},
        {"constraint": {"start_time": "00:00", "end_time": "01:00"}, "prices": {"input_mtok": 7}},
    ]
    write(tmp_path / "out.json", *from_file(data_file(tmp_path, altered(prices=prices))))
    tariff = read_table(tmp_path / "out.json").find("openai", "m")
    assert tariff is not None
    clock = ["21:29:59", "21:30:00", "23:59:59", "00:00:00", "00:59:59", "01:00:00", "01:59:59", "02:00:00"]
    for day, expected in (("2025-12-31", [1, 5, 5, 7, 7, 5, 5, 1]), ("2026-01-01", [2, 2, 2, 7, 7, 2, 2, 2])):
        moments = [datetime.fromisoformat(f"{day}T{at}+00:00").timestamp() for at in clock]
        costs = [cost.input_pico // MILLION for moment in moments if (cost := tariff.cost(Usage(1, 0), moment))]
        assert costs == expected


def test_a_price_a_little_finer_than_a_pico_dollar_is_taken_up(tmp_path: Path) -> None:
    write(tmp_path / "out.json", *from_file(data_file(tmp_path, altered(prices={"input_mtok": 0.0833333333333333}))))
    tariff = read_table(tmp_path / "out.json").find("openai", "m")
    assert tariff is not None
    cost = tariff.cost(Usage(1, 0), NOW)
    assert cost is not None
    assert cost.input_pico == 83_334


def test_what_is_free_by_its_name_costs_nothing_and_what_only_has_no_price_is_unknown(tmp_path: Path) -> None:
    for model, free in (("m:free", Cost(0, 0, "")), ("m", None)):
        write(tmp_path / "out.json", *from_file(data_file(tmp_path, altered(id=model, prices={}))))
        tariff = read_table(tmp_path / "out.json").find("openai", "m")
        assert tariff is not None
        cost = tariff.cost(Usage(10, 10), NOW)
        assert (cost and cost._replace(price_version="")) == free


def test_no_row_of_the_shipped_table_is_broken() -> None:
    """It is the one table that is not worked out as a whole when it is read."""
    table = read_table(SHIPPED)
    assert list(table.vendors) == list(VENDORS)
    assert all(rows.models for rows in table.vendors.values())
    known = {vendor for rows in table.vendors.values() for vendor in rows.fallback}
    assert known == {"openai", "anthropic", "deepseek", "x-ai", "moonshotai"}


def test_a_rows_prices_are_worked_out_at_its_first_use() -> None:
    """A command that prices nothing does not wait for a thousand rows."""
    code = (
        "from muxx_std.pricing import table; made = []; tariff = table._tariff\n"
        "table._tariff = lambda *row: made.append(row[0]) or tariff(*row)\n"
        "shipped = table.shipped_table(); assert made == []; shipped.find('openai', 'gpt-4o'); print(made)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['gpt-4o']"


def test_the_documentation_names_every_vendor() -> None:
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    (line,) = re.findall(r"^- `prices` names the vendor(.*?)Left out", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`([^`]+)`", line) == list(VENDORS)

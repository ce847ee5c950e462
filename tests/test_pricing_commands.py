"""`muxx prices`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from pricing_kit import DATA, MODELS, VERSION, data_file, pricing

from muxx_std.pricing.table import SHIPPED


@pytest.fixture
def muxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `muxx prices …` in an empty directory, under the given settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUXX_CONFIG", raising=False)

    def run(*arguments: str, **settings: Any) -> Result:
        cli = click.Group("muxx")
        pricing(**settings).register_commands(cli)
        return CliRunner().invoke(cli, ["prices", *arguments])

    return run


def test_list_shows_the_operators_prices_and_then_the_tables(muxx: Callable[..., Result]) -> None:
    own = [{"model": "mine-*", "input": "2.50", "output": "10"}]
    rows = json.loads(muxx("list", "--json", prices=own).stdout)
    assert rows[0] | {"price_version": ""} == {
        "vendor": None, "model": "mine-*", "input": "2.5", "output": "10", "cache_read": "2.5", "cache_write": "2.5",
        "reasoning": "10", "input_audio": "2.5", "output_audio": "10", "cache_read_audio": "2.5", "cache_write_1h": "2.5",
        "input_image": "2.5", "output_image": "10", "cache_read_image": "2.5", "input_video": "2.5", "output_video": "10",
        "tiers": [], "hours": [], "price_version": "",
    }  # fmt: skip
    assert len(rows) == 1 + len(MODELS)
    assert len(json.loads(muxx("list", "--json", "--vendor", "openai", "--model", "mine-*", prices=own).stdout)) == 1
    some = json.loads(muxx("list", "--json", "--vendor", "openai", "--model", "GPT-4o-mini*").stdout)
    assert {row["vendor"] for row in some} == {"openai"}
    assert "gpt-4o-mini" in {row["model"] for row in some}
    assert all(row["model"].startswith("gpt-4o-mini") for row in some)
    lines = muxx("list", "--model", "gpt-4o").stdout.splitlines()
    assert len(lines) == 2
    assert all(row["vendor"] == "openrouter" for row in json.loads(muxx("list", "--json", "--model", "openai/gpt-4o*").stdout))
    assert lines[1].split()[:5] == ["openai", "gpt-4o", "2.5", "10", "1.25"]


def test_show_gives_the_price_of_any_name_with_tiers_and_version(muxx: Callable[..., Result]) -> None:
    row = json.loads(muxx("show", "gemini-2.5-pro-preview-06-05", "--json").stdout)
    assert (row["vendor"], row["model"], row["input"], row["output"]) == ("google", "gemini-2.5-pro", "1.25", "10")
    assert [(t["above"], t["input"], t["output"]) for t in row["tiers"]] == [(200_000, "2.5", "15")]
    assert row["price_version"] == VERSION
    assert json.loads(muxx("show", "o3", "--json").stdout)["history"][1]["from"] == "2025-06-10"
    assert json.loads(muxx("show", "gpt-4o", "--json").stdout)["service_tiers"]["priority"]["input"] == "4.25"
    text = muxx("show", "gpt-5.4").stdout
    assert text.startswith("openai/gpt-5.4, USD per 1M tokens, genai-prices-0.2.3\n")
    assert re.search(r"^today, input > 272000 +5 +22.5 ", text, re.MULTILINE)
    assert json.loads(muxx("show", "text-embedding-3-small", "--json").stdout)["output"] is None
    assert json.loads(muxx("show", "whisper-1", "--json").stdout)["input"] is None


def test_show_says_who_else_prices_the_name(muxx: Callable[..., Result]) -> None:
    assert muxx("show", "gpt-4o").stdout.splitlines()[-1] == "Priced by azure too: see --vendor."
    shown = json.loads(muxx("show", "openai/gpt-oss-120b", "--json").stdout)
    assert (shown["vendor"], shown["other_vendors"]) == ("groq", ["together", "openrouter"])
    asked = json.loads(muxx("show", "openai/gpt-oss-120b", "--json", "--vendor", "openrouter").stdout)
    assert (asked["vendor"], asked["other_vendors"]) == ("openrouter", ["groq", "together"])
    elsewhere = muxx("show", "gpt-4o", "--vendor", "groq")
    assert (elsewhere.exit_code, elsewhere.stdout) == (1, "")
    assert "no price is known for 'gpt-4o' at groq" in elsewhere.stderr


def test_show_gives_the_prices_of_some_hours_in_the_order_of_the_clock(muxx: Callable[..., Result]) -> None:
    row = json.loads(muxx("show", "deepseek-flash", "--json").stdout)
    assert (row["vendor"], row["input"]) == ("deepseek", "0.15")
    assert [(h["from"], h["to"], h["input"]) for h in row["hours"]] == [("01:00", "04:00", "0.3"), ("06:00", "10:00", "0.3")]
    assert re.search(r"^today, 01:00-04:00 UTC +0.3 +1.2 ", muxx("show", "deepseek-flash").stdout, re.MULTILINE)


def test_show_fails_for_a_name_nobody_prices_and_for_a_vendor_nobody_is(muxx: Callable[..., Result]) -> None:
    unknown = muxx("show", "nobody")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "no price is known for 'nobody'" in unknown.stderr
    assert muxx("show", "gpt-4o", "--vendor", "anthropic").exit_code == 1
    assert muxx("show", "gpt-4o", "--vendor", "opnai").exit_code == 2


def test_update_writes_the_installed_prices_beside_the_database(muxx: Callable[..., Result], tmp_path: Path) -> None:
    done = muxx("update", "--json")
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "muxx-prices.json"), "version": "genai-prices-0.2.3", "models": len(MODELS),
    }  # fmt: skip
    assert (tmp_path / "muxx-prices.json").read_bytes() == SHIPPED.read_bytes()
    assert f'table = "{tmp_path}/muxx-prices.json" in [plugins.pricing], and reload muxx (SIGHUP)' in done.stderr


def test_update_writes_where_the_configuration_says_and_from_a_file(muxx: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("")
    done = muxx("update", "--from", str(data_file(tmp_path, DATA)), table="own.json")
    assert done.exit_code == 0, done.output
    assert done.stderr == "A running muxx uses it from its next reload (SIGHUP).\n"
    shown = json.loads(muxx("show", "m-2026", "--json", table="own.json").stdout)
    assert (shown["input"], shown["reasoning"]) == ("0.2", "7")
    assert shown["price_version"].startswith("genai-prices-data-")


def test_an_update_that_fails_leaves_the_table_as_it_was(
    muxx: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.json").write_bytes(SHIPPED.read_bytes())
    failed = muxx("update", "--from", str(data_file(tmp_path, DATA[1:])), table="own.json")
    assert (failed.exit_code, failed.stdout) == (1, "")
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    missing = muxx("update", table="own.json")
    assert missing.exit_code == 1
    assert "pip install -U genai-prices" in missing.stderr
    assert (tmp_path / "own.json").read_bytes() == SHIPPED.read_bytes()
    unwritable = muxx("update", "--from", str(data_file(tmp_path, DATA)), table="no/such/directory/own.json")
    assert unwritable.exit_code == 1
    assert "cannot be written" in unwritable.stderr

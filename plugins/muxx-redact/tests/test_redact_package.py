"""The distribution: what makes it a plugin, and what its page says."""

from __future__ import annotations

import configparser
import re
import tomllib
from importlib import metadata
from pathlib import Path

import muxx

from muxx_redact import NAME, Redact
from muxx_redact.settings import RedactConfig

ROOT = Path(__file__).parent.parent


def test_the_entry_point_names_the_plugin() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, value = setup["options.entry_points"]["muxx"].strip().partition(" = ")
    assert name == NAME
    assert metadata.EntryPoint(name, value, "muxx").load() is Redact


def test_it_uses_public_names_of_muxx_only() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        source = path.read_text()
        assert re.findall(r"(?:from|import) muxx\.", source) == []
        for names in re.findall(r"^from muxx import (.*)$", source, re.M):
            assert set(names.split(", ")) <= set(muxx.__all__)


def test_the_page_names_every_option() -> None:
    page = (ROOT / "README.md").read_text()
    for option in RedactConfig.model_fields.keys() - muxx.PluginConfig.model_fields.keys():
        assert f"`{option}`" in page, option


def test_the_configuration_on_the_page_is_valid() -> None:
    page = (ROOT / "README.md").read_text()
    [block] = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    settings = tomllib.loads(block)["plugins"]["redact"]
    assert RedactConfig.model_validate(settings).block == ("private_key",)

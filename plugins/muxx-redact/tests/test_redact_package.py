"""The distribution: what makes it a plugin, and what its page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import muxx

from muxx_redact.settings import RedactConfig

ROOT = Path(__file__).parent.parent


def test_the_page_names_every_option() -> None:
    page = (ROOT / "README.md").read_text()
    for option in RedactConfig.model_fields.keys() - muxx.PluginConfig.model_fields.keys():
        assert f"`{option}`" in page, option


def test_the_configuration_on_the_page_is_valid() -> None:
    page = (ROOT / "README.md").read_text()
    [block] = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    settings = tomllib.loads(block)["plugins"]["redact"]
    assert RedactConfig.model_validate(settings).block == ("private_key",)

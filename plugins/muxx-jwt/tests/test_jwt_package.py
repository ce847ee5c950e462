"""The distribution: what makes it a plugin, and what its page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import muxx
import orjson
import pytest
from jwt_kit import PLUGINS
from muxx.testing import RunningGateway

from muxx_jwt import NAME
from muxx_jwt.settings import JwtConfig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


def shown(default: Any) -> str:
    """A default as the page writes it."""
    if isinstance(default, tuple | dict):
        return f"`{orjson.dumps(default).decode()}`" if default else "none"
    return "none" if default is None else f"`{orjson.dumps(default).decode()}`"


def test_the_page_names_every_option_with_its_default() -> None:
    for option, field in JwtConfig.model_fields.items():
        if option not in muxx.PluginConfig.model_fields:
            row = re.search(rf"^\| `{option}` \| (.+?) \|", PAGE, re.M)
            assert row is not None, option
            default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
            assert row[1] == default, option


@pytest.mark.parametrize("block", re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S))
async def test_a_gateway_starts_with_the_configuration_on_the_page(block: str) -> None:
    settings = tomllib.loads(block)
    settings["plugins"][NAME] |= {"fetch_timeout_s": 0.05}
    async with RunningGateway(settings, plugins=PLUGINS) as gateway:
        assert (await gateway.chat()).status == 200

"""The plugins published beside muxx: what makes each a plugin, and that it is built from public names."""

from __future__ import annotations

import configparser
import importlib
import re
from importlib import metadata
from pathlib import Path

import pytest

import muxx

PLUGINS = Path(__file__).parent.parent / "plugins"
CLASSES = {"muxx-guard": "Guard", "muxx-jwt": "Jwt", "muxx-redact": "Redact", "muxx-router": "Router"}


def test_every_distribution_is_looked_at() -> None:
    assert {path.parent.name for path in PLUGINS.glob("*/setup.cfg")} == CLASSES.keys()


@pytest.mark.parametrize(("distribution", "cls"), CLASSES.items())
def test_the_entry_point_names_the_plugin(distribution: str, cls: str) -> None:
    module = importlib.import_module(distribution.replace("-", "_"))
    setup = configparser.ConfigParser()
    setup.read(PLUGINS / distribution / "setup.cfg")
    name, _, value = setup["options.entry_points"]["muxx"].strip().partition(" = ")
    assert name == module.NAME
    assert metadata.EntryPoint(name, value, "muxx").load() is getattr(module, cls)


@pytest.mark.parametrize("distribution", CLASSES)
def test_it_uses_public_names_of_muxx_only(distribution: str) -> None:
    sources = list((PLUGINS / distribution / "src").rglob("*.py"))
    assert sources
    for path in sources:
        source = path.read_text()
        assert re.findall(r"(?:from|import) muxx\.", source) == []
        for names in re.findall(r"^ *from muxx import (.*)$", source, re.M):
            assert set(names.split(", ")) <= set(muxx.__all__)

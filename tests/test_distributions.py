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


def test_who_has_only_a_wheel_or_a_source_distribution_has_the_pages_and_the_example_too() -> None:
    root = PLUGINS.parent
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    base = Path("share/doc/muxx")
    brought = set()
    for folder, patterns in setup["options.data_files"].items():
        for path in (found for pattern in patterns.split() for found in root.glob(pattern)):
            assert Path(folder) == base / path.relative_to(root).parent, "links between pages hold there too"
            brought.add(path)
    wanted = {path for path in (root / "docs").rglob("*") if path.is_file()} | {root / "config.example.toml"}
    assert brought >= wanted | set(root.glob("*.md"))


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

"""The standard plugins, as setup.cfg names them."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

_setup = ConfigParser()
_setup.read(Path(__file__).parent.parent / "setup.cfg")
STANDARD = {line.split(" = ")[0] for line in _setup["options.entry_points"]["muxx"].strip().splitlines()}

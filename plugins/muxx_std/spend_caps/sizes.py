"""How many tokens a model reads and writes at most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import orjson

SHIPPED = Path(__file__).with_name("sizes.json")

DATED = re.compile(r"(-\d{4}-\d\d-\d\d|-\d{8}|-latest|-\d{3,4})$", re.ASCII)
"""The end of a name that says which version of a model it is."""

LONGEST_NAME = 256


class Sizes(NamedTuple):
    """Tokens: what a model's context holds, and its longest answer."""

    context: int
    output: int


UNKNOWN = Sizes(2_097_152, 131_072)
"""Of a model nobody has told us of: as large as the largest that are sold."""


@cache
def _table() -> Mapping[str, Mapping[str, list[int]]]:
    table: Mapping[str, Mapping[str, list[int]]] = orjson.loads(SHIPPED.read_bytes())
    return table


@lru_cache(maxsize=4096)
def sizes_of(vendor: str, name: str) -> Sizes:
    """The sizes of the model of that name at the vendor, by its name with its date or without it."""
    if len(name) > LONGEST_NAME:
        return UNKNOWN
    models, lower = _table().get(vendor, {}), name.lower()
    found = models.get(lower) or models.get(DATED.sub("", lower))
    return Sizes(*found) if found else UNKNOWN

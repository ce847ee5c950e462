"""What a model's name asks the mock to do."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

NUMBERS = {"slow": (0, 600_000), "drip": (0, 60_000), "long": (1, 100_000), "error": (400, 599)}
FLAGS = ("tool", "reasoning", "nousage", "nodone")
FAULTS = ("cut", "stall", "garbage")
ECHO = ("echo", "mock")
WORDS = ("text", *NUMBERS, *FLAGS, *FAULTS)
NAMES = ("echo", "text-WORDS", "slow-MS", "drip-MS", "long-N", "error-STATUS", *FLAGS, *FAULTS)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a model's name asks for. Milliseconds, counts and an HTTP status, all 0 for "not asked"."""

    text: str | None = None
    slow: int = 0
    drip: int = 0
    long: int = 0
    error: int = 0
    tool: bool = False
    reasoning: bool = False
    nousage: bool = False
    nodone: bool = False
    fault: str = ""


def parse(name: str) -> Behaviour | None:
    """Read `slow-200+drip-20+long-50`. None when any part is no behaviour, or its number is out of range."""
    chosen: dict[str, Any] = {}
    for part in name.split("+"):
        word, dash, value = part.partition("-")
        if word == "text" and dash:
            chosen["text"] = unquote(value)
        elif word in NUMBERS and _within(value, *NUMBERS[word]):
            chosen[word] = int(value)
        elif part in FLAGS:
            chosen[part] = True
        elif part in FAULTS:
            chosen["fault"] = part
        elif part not in ECHO:
            return None
    return Behaviour(**chosen)


def _within(digits: str, least: int, most: int) -> bool:
    return len(digits) <= 9 and digits.isdecimal() and least <= int(digits) <= most


@lru_cache(maxsize=1024)
def behaviour_of(model: str) -> Behaviour | None:
    """What a model's name means; None when it is a mistake.

    A name that starts with `mock/` has to be right. Routing may have taken that prefix off, and under `--mock` any model's name
    arrives here, so a bare name is a mistake only when one of its parts looks like a behaviour and is none; else it echoes.
    """
    name = model.removeprefix("mock/")
    found = parse(name)
    if found is not None or name != model:
        return found
    words = [part.partition("-")[0] for part in name.split("+")]
    return None if any(get_close_matches(word, WORDS, cutoff=0.75) for word in words) else Behaviour()

"""What is asked and what may be answered: the JSON that the README describes. Pure.

An answer that is not exactly of this shape is a failure of the service, never a yes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Edit = tuple[int, int, str]
"""From where, up to where, and what to put there: what a `muxx.TextWindow` takes."""

MOST_BYTES = 1024 * 1024
LONGEST_REASON = 200

_CODE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Refused(Exception):
    """The service says no. `code` is a word fit for clients and logs; `reason` is for the log alone."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


class ServiceFailed(Exception):
    """The service gave no usable answer. The text says why, in our own words."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text to be judged. `place` is where in the request it stands, or which choice of the answer it is of."""

    role: str
    kind: str
    place: str
    text: str
    last: bool = True
    """False where more of the same text follows, and this piece's end will be shown again with it."""


class Replacement(BaseModel):
    """Characters `start` up to `end` of a text become `with`. They count as Python's: one per code point."""

    model_config = ConfigDict(hide_input_in_errors=True)
    text: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    new: str = Field(alias="with", max_length=100_000)


class Verdict(BaseModel):
    """What the service may answer. Members it says more are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)
    allow: bool
    code: str = ""
    reason: str = ""
    replace: list[Replacement] = Field(default_factory=list, max_length=10_000)


def question(kind: Literal["request", "answer"], about: dict[str, Any], texts: Sequence[Text]) -> dict[str, Any]:
    return {"kind": kind, **about, "texts": [asdict(text) for text in texts]}


def edits_of(data: bytes, texts: Sequence[Text]) -> list[list[Edit]]:
    """The edits of each text, in order and apart from each other. Raises `Refused`, or `ServiceFailed` for any other answer."""
    try:
        verdict = Verdict.model_validate_json(data, strict=True)
    except ValidationError:
        raise ServiceFailed("its answer is no verdict") from None
    if not verdict.allow:
        raise Refused(verdict.code if _CODE.fullmatch(verdict.code) else "refused", _printable(verdict.reason))
    edits: list[list[Edit]] = [[] for _ in texts]
    for item in verdict.replace:
        if item.text >= len(texts) or not item.start < item.end <= len(texts[item.text].text):
            raise ServiceFailed("it replaces what is not there")
        edits[item.text].append((item.start, item.end, item.new))
    for found in edits:
        found.sort()
        if any(before[1] > after[0] for before, after in pairwise(found)):
            raise ServiceFailed("its replacements overlap")
    return edits


def settled(edits: Sequence[Edit], until: int) -> tuple[list[Edit], int]:
    """The edits that begin before `until`, and up to where the text is decided with them. The others are asked for again."""
    made = [edit for edit in edits if edit[0] < until]
    return made, max([until, *(end for _, end, _ in made)])


def edited(text: str, edits: Sequence[Edit]) -> str:
    out, at = [], 0
    for start, end, new in edits:
        out += [text[at:start], new]
        at = end
    return "".join([*out, text[at:]])


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:LONGEST_REASON])

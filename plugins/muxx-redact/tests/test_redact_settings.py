"""What `[plugins.redact]` may say, and what an operator is told of a slip of the pen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from muxx import ConfigError
from muxx.testing import RunningGateway
from redact_kit import PLUGINS, masked, streamed

from muxx_redact import own
from muxx_redact.settings import RedactConfig


async def problem(settings: Mapping[str, Any]) -> str:
    """What a start with these settings fails with."""
    with pytest.raises(ConfigError) as caught:
        async with RunningGateway({"plugins": {"redact": settings}}, plugins=PLUGINS):
            pass
    [line] = caught.value.errors
    return line.partition("plugins.redact")[2]


EMPTY = ".literals.a: must be texts of 3 to 1000 characters: a shorter one would hide half of every answer"
LONG = ".patterns.a: matches up to {} characters; an answer is held back for at most 1000"
SLIPS = [
    ({"patterns": {"a": "EMP-[0-9]+"}}, ".patterns.a: has no longest match: give every *, + and {n,} an upper end, e.g. {1,40}"),
    ({"patterns": {"a": "EMP-[0-9"}}, ".patterns.a: is no regular expression of Python's: something is wrong at position 4"),
    ({"patterns": {"a": "(?:EMP)?"}}, ".patterns.a: matches the empty text; it has to match at least one character"),
    ({"patterns": {"a": "a.{1,2000}"}}, LONG.format(2002)),
    ({"patterns": {"a": "a(?=.{1,2000}b)"}}, LONG.format(2003)),
    (
        {"patterns": {"a": "(?:a|aa){1,30}b"}},
        ".patterns.a: may take more than 20000 steps at every place of a text: make its repeats shorter, or possessive ({1,40}+)",
    ),
    ({"literals": {"a": ["ab"]}}, EMPTY),
    ({"literals": {"a": []}}, EMPTY),
    ({"patterns": {"email": "a"}}, ": patterns and literals need names of their own, each used once"),
    ({"patterns": {"a": "b"}, "literals": {"a": ["bcd"]}}, ": patterns and literals need names of their own, each used once"),
    ({"mask": 'a"b'}, ".mask: may hold no quote, backslash or control character, for it is put into JSON"),
    ({"mask": "ada@example.org"}, ": mask is something that would be masked itself; choose another"),
    ({"emial": True}, ".emial: unknown key (did you mean 'email'?)"),
]


@pytest.mark.parametrize(("settings", "said"), SLIPS)
async def test_a_slip_is_told_by_name_and_with_its_mend(settings: Mapping[str, Any], said: str) -> None:
    assert await problem(settings) == said


async def test_a_block_names_detectors() -> None:
    said = await problem({"block": ["email", "emial"]})
    assert said.startswith(": entry 1 of block is no detector; there are api_key, jwt, ")


async def test_what_is_refused_is_not_quoted() -> None:
    assert "hunter2" not in await problem({"patterns": {"a": "hunter2+"}})
    assert "q7" not in await problem({"literals": {"a": ["q7"]}})


def test_a_pattern_and_a_text_of_ones_own() -> None:
    config = RedactConfig(patterns={"employee": "(?i)emp-[0-9]{4,6}"}, literals={"project": ("Bluebird", "Bluebird II")})
    assert masked("EMP-12345 of Bluebird II, emp-1, bluebird", config) == "[EMPLOYEE] of [PROJECT], emp-1, bluebird"


def test_a_pattern_that_looks_further_back_than_an_answer_is_kept_is_not_taken() -> None:
    """It would find in a plain answer what it misses in a streamed one."""
    near, far = (f"(?:x|(?<={('a, ' * 11)[-count:]}))[0-9]{{4}}" for count in (32, 33))
    assert own.checked_pattern(near) == near
    config = RedactConfig(patterns={"pin": near})
    text = "It is " + "a, " * 20 + "1234 then, and so on."
    assert streamed(list(text), config) == masked(text, config) == text.replace("1234", "[PIN]")
    with pytest.raises(ValueError, match="looks back over more than 32"):
        own.checked_pattern(far)


def test_a_mask_is_what_the_operator_says() -> None:
    assert masked("ada@example.org", RedactConfig(mask="<{name}>")) == "<EMAIL>"
    assert masked("ada@example.org", RedactConfig(mask="***")) == "***"


@pytest.mark.parametrize(
    ("pattern", "reach"), [("abc", 4), ("a{2,5}b?", 7), ("a(?=bcd)", 5), ("(?<=x)a", 2), (r"(a|bb)\1", 5), (r"\bab\b", 3)]
)
def test_how_far_a_pattern_looks_is_known(pattern: str, reach: int) -> None:
    assert own.reach(pattern) == reach


@pytest.mark.parametrize(
    "pattern",
    ["EMP-[0-9]{6}", r"[\w.]{1,64}+@[\w.]{1,100}", "(?:ab|cd){1,8}+", "(?>a{1,5}|b)c", r"(\d)-\1{1,3}", "(a)?(?(1)b|c)"],
)
def test_a_pattern_that_ends_is_taken(pattern: str) -> None:
    assert own.checked_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["(?:a{1,9}){1,9}b", "(?:a?){1,40}a{1,40}", ".{1,200}.{1,200}x", "(?:(?:ab?){1,20}c?){1,20}"])
def test_a_pattern_that_may_try_over_and_over_is_not(pattern: str) -> None:
    with pytest.raises(ValueError, match="steps"):
        own.checked_pattern(pattern)

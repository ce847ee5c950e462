"""However an answer is cut, what leaves is the whole text masked; and the arguments of a tool call stay JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from muxx import Chunk, TextWindow
from redact_kit import ALL_ON, EVERY, PEM, SECRETS, cut, cuttings, masked, side_of, streamed

from muxx_redact import Redact
from muxx_redact.settings import RedactConfig

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCRAPS = (
    *(secret for _, secret in EVERY),
    " ", "  ", "and", "The key", "-", "---", "-----BEGIN ", "-----END ", "(", ")", ".", ",", "\n",
    "0", "12", "4111 ", "+", "+1", "@", "a@", "eyJ", ".eyJ", "sk-", "DE89 ", "\\", "\\n", "\\u0040", "\\u00", '"', ":", "[EMAIL]",
    "é", "漢字", "👋", "EMP-12345", "EMP-", "Bluebird", "Blue", "CORP", "\\nina", "\\bob", "\\\\srv", "nina",
)  # fmt: skip
texts = st.lists(st.sampled_from(SCRAPS), max_size=8).map("".join)
OWN = RedactConfig(ip=True, patterns={"employee": "EMP-[0-9]{3,6}"}, literals={"project": ("Bluebird", "Bluebird II")})
BACKSLASHES = RedactConfig(patterns={"login": r"CORP\\[a-z]{1,9}"}, literals={"share": ("\\\\srv\\bob",), "name": ("nina",)})
configs = st.sampled_from([ALL_ON, OWN, BACKSLASHES])


@unhurried
@given(texts, st.lists(st.integers(0, 400), max_size=12), configs)
def test_however_a_text_is_cut_it_is_masked_as_the_whole_would_be(text: str, places: list[int], config: RedactConfig) -> None:
    assert streamed(cut(text, places), config) == masked(text, config)


@pytest.mark.parametrize(("name", "secret"), EVERY)
def test_no_cut_lets_any_of_it_out(name: str, secret: str) -> None:
    text = f"Take {secret} now."
    expected = f"Take [{name.upper()}] now."
    for pieces in cuttings(text):
        assert streamed(pieces) == expected


def test_nothing_leaves_before_it_is_known_to_be_harmless() -> None:
    side = side_of()
    window = TextWindow.per_channel(lambda chunk: side.function_for(False), hold=Redact(ALL_ON).scanner.hold)
    for sign in "Take " + PEM:
        assert all(chunk.text in "Take " for chunk in window.feed(Chunk("text", sign)) or ())


PLAIN = ["Hello there, how are you today? ", "漢字仮名交じり文、ところで。", "It was 1984, 2 or 3 of them: so what? "]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_words_wait_for_no_more_than_their_end(text: str) -> None:
    side, held = side_of(), 0
    window = TextWindow.per_channel(lambda chunk: side.function_for(False), hold=Redact(ALL_ON).scanner.hold)
    for sign in text * 3:
        chunk = Chunk("text", sign)
        held += 1 - len(result if (result := window.feed(chunk)) is not None else [chunk])
        assert held <= 10


def test_a_backslash_in_what_an_operator_looks_for_is_one_in_a_text() -> None:
    for pieces in cuttings("CORP\\nina has \\\\srv\\bob, as JSON CORP\\\\bob."):
        assert streamed(pieces, BACKSLASHES) == "[LOGIN] has [SHARE], as JSON [LOGIN]."
    for pieces in cuttings(json.dumps({"a": "CORP\\nina", "CORP\\bob": "\\\\srv\\bob"})):
        assert json.loads(streamed(pieces, BACKSLASHES, arguments=True)) == {"a": "[LOGIN]", "[LOGIN]": "[SHARE]"}


# ── arguments ──


def spelt(value: Any, draw: Any) -> str:
    """JSON text, with blanks where they may stand, and any character as an escape or not."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{spelt(key, draw)}{draw(BLANKS)}:{draw(BLANKS)}{spelt(value[key], draw)}" for key in value) + "}"
    if isinstance(value, list):
        return "[" + draw(BLANKS) + ",".join(spelt(item, draw) + draw(BLANKS) for item in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    escaped = draw(st.sets(st.sampled_from(range(max(1, len(value)))), max_size=5))
    signs = [f"\\u{ord(sign):04x}" if at in escaped and ord(sign) < 0x10000 else _as_json(sign) for at, sign in enumerate(value)]
    return '"' + "".join(signs) + '"'


def _as_json(sign: str) -> str:
    return json.dumps(sign, ensure_ascii=False)[1:-1]


BLANKS = st.sampled_from(["", " ", "\n  "])
NUMBERS = (1, -7, 2.5, True, None, 4111111111111111, -4111111111111111, 378282246310005, 77012345)
values = st.recursive(
    st.sampled_from(NUMBERS) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
AWKWARD = RedactConfig(
    patterns={"number": "77[0-9]{4}", "across": r"[a-z]{1,5}\W{1,6}[0-9]{4}"}, literals={"word": ("true", "null")}
)


@unhurried
@given(st.data(), st.lists(st.integers(0, 600), max_size=12), st.sampled_from([ALL_ON, AWKWARD, BACKSLASHES]))
def test_arguments_stay_json_however_they_are_cut(data: st.DataObject, places: list[int], config: RedactConfig) -> None:
    arguments = spelt({"x": data.draw(values)}, data.draw)
    whole = masked(arguments, config, arguments=True)
    json.loads(whole)
    assert streamed(cut(arguments, places), config, arguments=True) == whole


@pytest.mark.parametrize(("name", "secret"), EVERY)
def test_no_cut_of_arguments_lets_any_of_it_out(name: str, secret: str) -> None:
    for value in (secret, [secret, {secret: "to " + secret}]):
        arguments = json.dumps({"a": value})
        for pieces in cuttings(arguments):
            left = json.loads(streamed(pieces, arguments=True))
            assert secret not in str(left)
            assert f"[{name.upper()}]" in str(left)


def test_a_number_becomes_a_string_that_holds_the_mask() -> None:
    for pieces in cuttings('{"card": 4111111111111111, "more":[-4111111111111111,4111111111111112]}'):
        assert streamed(pieces, arguments=True) == '{"card": "[CARD]", "more":["[CARD]",4111111111111112]}'


def test_a_match_over_the_end_of_a_string_leaves_the_signs_between() -> None:
    config = RedactConfig(patterns={"pin": r"pin\W{1,5}[0-9]{4}"})
    for pieces in cuttings('{"pin": 1234, "pin": "12345"}'):
        assert streamed(pieces, config, arguments=True) == '{"[PIN]": "[PIN]", "[PIN]": "5"}'


def test_arguments_that_are_no_json_are_masked_as_text() -> None:
    for pieces in cuttings("pay 4111111111111111 to ada@example.org"):
        assert streamed(pieces, arguments=True) == "pay [CARD] to [EMAIL]"


def test_the_longest_web_token_is_hidden_up_to_its_bound() -> None:
    [token] = SECRETS["jwt"]
    long = token + "x" * 10_000
    for size in (1, 7, 300):
        left = streamed([long[start : start + size] for start in range(0, len(long), size)])
        assert left == "[JWT]" + long[8000:]

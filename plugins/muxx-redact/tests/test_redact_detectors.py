"""What is found and what is not."""

from __future__ import annotations

import re

import pytest
from redact_kit import ALL_ON, EVERY, PEM, SECRETS, masked

from muxx_redact import own, personal, secrets
from muxx_redact.detectors import BUILT_IN, NAMES
from muxx_redact.settings import RedactConfig


def mask(name: str) -> str:
    return f"[{name.upper()}]"


def test_every_detector_is_tested_here() -> None:
    assert tuple(SECRETS) == NAMES


@pytest.mark.parametrize(("name", "secret"), EVERY)
@pytest.mark.parametrize("around", ["{}", "see {} there", "({}).", "a\n{}\nand b", '"{}"', "key={},", "«{}»", "{} {}", "漢{}字"])
def test_it_is_found_wherever_it_stands(name: str, secret: str, around: str) -> None:
    assert masked(around.replace("{}", secret)) == around.replace("{}", mask(name))


@pytest.mark.parametrize(("name", "secret"), EVERY)
def test_a_detector_that_is_off_finds_nothing_and_the_others_find_no_more(name: str, secret: str) -> None:
    assert mask(name) not in masked(secret, ALL_ON.model_copy(update={name: False}))


@pytest.mark.parametrize(("name", "secret"), EVERY)
def test_a_detector_alone_finds_all_of_its_own(name: str, secret: str) -> None:
    alone = RedactConfig(**{other: other == name for other in NAMES})  # type: ignore[arg-type]
    assert masked(f"x {secret} y", alone) == f"x {mask(name)} y"


NOT_FOUND = [
    # keys: too short, or a word
    "sk-learn", "a risk-assessment-and-management-plan", "AKIA", "AKIAIOSFODNN7EXAMPLEX", "ghp_short", "muxx_sk_",
    # tokens and keys in public
    "eyJhbGciOiJIUzI1NiJ9", "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEAQQQQ\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIEpAIBAAKCAQEAQQQQ\n-----END PUBLIC KEY-----",
    # addresses
    "@ada", "ada@localhost", "pkg@1.2.3", "a @ b.c", "ada@", "@example.org",
    # cards: the check digit, the length, the grouping, the beginning, part of a longer number
    "4111111111111112", "411111111111", "41 11 11 11 11 11 11 11", "4111 1111-1111 1111", "1111111111111117", "9999999999999995",
    "94111111111111111", "41111111111111119999", "0.4111111111111111", "a4111111111111111", "4111111111111111b",
    # IBANs: check digits, length, country
    "DE89370400440532013001", "DE8937040044053201300", "ZZ89370400440532013000", "XDE89370400440532013000",
    # social security numbers that are never given out
    "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "123456789", "1123-45-6789", "123-45-67890",
    # numbers that are no telephone's
    "1234567", "555-0132", "2024-01-02", "2024-01-02 10:11:12", "+1234", "1 + 2 3 4 5 6 7 8 9", "3.14159265358979",
    "1,234,567,890",
    # addresses of machines
    "1.2.3", "1.2.3.4.5", "256.1.1.1", "12:30:45", "std::vector", "::",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_stays(text: str) -> None:
    for around in ("{}", "see {} there", "({})"):
        assert masked(around.format(text)) == around.format(text)


def test_a_word_after_an_iban_is_not_taken_for_its_end() -> None:
    assert masked("DE89 3704 0044 0532 0130 00 BANK") == "[IBAN] BANK"
    assert masked("NO93 8601 1117 947 1234") == "[IBAN] 1234"


def test_a_dot_after_an_address_or_a_token_ends_the_sentence() -> None:
    [token] = SECRETS["jwt"]
    assert masked(f"Ask ada@example.org. Not {token}.") == "Ask [EMAIL]. Not [JWT]."


def test_a_sentence_about_private_keys_stays() -> None:
    text = "A file begins with -----BEGIN PRIVATE KEY----- and then there is base64. Or so."
    assert masked(text) == text.replace("-----BEGIN PRIVATE KEY-----", "[PRIVATE_KEY]")


def test_matches_that_overlap_become_one() -> None:
    config = RedactConfig(patterns={"ticket": "no [0-9]{4}"})
    assert masked("no 4111 1111 1111 1111", config) == "[CARD]"


def test_masks_are_found_by_nobody() -> None:
    text = " ".join(secret for _, secret in EVERY)
    assert masked(masked(text)) == masked(text)


# ── escapes ──


@pytest.mark.parametrize("text", [r"ada\u0040example.org", r"\u0061da@example\u002eorg", r"ada@example.org"])
@pytest.mark.parametrize("before", ["", r"\n", r"\t", r"\\", r"\"", "/", r"\u00fc "])
def test_an_escape_is_read_as_what_it_stands_for(text: str, before: str) -> None:
    assert masked(before + text) == before + "[EMAIL]"


def test_a_key_pasted_as_json_is_one_key() -> None:
    pasted = '{"private_key": "' + PEM.replace("\n", r"\n") + r'\n"}'
    assert masked(pasted) == '{"private_key": "[PRIVATE_KEY]' + r'\n"}'


def test_a_backslash_that_begins_no_escape_is_one() -> None:
    assert masked(r"\d \x ada@example.org \u12 \ ") == r"\d \x [EMAIL] \u12 \ "


# ── time ──

SEARCHED = {
    name: value.pattern
    for module in (secrets, personal)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern) and name.isupper() and not name.startswith("_")
}


@pytest.mark.parametrize("name", SEARCHED)
def test_what_a_pattern_does_at_one_place_of_a_text_is_bounded(name: str) -> None:
    """So a text takes places times steps, whatever it is. The other patterns only measure runs, and go on at their ends."""
    assert own.steps(SEARCHED[name]) <= own.MOST_STEPS


HARD = [
    "a", "4", "4 ", "4111 ", "@", "a@", "a@a.", "eyJ", "eyJaaaaaaa.", "-", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n", "aaaaaaaaaaaaaaa\n", "+1", "+1 2 3 4 5 6 ", "DE89 3704 0044 ", "aa11", "sk-", "s", "xoxb-1",
    ":", "\\", "\\u0041", "(415) 555-", "123-45-", "a.", " ", "\n", "ghp_", "1.1.1.", "A", "_", "muxx_sk_",
]  # fmt: skip


@pytest.mark.parametrize("unit", HARD, ids=repr)
def test_a_megabyte_of_anything_is_done_in_a_time_nobody_has_to_wait_for(unit: str) -> None:
    """A pattern that tries over and over would take hours, and the suite's own limit would end it."""
    text = unit * (1_000_000 // len(unit))
    assert "ada@" not in masked(text + " ada@example.org")


def test_reach_is_what_the_patterns_say() -> None:
    """Nothing a detector of words or numbers finds is longer than what is held back for it."""
    reach = {detector.name: detector.reach for detector in BUILT_IN}
    assert own.reach(secrets.API_KEYS.pattern) <= reach["api_key"]
    assert own.reach(personal.EMAIL.pattern) + 64 <= reach["email"]
    for name, pattern in (("card", personal.CARD), ("ssn", personal.SSN), ("phone", personal.PHONE), ("ip", personal.IP_ADDRESS)):
        assert own.reach(pattern.pattern) <= reach[name]

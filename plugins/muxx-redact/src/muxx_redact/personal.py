"""Personal data: addresses and numbers. Each function yields the (begin, end) of what it finds from `start` on.

Numbers are told from other numbers by their grouping, and by their check digits where they have any.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from .tails import LATIN, run_before

# ── e-mail addresses ──

_LOCAL = f"[0-9A-Za-z{LATIN}._%+-]"
_BEFORE_AT = re.compile(_LOCAL + "{1,64}+")
EMAIL = re.compile(
    rf"@(?<={_LOCAL}@)(?:[0-9A-Za-z{LATIN}-]{{1,63}}+\.){{1,8}}(?:xn--[0-9A-Za-z-]{{2,59}}+|[A-Za-z{LATIN}]{{2,24}}+)"
)
"""From the @ on. Looking from there costs a text without one nothing."""


def find_emails(text: str, start: int) -> Iterator[tuple[int, int]]:
    for found in EMAIL.finditer(text, start):
        at = found.start()
        yield at - run_before(_BEFORE_AT, text, at, max(start, at - 64)), found.end()
        start = found.end()


# ── numbers ──

CARD = re.compile(
    "[2-6](?<![0-9A-Za-z][2-6])(?<![0-9][.,][2-6])"
    "(?:[0-9]{12,18}+|[0-9]{3}([ \u00a0-])[0-9]{4}\\1[0-9]{4}\\1[0-9]{1,7}+|[0-9]{3}([ \u00a0-])[0-9]{6}\\2[0-9]{4,5}+)"
    "(?![0-9A-Za-z])"
)
"""In one piece, or grouped 4-4-4-4 or 4-6-5 with the same sign between all groups."""

SSN = re.compile("[0-8](?<![0-9A-Za-z-][0-8])[0-9]{2}([ -])[0-9]{2}\\1[0-9]{4}(?![0-9A-Za-z])(?!-[0-9])")

PHONE = re.compile(
    r"\+(?<![0-9A-Za-z+]\+)(?:1(?:[ .()/\u00a0-]{0,2}+[0-9]){10}|[2-9](?:[ .()/\u00a0-]{0,2}+[0-9]){7,14})(?![0-9])"
    r"|\((?<![0-9A-Za-z)]\()[2-9][0-9]{2}\)[ \u00a0-]?[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9A-Za-z])"
    r"|[2-9](?<![0-9A-Za-z.+-][2-9])[0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}(?![0-9A-Za-z])(?!-[0-9])"
)
"""International with its +, and North American as (415) 555-0132, 415-555-0132 and 415.555.0132."""

IBAN_BEGINS = re.compile("[A-Za-z](?<![0-9A-Za-z][A-Za-z])[A-Za-z][0-9]{2}")
_IBAN_BEGUN = re.compile("(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ \u00a0]?+[0-9A-Za-z]){0,30}+[ \u00a0]?+\\Z")
IBAN_REACH = 70
"""More than the longest IBAN with a blank after every character (68)."""
_IBANS_OF = {
    country: re.compile(f"[A-Za-z]{{2}}[0-9]{{2}}(?:[ \u00a0]?+[0-9A-Za-z]){{{int(length) - 4}}}(?![0-9A-Za-z])")
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO FK GT HN HU LB NI PL", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC", "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""ISO 13616: how long an IBAN of each country is."""
_NEVER = re.compile(r"(?!)")

IP_ADDRESS = re.compile(
    r"(?<![0-9A-Za-z.:])(?:(?:[0-9]{1,3}+\.){3}[0-9]{1,3}+(?![0-9A-Za-z])(?!\.[0-9])"
    r"|(?:[0-9A-Fa-f]{0,4}+:){1,7}(?:(?:[0-9]{1,3}+\.){3}[0-9]{1,3}+|:|[0-9A-Fa-f]{1,4}+)(?![0-9A-Za-z]))"
)

_OTHER_THAN_DIGITS = re.compile("[^0-9]")
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")
_AS_NUMBERS = {ord(letter): str(int(letter, 36)) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"} | dict.fromkeys(map(ord, " \u00a0"))


def _checked(pattern: re.Pattern[str], is_valid: Callable[[str], bool]) -> Callable[[str, int], Iterator[tuple[int, int]]]:
    """Matches that pass a check. After one that does not, the search goes on at the next character."""

    def find(text: str, start: int) -> Iterator[tuple[int, int]]:
        match = pattern.search(text, start)
        while match is not None:
            valid = is_valid(match[0])
            if valid:
                yield match.span()
            match = pattern.search(text, match.end() if valid else match.start() + 1)

    return find


def is_card(text: str) -> bool:
    """A length its issuer uses, and Luhn's check digit."""
    digits = _OTHER_THAN_DIGITS.sub("", text)
    return len(digits) in _card_lengths(digits) and _luhn(digits)


def _card_lengths(digits: str) -> tuple[int, ...]:
    """The lengths of card numbers that begin like this one: Visa, Mastercard, American Express, Diners, JCB, Discover …"""
    two, four = int(digits[:2]), int(digits[:4])
    if two // 10 == 4:
        return 13, 16, 19
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return (16,)
    if two in (34, 37):
        return (15,)
    if two in (30, 36, 38, 39):
        return 14, 16
    return (16, 17, 18, 19) if two in (35, 50, 56, 57, 58) or 60 <= two <= 69 else ()


def _luhn(digits: str) -> bool:
    backwards = digits.encode()[::-1]
    return (sum(backwards[::2]) + sum(backwards[1::2].translate(_DOUBLED)) - len(digits) * ord("0")) % 10 == 0


def is_ssn(text: str) -> bool:
    """Neither an area, nor a group, nor a serial number that is never given out."""
    return text[:3] not in ("000", "666") and text[4:6] != "00" and text[7:] != "0000"


def is_iban(text: str) -> bool:
    """The remainder of 97 that every IBAN leaves, with its first four signs at its end and its letters as numbers."""
    number = text.upper().translate(_AS_NUMBERS)
    head = text[:4].upper().translate(_AS_NUMBERS)
    return int(number[len(head) :] + head) % 97 == 1


def find_ibans(text: str, start: int) -> Iterator[tuple[int, int]]:
    """As long as its country's are, so that the word after it is not taken for its end."""
    begin = IBAN_BEGINS.search(text, start)
    while begin is not None:
        whole = _IBANS_OF.get(begin[0][:2].upper(), _NEVER).match(text, begin.start())
        valid = whole is not None and is_iban(whole[0])
        if whole is not None and valid:
            yield whole.span()
        begin = IBAN_BEGINS.search(text, whole.end() if whole is not None and valid else begin.end())


def open_iban(text: str, start: int) -> int:
    """An IBAN written in groups. What is open before its first blank is an open word already."""
    found = _IBAN_BEGUN.search(text, max(start, len(text) - IBAN_REACH))
    return len(text) if found is None else found.start()


def is_ip(text: str) -> bool:
    """An address as it is written in full or shortened; `::` alone is more often a piece of code."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text != "::"


def find_phones(text: str, start: int) -> Iterator[tuple[int, int]]:
    return (match.span() for match in PHONE.finditer(text, start))


find_cards = _checked(CARD, is_card)
find_ssns = _checked(SSN, is_ssn)
find_ips = _checked(IP_ADDRESS, is_ip)

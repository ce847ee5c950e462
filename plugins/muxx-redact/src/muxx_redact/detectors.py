"""The detectors there are, by the names the configuration and the masks use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import personal, secrets
from .tails import NUMBER_REACH, WORD_REACH, Open, open_number, open_word

Find = Callable[[str, int], Iterable[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Detector:
    """`find` yields matches in order, apart from each other; which begin where depends on nothing but the text around them.

    `opens` say together from where on a match may still be going on, and no match is longer than `reach`. A text without what
    `hint` matches has no match.
    """

    name: str
    find: Find
    opens: tuple[Open, ...]
    reach: int
    hint: re.Pattern[str] | None = None
    as_written: bool = False
    """A backslash may be part of a match, so a text is searched as it stands too, and not only as JSON reads it."""


_DIGIT = re.compile("[0-9]")
_EYJ = re.compile("eyJ")
_BEGIN = re.compile("-----BEGIN ")
_IP = re.compile("[.:]")

BUILT_IN = (
    Detector("api_key", secrets.find_api_keys, (open_word,), WORD_REACH, secrets.API_KEYS),
    Detector("jwt", secrets.find_jwts, (open_word, secrets.open_jwt), secrets.JWT_MOST, _EYJ),
    Detector("private_key", secrets.find_private_keys, (open_word, secrets.open_private_key), secrets.PEM_MOST, _BEGIN),
    Detector("email", personal.find_emails, (open_word,), WORD_REACH, personal.EMAIL),
    Detector("card", personal.find_cards, (open_word, open_number), NUMBER_REACH, _DIGIT),
    Detector("iban", personal.find_ibans, (open_word, personal.open_iban), personal.IBAN_REACH, _DIGIT),
    Detector("ssn", personal.find_ssns, (open_word, open_number), NUMBER_REACH, _DIGIT),
    Detector("phone", personal.find_phones, (open_word, open_number), NUMBER_REACH, _DIGIT),
    Detector("ip", personal.find_ips, (open_word,), WORD_REACH, _IP),
)
NAMES = tuple(detector.name for detector in BUILT_IN)

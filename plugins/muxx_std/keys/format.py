"""The text of a key: `muxx_sk_live_`, 32 base62 characters of randomness, and a checksum of all before it.

The checksum is the CRC-32 as 6 base62 digits. It proves nothing about who made the key; it lets a typo be refused without looking
anything up, and a leaked key be recognised by a scanner that has no database.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from typing import cast

from muxx import Environment

MARK = "muxx_sk_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS = 32
CHECK_CHARACTERS = 6

_TEXT = re.compile(r"(muxx_sk_(live|test|admin)_)[0-9A-Za-z]{38}", re.ASCII)


def generate(environment: Environment) -> str:
    """A new key: 190 bits nobody has seen before."""
    head = MARK + environment + "_" + random_text(RANDOM_CHARACTERS)
    return head + checksum(head)


def random_text(length: int) -> str:
    """Base62 characters from the system's source of secrets, each equally likely."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def checksum(head: str) -> str:
    """CRC-32 of `head` as base62 digits, most significant first, padded with zeros."""
    rest = zlib.crc32(head.encode("ascii"))
    digits = []
    for _ in range(CHECK_CHARACTERS):
        rest, digit = divmod(rest, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key and its checksum is right. Any string may be asked about."""
    return _TEXT.fullmatch(text) is not None and checksum(text[:-CHECK_CHARACTERS]) == text[-CHECK_CHARACTERS:]


def environment_of(text: str) -> Environment:
    """The environment a well-formed key belongs to."""
    return cast(Environment, text.split("_", 3)[2])


def prefix_of(text: str) -> str:
    """The part of a well-formed key that is no secret, as lists show it."""
    return text[: -RANDOM_CHARACTERS - CHECK_CHARACTERS]

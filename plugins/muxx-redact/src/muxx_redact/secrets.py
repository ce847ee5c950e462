"""API keys of known shape, web tokens and private keys. Each function yields the (begin, end) of what it finds from `start` on.

Every repeat is possessive and has an upper end, so what is done at one place of a text is bounded, and all of it is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .tails import run_length

API_KEYS = re.compile(
    r"muxx_sk_[0-9A-Za-z_]{16,100}+"
    r"|s(?<![0-9A-Za-z]s)k-[0-9A-Za-z_-]{20,300}+"  # OpenAI, Anthropic, and those who copy them; not `risk-…`
    r"|s(?<![0-9A-Za-z]s)k_(?:live|test)_[0-9A-Za-z]{16,250}+"  # Stripe
    r"|r(?<![0-9A-Za-z]r)k_(?:live|test)_[0-9A-Za-z]{16,250}+"
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|A(?<![0-9A-Za-z]A)(?:KIA|SIA)[0-9A-Z]{16}(?![0-9A-Z])"  # AWS
    r"|gh[opsru]_[0-9A-Za-z]{30,255}+"  # GitHub
    r"|github_pat_[0-9A-Za-z_]{22,255}+"
    r"|glpat-[0-9A-Za-z_-]{20,250}+"  # GitLab
    r"|hf_[0-9A-Za-z]{30,100}+"  # Hugging Face
    r"|xox[abeoprs]-[0-9A-Za-z-]{10,250}+"  # Slack
)
"""Every alternative begins with a plain letter: the matcher then skips from one such letter to the next."""

JWT_MOST = 8000
"""Of a longer web token the first 8000 characters are masked."""
JWT_HEADER = 2000
_JWT_PART = re.compile(r"[0-9A-Za-z_-]*+")
_JWT_NEXT_PART = re.compile(r"\.[0-9A-Za-z_-]{2}")
_JWT = re.compile(r"(?:[0-9A-Za-z_-]++|\.(?=[0-9A-Za-z_-]))*+")
_JWT_RUN = re.compile(r"[0-9A-Za-z_.-]*+")

PEM_MOST = 20_000
"""More than a 16384-bit RSA key takes, the longest anybody uses."""
PEM_HEAD = re.compile(r"-----BEGIN (?:[0-9A-Z]{1,20}+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_REST = re.compile(
    r"(?:[ \t]{0,8}+[\r\n]{1,4}+[ \t]{0,8}+[A-Z][A-Za-z-]{2,20}+: [ !#-~]{0,120}+"  # a header: `Proc-Type: 4,ENCRYPTED`
    r"|\s{1,8}+[0-9A-Za-z+/]{16,16000}+={0,2}+"  # a line of the key, or all of it
    r"|\s{1,8}+[0-9A-Za-z+/=]{1,15}+(?=\s{0,8}+-----END)"  # its end
    r"|[ \t]{0,8}+[\r\n]{1,4}+[ \t]{0,8}+[0-9A-Za-z+/=]{1,15}+(?![ ,.:;'\"]))"  # or what may be it, alone on a line
    r"{0,500}+"
    r"(?P<end>\s{0,8}+-----END [ 0-9A-Z]{1,80}+-----)?"
)
_PEM_HEAD_BEGUN = re.compile(r"-----BEGIN[ 0-9A-Z]{0,80}+-{0,5}+")
_PEM_LINE_BEGUN = re.compile(r"\s{0,24}+[ !#-~]{0,160}+")


def find_api_keys(text: str, start: int) -> Iterator[tuple[int, int]]:
    return (match.span() for match in API_KEYS.finditer(text, start))


def find_jwts(text: str, start: int) -> Iterator[tuple[int, int]]:
    """`eyJ…`, which is how base64 spells the beginning of a JSON object, and at least one more part after a dot."""
    begin = text.find("eyJ", start)
    while begin >= 0:
        end = begin + run_length(_JWT_PART, text, begin)
        begin = text.find("eyJ", max(begin, end - JWT_HEADER), end - 5)
        if begin >= 0 and _JWT_NEXT_PART.match(text, end):
            end = begin + run_length(_JWT, text[:begin + JWT_MOST], begin)
            yield begin, end
        begin = text.find("eyJ", end)


def open_jwt(text: str, start: int) -> int:
    """A web token, which may be longer than any other word."""
    size = len(text)
    begin = text.find("eyJ", max(start, size - JWT_MOST))
    while begin >= 0:
        end = begin + run_length(_JWT_RUN, text, begin)
        if end == size:
            return begin
        begin = text.find("eyJ", end)
    return size


def find_private_keys(text: str, start: int) -> Iterator[tuple[int, int]]:
    """From BEGIN to END; where no END comes, as far as what follows looks like a key."""
    head = PEM_HEAD.search(text, start)
    while head is not None:
        end = _rest(head, text).end()
        yield head.start(), end
        head = PEM_HEAD.search(text, end)


def _rest(head: re.Match[str], text: str) -> re.Match[str]:
    rest = _PEM_REST.match(text, head.end(), head.start() + PEM_MOST)
    assert rest is not None, "every part of it may be missing"
    return rest


def open_private_key(text: str, start: int) -> int:
    """A BEGIN that may still become one of a private key, and a private key whose END has not come."""
    size = len(text)
    begin = text.find("-----BEGIN", max(start, size - PEM_MOST))
    while begin >= 0:
        if begin + run_length(_PEM_HEAD_BEGUN, text, begin) == size:
            return begin
        head = PEM_HEAD.match(text, begin)
        if head is not None:
            rest = _rest(head, text)
            if rest["end"] is None and rest.end() + run_length(_PEM_LINE_BEGUN, text, rest.end()) == size:
                return begin
        begin = text.find("-----BEGIN", begin + 1)
    return size

"""Which token a request carries. Pure: headers in; a token, None for no token, or a refusal out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .refusals import BadToken

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

OWN_HEADER = "X-Muxx-Api-Key"
AUTHORIZATION = "Authorization"
KEY_HEADERS = ("x-api-key", "x-goog-api-key")
"""Where SDKs put a muxx key when they have no better place."""
KEY_MARK = "muxx_sk_"

_TOKEN = re.compile(r"e[w-z0-9_-][^.]*\.[^.]*\.")
"""What begins with a `{` in base64url and has two dots was meant for a token, even if it is none. No muxx key looks like that."""


def token_of(headers: CIMultiDictProxy[str]) -> str | None:
    """The token that claims to say who is calling; None where none does, and another plugin is to judge.

    `X-Muxx-Api-Key` decides where it is sent: a token in it counts, and with anything else in it a token in `Authorization` is
    the provider's business, not ours. A header that comes twice, or a muxx key beside a token, does not say clearly who is
    calling: `BadToken`.
    """
    own = headers.getall(OWN_HEADER, [])
    bearers = [_bearer(value) for value in headers.getall(AUTHORIZATION, [])]
    values = own or bearers
    if not any(map(_TOKEN.match, values)):
        return None
    if len(own) > 1 or len(bearers) > 1:
        raise BadToken
    if not own and any(value.startswith(KEY_MARK) for name in KEY_HEADERS for value in headers.getall(name, [])):
        raise BadToken
    return values[0]


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""

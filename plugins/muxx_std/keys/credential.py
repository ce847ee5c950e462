"""Which key a request carries. Pure: headers in, text or an error out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxx import AuthenticationError, MissingApiKey

from .format import MARK

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

OWN_HEADER = "X-Muxx-Api-Key"
BORROWED_HEADERS = ("Authorization", "x-api-key", "x-goog-api-key")
_BEARER = "bearer "


def credential(headers: CIMultiDictProxy[str]) -> str:
    """The text that claims to be this request's key; whether it is one is for the caller to check.

    `X-Muxx-Api-Key` decides. Without it, a value that starts with `muxx_sk_` is taken from where SDKs put their keys. A
    credential header that comes twice, or two different muxx keys, do not say clearly who is calling, and are refused.
    """
    own = _single(headers, OWN_HEADER)
    chosen = own
    for name in BORROWED_HEADERS:
        value = _single(headers, name)
        if value is None:
            continue
        if name == "Authorization":
            value = _bearer(value)
        if not value.startswith(MARK):
            continue
        if chosen is None:
            chosen = value
        elif chosen != value:
            raise AuthenticationError()
    if chosen is None:
        raise MissingApiKey()
    return chosen


def _single(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """The header's value, None when it is absent. Two of them are refused, even when they agree."""
    values = headers.getall(name, ())
    if len(values) > 1:
        raise AuthenticationError()
    return values[0] if values else None


def _bearer(value: str) -> str:
    """The token of an `Authorization: Bearer`; empty for any other scheme."""
    return value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else ""

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
    chosen = _single(headers, OWN_HEADER) if OWN_HEADER in headers else None
    for name in BORROWED_HEADERS:
        if name not in headers:
            continue
        value = _single(headers, name)
        if name == "Authorization":
            value = _bearer(value)
        if not value.lstrip().startswith(MARK):  # one behind more spaces than belong there is a key all the same, and no good one
            continue
        if chosen is None:
            chosen = value
        elif chosen != value:
            raise AuthenticationError()
    if chosen is None:
        raise MissingApiKey()
    return chosen


def _single(headers: CIMultiDictProxy[str], name: str) -> str:
    """The value of a header that is there. Two of them are refused, even when they agree."""
    [value, *others] = headers.getall(name)
    if others:
        raise AuthenticationError()
    return value


def _bearer(value: str) -> str:
    """The token of an `Authorization: Bearer`; empty for any other scheme."""
    return value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else ""

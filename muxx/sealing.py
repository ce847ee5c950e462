"""Other people's secrets at rest: encrypted under a key that is not in the database, and bound to the place they stand in."""

from __future__ import annotations

import base64
from functools import cached_property
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.fernet import Fernet


class CannotOpen(Exception):
    """What was sealed was sealed under another secret, or for another place, or has been changed since."""


class Seal:
    """Fernet under 32 bytes that `derive` gives, which is asked when the first secret is to be sealed or opened."""

    def __init__(self, derive: Callable[[], bytes]) -> None:
        self._derive = derive

    @cached_property
    def _fernet(self) -> Fernet:
        from cryptography.fernet import Fernet  # most gateways never need it, and it takes tens of milliseconds to load

        return Fernet(base64.urlsafe_b64encode(self._derive()))

    def shut(self, secret: str, *place: str) -> bytes:
        """`secret` as it may be stored at `place`, which is whatever names it: a row moved elsewhere opens no more."""
        return self._fernet.encrypt(orjson.dumps([*place, secret]))

    def open(self, sealed: bytes, *place: str) -> str:
        """The secret that was sealed for `place`; raises `CannotOpen`."""
        from cryptography.fernet import InvalidToken

        try:
            *written, secret = orjson.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise CannotOpen from error
        if written != list(place):
            raise CannotOpen
        return str(secret)

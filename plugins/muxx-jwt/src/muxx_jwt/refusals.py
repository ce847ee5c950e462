"""Why a token is not accepted. A caller is never told which it was."""

from __future__ import annotations


class BadToken(Exception):
    """The token does not let anybody in."""


class UnknownKey(BadToken):
    """The token names a key that is not among the issuer's, so far."""

"""muxx-jwt: who calls muxx is said by a token of your identity provider, checked with the keys it publishes.

What is no token is left to the next plugin, so muxx keys work beside it. A token that was checked once costs a look into the
connection's memory, until it expires or the issuer's keys change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator

from muxx import AuthenticationError, Exchange, Gateway, HttpRequest, Identity, StartError, Unavailable, hookimpl

from .bearer import token_of
from .issuer import Issuer
from .keyset import KeySet
from .refusals import BadToken, UnknownKey
from .settings import JwtConfig
from .verify import TokenIdentity, Verified, verified

__all__ = ["Jwt"]

NAME = "jwt"
"""The name of the entry point, which is this plugin's name everywhere."""

REFUSED = "Invalid token. Get a new one from your identity provider and send it as Authorization: Bearer."
"""What every bad token is told: why it is bad would help only who makes tokens up."""

NO_TOKEN = object()
"""What a connection remembers of a head without a token, so that callers with muxx keys pay for the look once."""


class Jwt:
    """The plugin. `_remembered` holds tokens by a hash that means nothing outside this process, for one set of keys."""

    Config = JwtConfig

    def __init__(self, config: JwtConfig) -> None:
        self.config = config
        self.issuer = Issuer(config)
        self._mark_key = os.urandom(32)
        self._remembered: dict[bytes, Verified] = {}
        self._remembered_for: KeySet | None = None

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """Have the keys before the first request, if the issuer lets us, and keep them fresh."""
        await self.issuer.ask(gateway)
        if self.issuer.keys is None and self.config.require_keys_at_start:
            raise StartError(
                "plugins.jwt.jwks_url: no keys could be fetched from there; see that the issuer is up and the address right, or "
                "set require_keys_at_start = false to start without them",
                1,
            )

        async def refresh() -> None:
            await self.issuer.refresh(gateway)

        gateway.every(self.config.min_interval_s, refresh, name="jwt.refresh")
        yield

    @hookimpl
    async def authenticate(self, gateway: Gateway, request: HttpRequest) -> Identity | None:
        """The token's owner; None where there is no token. Every bad token gets one and the same answer."""
        known = request.memory.get(self)
        if known is NO_TOKEN:
            return None
        if known is None or not self._holds(known):
            try:
                token = token_of(request.headers)
                if token is None:
                    request.memory[self] = NO_TOKEN
                    return None
                known = request.memory[self] = await self._judged(gateway, token)
            except BadToken:
                raise AuthenticationError(REFUSED) from None
        identity: TokenIdentity = known.identity
        return identity

    @hookimpl(tryfirst=True)
    def pre_request(self, exchange: Exchange) -> None:
        """The user is who the token says. First, so that limits per user count the right one."""
        identity = exchange.identity
        if isinstance(identity, TokenIdentity) and not (self.config.believe_user_header and exchange.request.user_id):
            exchange.request.user_id = identity.user

    def _holds(self, known: Verified) -> bool:
        """Whether what was learnt of a token is still true: it has not expired, and the keys are the ones it was checked with."""
        return known.keys is self.issuer.keys and time.time() < known.until

    async def _judged(self, gateway: Gateway, token: str) -> Verified:
        """What the token comes to, by the keys there are or, when it names another, by those the issuer has now."""
        wait_s = gateway.config.server.chain_timeout_s / 2
        if self.issuer.keys is None:
            await self.issuer.ask(gateway, wait_s)
        try:
            return self._checked(token)
        except UnknownKey:
            await self.issuer.ask(gateway, wait_s)
        try:
            return self._checked(token)
        except UnknownKey:
            if self.issuer.is_unsure:
                raise _cannot_tell() from None
            raise

    def _checked(self, token: str) -> Verified:
        """The token against the keys there are, remembered where it was good."""
        keys = self.issuer.keys
        if keys is None:
            raise _cannot_tell()
        if keys is not self._remembered_for:
            self._remembered, self._remembered_for = {}, keys
        mark = hashlib.blake2s(token.encode("utf-8", "surrogateescape"), key=self._mark_key).digest()
        known = self._remembered.pop(mark, None)
        if known is None or not self._holds(known):
            known = verified(token, keys, self.config)
        if self.config.remember:
            self._remembered[mark] = known
            if len(self._remembered) > self.config.remember:
                del self._remembered[next(iter(self._remembered))]
        return known


def _cannot_tell() -> Unavailable:
    """Nothing is known against the token, so it is not refused for good."""
    return Unavailable("The gateway cannot check tokens just now. Try again shortly.", code="issuer_unavailable")

"""The issuer: its keys as they were last heard, and when it may be asked again.

Invariants: one fetch runs at a time, and whoever needs it waits for that one; between the beginnings of two fetches lie at least
`min_interval_s`; keys that were fetched once stay until others come, or until they are `max_age_s` old; a set with the same keys
as before is the same object, so that what was learnt from it still holds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp

from .keyset import MOST_BYTES, KeySet, read_key_set
from .settings import JwtConfig

if TYPE_CHECKING:
    from muxx import Gateway

NEVER = float("-inf")


class Issuer:
    """Times are monotonic seconds."""

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        self._keys: KeySet | None = None
        self._fetched = NEVER
        self._asked = NEVER
        self._fetch: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def is_unsure(self) -> bool:
        """The issuer may have keys that are not known here: the last fetch brought nothing, or it still runs."""
        return self._failed or (self._fetch is not None and not self._fetch.done())

    @property
    def keys(self) -> KeySet | None:
        """The keys that count now; None before the first have come, and when they are too old."""
        return self._keys if time.monotonic() < self._fetched + self._config.max_age_s else None

    async def ask(self, gateway: Gateway, wait_s: float | None = None) -> None:
        """Fetch the keys anew, unless that was done less than `min_interval_s` ago; wait for it, but no longer than `wait_s`.

        The fetch is the gateway's own task. It goes on when the request that began it gives up, and its failure is no request's.
        """
        if self._fetch is None or self._fetch.done():
            if time.monotonic() < self._asked + self._config.min_interval_s:
                return
            self._asked = time.monotonic()
            self._fetch = gateway.spawn(self._take(gateway), name="jwt.fetch")
        await asyncio.wait((self._fetch,), timeout=wait_s)

    async def refresh(self, gateway: Gateway) -> None:
        """Fetch the keys when they have got old; sooner when the last fetch failed."""
        if self._failed or time.monotonic() >= self._fetched + self._config.refresh_s:
            await self.ask(gateway)

    async def _take(self, gateway: Gateway) -> None:
        try:
            async with asyncio.timeout(self._config.fetch_timeout_s):
                keys = read_key_set(await self._download(gateway), self._config.algorithms)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._failed = True
            gateway.log.warning("jwt: the issuer's keys could not be fetched: %s; %s", self._told(error), self._outlook())
            return
        self._failed = False
        self._fetched = time.monotonic()
        if not keys.keys:
            gateway.log.warning("jwt: the issuer's key set holds no key for %s", ", ".join(self._config.algorithms))
        if not keys.is_same(self._keys):
            self._keys = keys
            gateway.log.info("jwt: the issuer has %d keys", len(keys.keys))

    async def _download(self, gateway: Gateway) -> bytes:
        """The bytes at the address. A redirect is not followed: who may name keys is for the configuration to say."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with gateway.http.get(self._config.jwks_url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"its answer had status {response.status}")
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > MOST_BYTES:
                    raise ValueError(f"its answer is longer than {MOST_BYTES} bytes")
            return bytes(data)

    def _told(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._config.fetch_timeout_s:g} s"
        return str(error) if type(error) is ValueError else type(error).__name__

    def _outlook(self) -> str:
        left = self._fetched + self._config.max_age_s - time.monotonic()
        return f"those there are hold for another {left:.0f} s" if left > 0 else "tokens cannot be checked and get 503"

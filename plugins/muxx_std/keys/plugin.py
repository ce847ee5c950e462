"""The hooks: authenticate from memory, and one key to begin with."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from muxx import AuthenticationError, HttpRequest, Identity, Route, StartError, hookimpl

from . import format
from .credential import credential
from .store import DEFAULT_PROJECT, MIGRATIONS, KeyRow, KeyStore, digest, new_row

if TYPE_CHECKING:
    import click

    from muxx import Gateway, Host

BOOTSTRAP_VARIABLE = "MUXX_BOOTSTRAP_KEY"
REREAD_SECONDS = 15.0

log = logging.getLogger("muxx.keys")


class Keys:
    """Says who is calling.

    The keys are held in memory by their HMAC, as they were at `_version` of the shared counter "keys" or later. Whoever changes a
    key bumps the counter after the commit, and every request compares it, so a request that starts after a revoke has returned is
    judged by rows that include it.
    """

    migrations = MIGRATIONS

    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[KeyRow, Identity]] = {}
        self._version: int | None = None
        self._pepper = b""
        self._mark_key = os.urandom(32)
        self._proven: dict[bytes, tuple[KeyRow, Identity]] = {}
        """Keys that have passed, by a mark that means nothing outside this process; no more of them than there are keys."""
        self._loading = asyncio.Lock()

    @hookimpl(trylast=True)
    async def authenticate(self, gateway: Gateway, request: HttpRequest) -> Identity:
        """Accept a known, living key. Every other one gets one and the same answer, and a misspelt one costs no query.

        Last among authenticators, because it refuses what it does not know: another plugin's credentials come first.
        """
        known = request.memory.get(self)
        if known is None or known[0] is not self._keys or gateway.shared.version("keys") != self._version:
            known = request.memory[self] = await self._look_up(gateway, request)
        _, row, identity = known
        if row.expires_at is not None and row.expires_at <= time.time():
            raise AuthenticationError()
        return identity

    async def identity_of(self, host: Host, key_id: str) -> Identity | None:
        """Who calls with the key of this id; None for one that does not work today."""
        rows = await (await KeyStore.prepared(host)).rows()
        return next((row.identity for row in rows if row.id == key_id and row.status(time.time()) == "active"), None)

    async def _look_up(self, gateway: Gateway, request: HttpRequest) -> tuple[dict[bytes, Any], KeyRow, Identity]:
        """The keys as they are now, and the one this head carries."""
        text = credential(request.headers)
        if gateway.shared.version("keys") != self._version:
            if not format.is_key(text):
                raise AuthenticationError()
            await self._catch_up(gateway)
        if not text.isascii():
            raise AuthenticationError()
        mark = hashlib.blake2s(text.encode(), key=self._mark_key).digest()
        return self._keys, *(self._proven.get(mark) or self._prove(text, mark))

    def _prove(self, text: str, mark: bytes) -> tuple[KeyRow, Identity]:
        """The key's row, by its HMAC. A proven key is remembered by a cheaper keyed hash until the keys are read again."""
        proof = digest(self._pepper, text)
        found = self._keys.get(proof)
        if found is None or not hmac.compare_digest(found[0].hmac, proof):
            raise AuthenticationError()
        self._proven[mark] = found
        return found

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """Read the keys before the first request, and now and then after it.

        The second is for a command killed between its commit and its bump: what it did takes effect all the same, a little later.
        """
        await self._catch_up(gateway)

        async def reread() -> None:
            async with self._loading:
                await self._load(gateway)

        gateway.every(REREAD_SECONDS, reread, name="keys.reread")
        yield

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import keys

        cli.add_command(keys)

    @hookimpl
    async def first_key(self, host: Host) -> str | None:
        """Give an empty database its first key; its text when somebody has to be told of it.

        `MUXX_BOOTSTRAP_KEY`, when set, is that key, and since whoever set it knows it, None is returned. Any number of
        processes may call this at once: one of them makes the key. The variable is taken out of the environment, so that no
        child inherits it.
        """
        given = _taken_from_environment(BOOTSTRAP_VARIABLE)
        if given and not format.is_key(given):
            raise StartError(f"{BOOTSTRAP_VARIABLE} is no muxx key; set it to one that `muxx keys create` printed, or unset it")
        text = given or format.generate("live")
        project = None if format.environment_of(text) == "admin" else DEFAULT_PROJECT
        store = await KeyStore.prepared(host)
        row = new_row(text, host.derive("keys"), project=project, name="first key")
        if not await store.add_first(row):
            if given and row.hmac not in {known.hmac for known in await store.rows()}:
                log.warning("%s is no key of this database: it makes the first key of an empty one only", BOOTSTRAP_VARIABLE)
            return None
        host.shared.bump("keys")
        return None if given else text

    async def _catch_up(self, gateway: Gateway) -> None:
        """Return once the keys in memory are those of the counter's present value. Requests that wait share one reading."""
        async with self._loading:
            while gateway.shared.version("keys") != self._version:
                await self._load(gateway)

    async def _load(self, gateway: Gateway) -> None:
        """Read all rows. The counter is read before them: a change between the two is read now and looked for once more."""
        version = gateway.shared.version("keys")
        rows = await KeyStore(gateway.db).rows()
        self._pepper = gateway.host.derive("keys")
        self._keys = {row.hmac: (row, row.identity) for row in rows if row.revoked_at is None}
        self._proven = {}
        self._version = version


def _taken_from_environment(name: str) -> str:
    """A variable's value, "" without one. Nothing is left of it, also not in the memory that /proc shows and children inherit."""
    value = os.environ.get(name, "")
    if value:
        import ctypes

        getenv = ctypes.CDLL(None).getenv
        getenv.argtypes, getenv.restype = [ctypes.c_char_p], ctypes.c_void_p
        ctypes.memset(getenv(os.fsencode(name)), 0, len(os.fsencode(value)))
        del os.environ[name]
    return value

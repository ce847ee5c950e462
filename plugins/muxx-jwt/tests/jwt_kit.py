"""What the tests share: an issuer with keys, on a port of its own, and gateways that know it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from types import TracebackType
from typing import Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from muxx.testing import RawResponse, RunningGateway, post_chat, unused_port

from muxx_jwt import NAME, Jwt

ISSUER = "https://login.example.org/"
AUDIENCE = "muxx"

IS_INSTALLED = any(entry.name == NAME for entry in metadata.entry_points(group="muxx"))
PLUGINS = {} if IS_INSTALLED else {NAME: Jwt}
"""What a gateway under test has to be given: nothing, where the distribution is installed and found by itself."""

_MADE = {
    "RS": lambda: rsa.generate_private_key(65537, 2048),
    "PS": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed": ed25519.Ed25519PrivateKey.generate,
}


class Signer:
    """A key pair of the issuer's, with the algorithm it signs with."""

    def __init__(self, kid: str | None = "k1", algorithm: str = "ES256", private: Any = None) -> None:
        make: Callable[[], Any] = _MADE.get(algorithm) or _MADE[algorithm[:2]]
        self.kid, self.algorithm = kid, algorithm
        self.private = private or make()

    def signature(self, signed: bytes) -> bytes:
        return jwt.get_algorithm_by_name(self.algorithm).sign(signed, self.private)

    @property
    def secret(self) -> str:
        """The private half of a key on a curve, as a key set must never show it."""
        found: str = json.loads(jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private))["d"]
        return found

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public half as an entry of a key set."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        entry = json.loads(algorithm.to_jwk(self.private.public_key()))
        entry = {name: value for name, value in entry.items() if name not in ("key_ops", "use", "alg")}
        return entry | ({"kid": self.kid} if self.kid else {}) | members

    def token(self, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A valid token; claims given as None are left out."""
        body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 3600} | claims
        body = {name: value for name, value in body.items() if value is not None}
        head = ({"kid": self.kid} if self.kid else {}) | dict(headers or {})
        return self.sign(json.dumps(body).encode(), head)

    def sign(self, body: bytes, headers: Mapping[str, Any]) -> str:
        """A token of any body: the library's own `jwt.encode` refuses to make some of those an attacker would."""
        return jwt.api_jws.encode(body, self.private, algorithm=self.algorithm, headers=dict(headers))


Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KeyServer:
    """The issuer's address with its key set. `asked` counts the fetches; `answer` is what it does when it is asked."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = list(signers)
        self.asked = 0
        self.answer: Answering = self.publish
        self.port = unused_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    async def publish(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [signer.jwk() for signer in self.signers]})

    def say(self, body: bytes | str, status: int = 200, **headers: str) -> None:
        """From now on answer with this."""
        data = body.encode() if isinstance(body, str) else body

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=data, status=status, headers=headers)

        self.answer = answer

    def wait_for(self, event: asyncio.Event) -> None:
        """From now on answer with the keys, but not before `event` is set."""

        async def answer(request: web.Request) -> web.StreamResponse:
            await event.wait()
            return await self.publish(request)

        self.answer = answer

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/keys", self._asked)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()


def settings(url: str, **more: Any) -> dict[str, Any]:
    """`[plugins.jwt]` for an issuer at `url`."""
    defaults = {"issuer": ISSUER, "audience": [AUDIENCE], "jwks_url": url, "algorithms": ["ES256"], "project": "default"}
    return defaults | {"min_interval_s": 30} | more


def gateway_for(server: KeyServer, **more: Any) -> RunningGateway:
    return RunningGateway({"plugins": {NAME: settings(server.url, **more)}}, plugins=PLUGINS)


async def chat(gateway: RunningGateway, token: str, **members: Any) -> RawResponse:
    """A chat request with the token as a bearer."""
    return await post_chat(gateway.base_url, token, **members)


def told(response: RawResponse) -> tuple[int, list[tuple[str, str]], bytes]:
    """All a client is told, less what differs from request to request anyway."""
    own = {"x-muxx-request-id", "x-request-id", "date", "server-timing"}
    return response.status, [(name, value) for name, value in response.headers if name.lower() not in own], response.body

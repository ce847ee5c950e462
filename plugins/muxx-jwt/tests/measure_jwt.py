"""What a token costs: `python tests/measure_jwt.py`. CPU time, the least of several rounds."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import orjson
from jwt_kit import Signer, settings
from multidict import CIMultiDict, CIMultiDictProxy
from muxx import HttpRequest

from muxx_jwt import Jwt
from muxx_jwt.keyset import read_key_set
from muxx_jwt.settings import JwtConfig

ROUND = 1000


def plugin_for(signer: Signer, remember: int) -> Jwt:
    """The plugin as it is after a fetch."""
    table = settings("https://login.example.org/keys", algorithms=[signer.algorithm], remember=remember)
    plugin = Jwt(JwtConfig.model_validate_json(orjson.dumps(table)))
    plugin.issuer._keys = read_key_set(orjson.dumps({"keys": [signer.jwk()]}), [signer.algorithm])
    plugin.issuer._fetched = time.monotonic()
    return plugin


async def cpu(plugin: Jwt, token: str, memory: dict[Any, Any] | None) -> float:
    """Seconds of one call."""
    gateway: Any = SimpleNamespace(config=SimpleNamespace(server=SimpleNamespace(chain_timeout_s=2.0)))
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {token}"}))
    best = float("inf")
    for _ in range(10):
        requests = [HttpRequest("POST", "/v1/chat/completions", "", headers, None, memory) for _ in range(ROUND)]
        started = time.process_time()
        for request in requests:
            await plugin.authenticate(gateway, request)
        best = min(best, time.process_time() - started)
    return best / ROUND


async def main() -> None:
    for signer in (Signer("k", "ES256"), Signer("k", "RS256")):
        token = signer.token()
        print(f"{signer.algorithm}, shown before: {await cpu(plugin_for(signer, 1), token, {}) * 1e6:.1f} µs")
        print(f"{signer.algorithm}, on a new connection: {await cpu(plugin_for(signer, 1), token, None) * 1e6:.1f} µs")
        print(f"{signer.algorithm}, a new token: {await cpu(plugin_for(signer, 0), token, None) * 1e6:.0f} µs")


if __name__ == "__main__":
    asyncio.run(main())

"""What the tests of the cache and of shared calls have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from carrying_kit import STREAM, serving
from wires_kit import FORMS, Endpoint, ask

from muxx.testing import RawResponse, RunningGateway, answers, sse
from muxx.testing.settings import merged

ROOM = {"plugins": {"cache": {"max_bytes": 2**26}}}
"""The kit's gateways have no room for answers; these have."""

CHAT = Endpoint("chat", "/v1/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}, b"", {})
EVERY_FORM = FORMS


@asynccontextmanager
async def caching(config: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[RunningGateway]:
    """A gateway whose cache has room."""
    async with serving(options.pop("transport", "lean"), merged(ROOM, config or {}), **options) as gateway:
        yield gateway


def scripted(gateway: RunningGateway, endpoint: Endpoint, stream: bool) -> None:
    """Let the upstream give the endpoint's own answer, and forget what it was asked before."""
    gateway.upstream.requests.clear()
    gateway.upstream.script(sse(endpoint.stream) if stream else answers.json(endpoint.plain))


def asked(gateway: RunningGateway) -> int:
    """How often the provider was asked."""
    return len(gateway.upstream.requests)


async def cached(gateway: RunningGateway, response: RawResponse) -> str:
    """What the row says of the cache."""
    found: str = (await gateway.get_row(response.request_id))["cache"]
    return found


async def twice(gateway: RunningGateway, endpoint: Endpoint, first: bool, second: bool) -> tuple[RawResponse, RawResponse]:
    """The same request two times, each streamed or not."""
    return await ask(gateway, endpoint, first), await ask(gateway, endpoint, second)


async def at_once(count: int, call: Callable[[], Any]) -> list[RawResponse]:
    return list(await asyncio.gather(*(call() for _ in range(count))))


def told(gateway: RunningGateway) -> Any:
    """The cache plugin of the gateway."""
    return gateway.gateway.plugins.by_name["cache"].instance


CHAT_STREAM = STREAM

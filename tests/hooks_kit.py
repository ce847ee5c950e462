"""What the tests of hooks share: plugins that watch, and plugins that act as the request's headers say."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
import pytest

from muxx import Attempt, Chunk, Exchange, HttpRequest, PermissionDenied, Reply, Target, Usage, hookimpl
from muxx.testing import RawResponse, event
from muxx.testing.settings import merged

SECRET = "canary-in-an-exception-7f3a"
"""In the text of every exception the plugins here crash with; it may be seen nowhere."""

COMPLETION = {
    "id": "chatcmpl-9",
    "object": "chat.completion",
    "created": 7,
    "model": "house",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "From a plugin."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


both_forms = pytest.mark.parametrize("stream", [False, True])


def delivered(response: RawResponse) -> str:
    """The text a client gets, plain or streamed."""
    if response.header("content-type") == "text/event-stream":
        return "".join(c["delta"].get("content") or "" for item in response.events for c in item["choices"])
    return str(response.json()["choices"][0]["message"]["content"])


class Seen:
    """What a `Watching` plugin saw, by exchange."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.after: Counter[str] = Counter()
        self.attempts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self.chunks: defaultdict[str, list[Chunk]] = defaultdict(list)

    @property
    def last(self) -> Exchange:
        """The exchange that ended last."""
        return self.exchanges[-1]

    def kinds(self, request_id: str | None) -> list[str]:
        return [chunk.kind for chunk in self.chunks[request_id or ""]]

    def text(self, request_id: str | None) -> str:
        return "".join(chunk.text for chunk in self.chunks[request_id or ""])


def watching(seen: Seen, *, chunks: bool = True) -> type:
    """A plugin that only looks. Without `chunks` answers stay on the fast path."""

    class Watching:
        @hookimpl
        def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
            seen.attempts[exchange.id].append((attempt.number, str(attempt.target)))

        @hookimpl
        async def post_response(self, exchange: Exchange) -> None:
            await asyncio.sleep(0)
            seen.after[exchange.id] += 1
            seen.exchanges.append(exchange)

    class WatchingChunks(Watching):
        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            seen.chunks[exchange.id].append(chunk)

    return WatchingChunks if chunks else Watching


class Acting:
    """Does what the header `x-act` says: `HOOK refuses`, `HOOK crashes`, `HOOK hangs`, or `replies with KIND`.

    Unless the header `x-path` says `hooked`, answers that `on_chunk` has no part in stay on the fast path.
    """

    @hookimpl(tryfirst=True)
    async def authenticate(self, request: HttpRequest) -> None:
        await _act("authenticate", request.headers)

    @hookimpl
    async def pre_request(self, exchange: Exchange) -> Reply | None:
        wish = exchange.request.headers.get("x-act", "")
        if exchange.request.headers.get("x-path") != "hooked" and not wish.startswith("on_chunk"):
            exchange.skip_chunks("acting")
            exchange.skip_chunks("watching")
        if wish.startswith("replies with "):
            return reply_of(wish.removeprefix("replies with "), exchange.request.stream)
        await _act("pre_request", exchange.request.headers)
        return None

    @hookimpl
    async def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        await _act("pre_attempt", exchange.request.headers)

    @hookimpl
    async def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
        await _act("on_chunk", exchange.request.headers)

    @hookimpl(tryfirst=True)
    def price(self, target: Target, usage: Usage) -> None:
        if target.model == "gpt-4o-priceless":
            raise KeyboardInterrupt(SECRET)

    @hookimpl
    async def post_response(self, exchange: Exchange) -> None:
        await _act("post_response", exchange.request.headers)


async def _act(hook: str, headers: Mapping[str, str]) -> None:
    wish = headers.get("x-act", "")
    if wish == f"{hook} refuses":
        raise PermissionDenied("Not today.", code="not_today", param=hook)
    if wish == f"{hook} crashes":
        raise RuntimeError(SECRET)
    if wish == f"{hook} hangs":
        await asyncio.Event().wait()


REPLIES: dict[str, Callable[[bool], Any]] = {
    "bytes": lambda stream: orjson.dumps(COMPLETION),
    "chunks": lambda stream: said("From a ", "plugin."),
    "a generator of chunks": lambda stream: iter(said("From a ", "plugin.")),
    "an async iterator of chunks": lambda stream: each_later(said("From a ", "plugin.")),
    "an async iterator of bytes": lambda stream: each_later(pieces(stream_events() if stream else orjson.dumps(COMPLETION))),
}
"""Bodies of a `Reply` that all say the same; bytes come in the form the caller asked for."""

BROKEN: dict[str, Callable[[bool], Any]] = {
    "chunks that break off": lambda stream: _breaks(said("a")[:1]),
    "chunks that break off later": lambda stream: _breaks_later(said("a")[:1]),
    "bytes that break off later": lambda stream: _breaks_later([stream_events()[:300]]),
    "text": lambda stream: ["text"],
    "text for later": lambda stream: each_later(["text"]),
    "a number": lambda stream: 7,
    "bytes that are no JSON": lambda stream: b"no json",
    "bytes that are no answer": lambda stream: b"[1]",
}


def reply_of(kind: str, stream: bool) -> Reply:
    return Reply((REPLIES | BROKEN)[kind](stream))


def _breaks(items: list[Any]) -> Iterator[Any]:
    yield from items
    raise RuntimeError(SECRET)


async def _breaks_later(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
    raise RuntimeError(SECRET)


def said(*texts: str) -> list[Chunk]:
    """Chunks of a whole answer."""
    return [*(Chunk("text", text) for text in texts), Chunk("end", finish_reason="stop")]


def stream_events() -> bytes:
    """The answer of `COMPLETION` as a provider would have streamed it, `[DONE]` included."""
    head = {name: COMPLETION[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    deltas: list[tuple[Any, Any]] = [
        ({"role": "assistant", "content": "From a "}, None),
        ({"content": "plugin."}, None),
        ({}, "stop"),
    ]
    choices = [[{"index": 0, "delta": delta, "finish_reason": reason}] for delta, reason in deltas]
    return b"".join(event(head | {"choices": choice}) for choice in choices) + event("[DONE]")


def pieces(data: bytes, size: int = 7) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def each_later(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


def plugin_config(**tables: Mapping[str, Any]) -> dict[str, Any]:
    """`[plugins.NAME]` for each, over a chain limit that lets a hang be seen in a test's time."""
    return merged({"server": {"chain_timeout_s": 0.2}}, {"plugins": tables})


class Sees:
    """Has every chunk pass through the hooks."""

    @hookimpl
    def on_chunk(self, chunk: Chunk) -> None:
        """It is left as it is."""

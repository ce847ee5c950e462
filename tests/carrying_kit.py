"""What the tests of the carrying path share: gateways on either transport, and plain readings of streams and rows to hold them
against.

The readings are deliberately not muxx's own code: they are slow, simple and written from the standards.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from wire.recordings import recordings

from muxx import MuxxError
from muxx.hookedrelay import HookedRelay
from muxx.relay import Relay
from muxx.testing import DONE, Connection, RawResponse, RunningGateway, Step, clean_environment, event, eventually
from muxx.testing.running import Reachable
from muxx.testing.settings import merged
from muxx.wire.openai import ChatStream
from muxx.wire.wires import CHAT

both_transports = pytest.mark.parametrize("transport", ["lean", "aiohttp"])

ASKED = {"stream": True, "stream_options": {"include_usage": True}}
"""A streamed request that asks for its usage, so that nothing is withheld."""

ERROR_MEMBERS = {"message", "type", "param", "code"}


@contextmanager
def never_accepting() -> Iterator[int]:
    """A port that listens and never accepts: its queue is full, so a new connection stays half made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[1]
        for filler in fillers:
            filler.close()


class Hang:
    """A provider that says nothing more until its peer leaves."""

    async def play(self, connection: Connection) -> None:
        while connection.left_at is None:
            await asyncio.sleep(0.005)
        connection.transport.close()


def hang() -> Step:
    return Hang()


@asynccontextmanager
async def serving(
    transport: str = "lean", config: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[RunningGateway]:
    """A running gateway on one transport, deaf to this machine's environment; whatever the event loop complains of fails the
    test."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with mock.patch.dict(os.environ, clean_environment(), clear=True):
        async with RunningGateway(merged({"server": {"transport": transport}}, config or {}), **options) as gateway:
            yield gateway
    gc.collect(1)  # of what came to be just now: all the others' would take a tenth of the suite's time
    assert complaints == [], complaints


# ── streams of our own ──────────────────────────────────────────────────────────────────────────────────────────────────────


def delta(content: str, **members: Any) -> bytes:
    """An event with a piece of text."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]} | members)


def finish(reason: str = "stop", **members: Any) -> bytes:
    """An event that ends the only choice."""
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    return event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]} | members)


def usage_event(prompt: Any = 10, completion: Any = 5, **members: Any) -> bytes:
    """The event with nothing but usage that OpenAI sends when it was asked for."""
    return event({"id": "c-1", "model": "gpt-4o", "choices": [], "usage": usage(prompt, completion, **members)})


def usage(prompt: Any = 10, completion: Any = 5, **members: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion} | members


ANSWER = {
    "id": "c-1",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}
REFUSAL = b'{"error": {"message": "slow down",  "type": "tokens", "param": null, "code": "rate_limit_exceeded"}}'

WORDS = ["Grüß ", "Gott, ", "wie ", "geht ", "es ", "dir? 👋"]
TEXT = "".join(WORDS)
STREAM = b"".join(map(delta, WORDS)) + finish() + usage_event() + DONE


def sample(count: int, seed: int, most: int = 2**30, least: int = 4096) -> list[bytes]:
    """So many recorded chat streams of a size between two bounds, drawn by seed."""
    fitting = [path for path in recordings() if least <= path.stat().st_size <= most]
    return [path.read_bytes() for path in random.Random(seed).sample(fitting, min(count, len(fitting)))]


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """One chunking per seed, from single bytes to thousands; large streams are not cut into more than some 2,000 pieces."""
    dice = random.Random(seed)
    largest = max(dice.choice([1, 5, 50, 700, 9000]), len(data) // 1000)
    at = 0
    while at < len(data):
        size = dice.randint(1, largest)
        yield data[at : at + size]
        at += size


# ── reading streams by the book ─────────────────────────────────────────────────────────────────────────────────────────────

Parsed = tuple[bytes, bytes | None]


def events_of(stream: bytes) -> list[Parsed]:
    """A stream as WHATWG reads it: each event's bytes and its data (None without a `data` field), an unfinished last one
    included."""
    found: list[Parsed] = []
    raw, values = b"", []
    for line in re.findall(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", stream):
        raw += line
        text = line.rstrip(b"\r\n").removeprefix(b"" if found else b"\xef\xbb\xbf")
        if text.startswith(b"data:"):
            values.append(text[5:].removeprefix(b" "))
        elif not text:
            found.append((raw, b"\n".join(values) if values else None))
            raw, values = b"", []
    return [*found, (raw, b"\n".join(values) if values else None)] if raw else found


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(data) for _, data in events_of(stream) if data and data.strip() != b"[DONE]"]


def is_usage_event(data: bytes | None) -> bool:
    if not data or data.strip() == b"[DONE]":
        return False
    chunk = json.loads(data)
    return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def without_usage(stream: bytes) -> bytes:
    """The stream less its usage event: what a client gets that did not ask for it."""
    return b"".join(raw for raw, data in events_of(stream) if not is_usage_event(data))


def prefixes(stream: bytes) -> list[bytes]:
    """What has come after each event, from none to all."""
    found = [b""]
    for raw, _ in events_of(stream):
        found.append(found[-1] + raw)
    return found


def is_finished(stream: bytes) -> bool:
    """Every choice seen has its finish reason, and there is one."""
    seen: dict[Any, bool] = {}
    for chunk in chunks_of(stream):
        for choice in chunk.get("choices") or []:
            seen[choice["index"]] = seen.get(choice["index"], False) or bool(choice.get("finish_reason"))
    return bool(seen) and all(seen.values())


def without_comment(response: RawResponse) -> bytes:
    """The body less the one comment with the cost, which stands right before `[DONE]` and speaks of this very request."""
    before, mark, rest = response.body.rpartition(b": muxx ")
    told, _, end = rest.partition(b"\n\n")
    assert mark, "the stream carries no cost"
    assert end == DONE
    assert b": muxx " not in before
    members = json.loads(told)
    assert members["request_id"] == response.request_id
    assert set(members) == {"cost", "request_id", "usage"}
    return before + end


def error_code(response: RawResponse) -> str:
    """The code of the envelope, which is whole, and says no more than it should."""
    assert response.header("content-type") == "application/json"
    assert set(response.error) - {"retry_after"} == ERROR_MEMBERS
    assert response.header("x-should-retry") in ("true", "false")
    assert response.request_id == response.header("x-request-id")
    return str(response.error["code"])


def broken_with(body: bytes, code: str) -> bytes:
    """What came before the one error event that ends a broken stream."""
    before, mark, last = body.rpartition(b'data: {"error":')
    assert mark, f"no error event at the end: {body[-200:]!r}"
    error = json.loads(b'{"error":' + last)["error"]
    assert set(error) == ERROR_MEMBERS
    assert error["code"] == code
    assert b"[DONE]" not in body
    return before


# ── what has to be booked ───────────────────────────────────────────────────────────────────────────────────────────────────

PICO = 10**12
INPUT, CACHED, OUTPUT = 2_500_000, 1_250_000, 10_000_000
"""gpt-4o in pico-dollars per token: 2.50, 1.25 and 10.00 USD per million."""


def tokens(text: str) -> int:
    """The documented estimate: a token for each 4.1 bytes begun."""
    return -(-len(text.encode()) * 10 // 41)


def written(stream: bytes) -> str:
    """All the model wrote: content, reasoning, refusals, names and arguments of tools."""
    found = ""
    for chunk in chunks_of(stream):
        for choice in chunk.get("choices") or []:
            told = choice.get("delta") or {}
            found += (told.get("content") or "") + (told.get("reasoning_content") or "") + (told.get("refusal") or "")
            for call in told.get("tool_calls") or []:
                found += (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
    return found


def booking(stream: bytes, asked: str = "Hello") -> dict[str, Any]:
    """The part of the row that says what a complete answer used and cost, at gpt-4o's price."""
    reported = [chunk["usage"] for chunk in chunks_of(stream) if chunk.get("usage")]
    if not reported:
        return _booked(tokens(asked), tokens(written(stream)), 0, 0, "estimated")
    last = reported[-1]
    cached = (last.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (last.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return _booked(last["prompt_tokens"], last["completion_tokens"], cached, reasoning, "provider")


def _booked(given: int, made: int, cached: int, reasoning: int, source: str) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "output_tokens": made,
        "cache_read_tokens": cached,
        "reasoning_tokens": reasoning,
        "usage_source": source,
        "cost_usd": usd((given - cached) * INPUT + cached * CACHED + made * OUTPUT),
    }


def usd(pico: int) -> str:
    return f"{Decimal(pico) / PICO:f}"


def part_of(row: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The members of the row that `like` has, money as numbers' plainest decimal."""
    return {name: usd(int(Decimal(row[name]) * PICO)) if name == "cost_usd" and row[name] else row[name] for name in like}


async def row_of_user(gateway: Reachable, user: str, within: float = 10.0) -> dict[str, Any]:
    """The only row of a user id: for requests whose client left before it learnt the request's id."""
    rows: list[dict[str, Any]] = []

    async def look() -> bool:
        rows[:] = (await gateway.get(f"/v1/logs?user_id={user}")).json()["data"]
        return bool(rows)

    async with asyncio.timeout(within):
        while not await look():
            await asyncio.sleep(0.02)
    [row] = rows
    return row


def open_things() -> tuple[int, int]:
    """Tasks and file descriptors of this process: what a leak would leave behind."""
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


async def baseline(gateway: RunningGateway) -> tuple[int, int]:
    """What is open at a gateway at rest that has been used once: its row is stored, and its database's connections are there."""
    await gateway.chat(model="served-by-nobody")
    await eventually(lambda: any("-logs.db-wal" in _target(fd) for fd in os.listdir("/proc/self/fd")))
    await gateway.get("/v1/logs")
    db = gateway.gateway.db
    reads = [read("SELECT 1") for read in (db.read, db.read_logs, db.scan_logs) for _ in range(2)]
    await asyncio.gather(*reads, db.write_logs(lambda connection: connection.execute("SELECT 1")))
    await asyncio.sleep(0.3)
    return open_things()


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


async def settled(base: tuple[int, int], within: float = 10.0) -> None:
    """Wait until no more is open than at `base`."""
    await eventually(lambda: all(now <= then for now, then in zip(open_things(), base, strict=True)), within)


# ── the relay without a network ─────────────────────────────────────────────────────────────────────────────────────────────


class Downstream:
    """A client that takes everything, until it is told to stop reading."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.stalled_since: float | None = None
        self.on_resume: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        return self.stalled_since is not None

    def send(self, data: bytes) -> None:
        assert data
        self.pieces.append(data)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def stop_reading(self) -> None:
        self.stalled_since = time.monotonic()

    def read_again(self) -> None:
        self.stalled_since = None
        assert self.on_resume is not None
        self.on_resume()


class Provider:
    """A provider's response that only counts what is asked of it."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.reading = True
        self.closed = False

    def body_now(self) -> bytes | None:
        return None

    async def pump(self, sink: Any) -> None: ...

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True


class Limits:
    due = float("inf")


class Bench:
    """A relay between a provider and a client that are plain objects. `feed()` is what the transport calls, `end()` the end of
    the body."""

    def __init__(self, *, asked: bool = True, most: int = 2**24, choices: int = 1, hooks: Any = None, **options: Any) -> None:
        self.down, self.provider, self.limits = Downstream(), Provider(), Limits()
        kind: Any = Relay
        stream = ChatStream(client_asked_usage=asked, choices=choices)
        if hooks is not None:
            kind, options = HookedRelay, options | {"hooks": hooks, "codec": CHAT.codec(stream, asked)}
        given: Any = {"between_events": 60.0, "finish_grace": 5.0, "distrusted": self.provider.close}
        self.relay: Relay = kind(stream, self.provider, self.down, self.limits, max_event_bytes=most, **given | options)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.relay.feed(piece)

    def end(self, error: Exception | None = None) -> None:
        pump: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if error is None:
            pump.set_result(None)
        else:
            pump.set_exception(error)
        self.relay.pumped(pump)
        pump.exception()

    @property
    def over(self) -> bool:
        return self.relay.over.done()

    @property
    def error(self) -> MuxxError | None:
        return self.relay.over.result()

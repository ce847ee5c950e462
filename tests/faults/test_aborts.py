"""FAULTS S09 and S10: a client that leaves, or stops reading, stops the provider; the row says so and costs what it must."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest
from carrying_kit import (
    STREAM,
    TEXT,
    WORDS,
    baseline,
    both_transports,
    delta,
    finish,
    hang,
    never_accepting,
    part_of,
    row_of_user,
    serving,
    settled,
    tokens,
    usage_event,
    without_comment,
)
from orjson import dumps

from muxx import Attempt, Chunk, Exchange, Reply, hookimpl
from muxx.testing import (
    DONE,
    RawClient,
    RecordedRequest,
    RunningGateway,
    ScriptedUpstream,
    chat_body,
    error,
    eventually,
    fin,
    head,
    json,
    request_body,
    request_target,
    sse,
)
from muxx.testing.asking import sent

Leave = Callable[[RawClient], None]
WAYS: dict[str, Leave] = {"FIN": RawClient.close, "RST": RawClient.reset, "half-close": RawClient.half_close}
every_way = pytest.mark.parametrize("way", WAYS)

users = (f"user-{number}" for number in count())
GONE = {"status": 499, "ended_by": "client", "error_code": "client_disconnected"}
FREE = {"usage_source": "none", "input_tokens": 0, "output_tokens": 0, "cost_usd": "0"}

Ready = Callable[[RawClient], Awaitable[Any]]


class Delays:
    """How long the provider's connections outlived their clients. Half of them have to keep the contract's second even here,
    where other tests share the machine; all keep ten times that."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def check(self) -> None:
        assert statistics.median(self.seconds) < 1.0
        assert max(self.seconds) < 10.0


async def leave(
    gateway: RunningGateway, way: str, ready: Ready, *, delays: Delays | None = None, **members: Any
) -> dict[str, Any]:
    """Send a request, leave once it is `ready`, and return the row. With `delays` the provider has to be left too."""
    user = next(users)
    async with await gateway.connect() as client:
        await client.post_chat(gateway.key, chat_body(**({"stream": True} | members)), {"X-Muxx-User-Id": user})
        await ready(client)
        left = time.monotonic()
        WAYS[way](client)
        row = await row_of_user(gateway, user)
        if delays is not None:
            delays.seconds.append(await gateway.upstream.last.peer_left(10.0) - left)
        if way == "half-close":
            async with asyncio.timeout(10):
                while await client.read_some():
                    pass
    return row


def reads(count: int) -> Ready:
    """Ready once the head and so many bytes of events have been read."""

    async def read(client: RawClient) -> None:
        response = await client.read_head()
        got = 0
        async for piece in client.body(response):
            got += len(piece)
            if got >= count:
                return

    return read


def asked(gateway: RunningGateway) -> Ready:
    """Ready once the provider has the request."""
    number = len(gateway.upstream.requests) + 1

    async def wait(client: RawClient) -> None:
        await gateway.upstream.request(number)

    return wait


# ── S09: the client leaves ──────────────────────────────────────────────────────────────────────────────────────────────────


def slow_at(hook: str, reached: asyncio.Event) -> type:
    """A plugin that takes for ever at one hook, as a limiter's queue may."""

    class Limit:
        @hookimpl
        async def pre_request(self, exchange: Exchange) -> None:
            reached.set()
            await asyncio.sleep(60)

    class Connect:
        @hookimpl
        async def pre_attempt(self, attempt: Attempt) -> None:
            reached.set()
            await asyncio.sleep(60)

    return {"limit": Limit, "connect": Connect}[hook]


@every_way
@pytest.mark.parametrize("phase", ["limit", "connect"])
async def test_S09_a_client_that_leaves_before_the_request_was_sent_costs_nothing(phase: str, way: str) -> None:
    reached = asyncio.Event()
    plugins = {"slow": slow_at(phase, reached)}
    async with serving(config={"server": {"chain_timeout_s": 30}}, plugins=plugins) as gateway:
        base = await baseline(gateway)
        row = await leave(gateway, way, lambda client: reached.wait())
        assert part_of(row, GONE | FREE) == GONE | FREE
        assert row["phase"] == phase
        assert gateway.upstream.requests == []
        await settled(base)


@every_way
@pytest.mark.parametrize("status", [429, 500])
async def test_S09_a_client_that_leaves_while_muxx_waits_for_another_try_pays_nothing(status: int, way: str) -> None:
    config = {"models": [{"name": "gpt-4o", "targets": ["openai/gpt-4o"], "retries": 1}]}
    async with serving(config=config) as gateway:
        await gateway.chat()
        base = await baseline(gateway)
        gateway.upstream.script(error(status, retry_after="30"))

        async def refused(client: RawClient) -> None:
            await asked(gateway)(client)
            await asyncio.sleep(0.1)

        row = await leave(gateway, way, refused)
        assert part_of(row, GONE | FREE) == GONE | FREE
        assert (row["phase"], row["attempts"], len(gateway.upstream.requests)) == ("connect", 1, 2)
        await settled(base)


@every_way
async def test_S09_a_client_that_leaves_before_the_second_try_was_sent_pays_for_no_refusal(way: str) -> None:
    with never_accepting() as port:
        models = [{"name": "gpt-4o", "targets": ["openai/gpt-4o", "second/gpt-4o"]}]
        second = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "x", "prices": "openai"}
        async with serving(config={"models": models, "providers": {"second": second}}) as gateway:
            gateway.upstream.script(error(503))

            async def connecting(client: RawClient) -> None:
                await asked(gateway)(client)
                await asyncio.sleep(0.1)

            row = await leave(gateway, way, connecting)
            assert part_of(row, GONE | FREE) == GONE | FREE
            assert (row["phase"], row["attempts"]) == ("connect", 2)


@both_transports
@every_way
async def test_S09_a_client_that_leaves_while_a_connection_is_made_costs_nothing(transport: str, way: str) -> None:
    with never_accepting() as port:
        async with serving(transport, {"providers": {"openai": {"base_url": f"http://127.0.0.1:{port}/v1"}}}) as gateway:
            base = await baseline(gateway)
            row = await leave(gateway, way, lambda client: asyncio.sleep(0.2))
            expected = GONE | FREE | {"phase": "connect", "attempts": 1}
            assert part_of(row, expected) == expected
            await settled(base)


@both_transports
@every_way
async def test_S09_a_client_that_leaves_stops_the_provider_at_every_phase(transport: str, way: str) -> None:
    await abort_at_every_phase(transport, way, rounds=1)


@pytest.mark.soak
@both_transports
@every_way
async def test_S09_a_hundred_clients_that_leave_at_every_phase(transport: str, way: str) -> None:
    await abort_at_every_phase(transport, way, rounds=100)


async def abort_at_every_phase(transport: str, way: str, rounds: int) -> None:
    delays = Delays()
    async with serving(transport) as gateway:
        await gateway.chat(stream=True)
        base = await baseline(gateway)
        for _ in range(rounds):
            await leave_at_the_head(gateway, way, delays)
            for k in range(1, len(WORDS) + 1):
                await leave_after_words(gateway, way, delays, k)
            await leave_before_done(gateway, way, delays)
            await leave_in_a_plain_answer(gateway, way, delays)
        await settled(base)
        gateway.upstream.script(sse(STREAM))
        assert (await gateway.chat(stream=True)).done
    delays.check()


async def leave_at_the_head(gateway: RunningGateway, way: str, delays: Delays) -> None:
    gateway.upstream.script([hang()])
    row = await leave(gateway, way, asked(gateway), delays=delays)
    expected = GONE | {"phase": "head", "usage_source": "estimated", "input_tokens": tokens("Hello"), "output_tokens": 0}
    assert part_of(row, expected) == expected
    assert float(row["cost_usd"]) > 0


async def leave_after_words(gateway: RunningGateway, way: str, delays: Delays, k: int) -> None:
    came = b"".join(map(delta, WORDS[:k]))
    gateway.upstream.script(sse(came, end=hang()))
    row = await leave(gateway, way, reads(len(came)), delays=delays)
    expected = GONE | {"phase": "stream", "usage_source": "estimated", "output_tokens": tokens("".join(WORDS[:k]))}
    assert part_of(row, expected) == expected
    assert float(row["cost_usd"]) > 0


async def leave_before_done(gateway: RunningGateway, way: str, delays: Delays) -> None:
    came = STREAM.removesuffix(usage_event() + DONE)
    for rest, source, made in ((b"", "estimated", tokens(TEXT)), (usage_event(), "partial", 5)):
        gateway.upstream.script(sse(chunks=[came + rest], end=hang()))
        row = await leave(gateway, way, reads(len(came + rest)), delays=delays, stream_options={"include_usage": True})
        expected = GONE | {"phase": "finish", "usage_source": source}
        assert part_of(row, expected) == expected
        assert row["output_tokens"] >= made


async def leave_in_a_plain_answer(gateway: RunningGateway, way: str, delays: Delays) -> None:
    gateway.upstream.script([head(200, {"Content-Type": "application/json", "Content-Length": "9"}), b"{", hang()])
    row = await leave(gateway, way, asked(gateway), delays=delays, stream=False)
    assert part_of(row, GONE) == GONE
    assert row["usage_source"] == "estimated"


@pytest.mark.parametrize("endpoint", ["count_tokens", "count_content"])
async def test_S09_a_client_that_leaves_while_tokens_are_counted_pays_nothing(endpoint: str) -> None:
    async with serving() as gateway:
        gateway.upstream.script([hang()])
        user, body = next(users), request_body(endpoint)
        async with await gateway.connect() as client:
            fields = {"Authorization": f"Bearer {gateway.key}", "X-Muxx-User-Id": user}
            await client.request("POST", request_target(endpoint), fields, dumps(sent(endpoint, body)))
            await gateway.upstream.request()
        row = await row_of_user(gateway, user)
        expected = GONE | FREE | {"phase": "head", "attempts": 1}
        assert part_of(row, expected) == expected
        await gateway.upstream.last.peer_left()


async def test_S09_a_client_that_leaves_in_its_own_request_body_reaches_nobody() -> None:
    async with serving() as gateway:
        user = next(users)
        async with await gateway.connect() as client:
            fields = {"Authorization": f"Bearer {gateway.key}", "X-Muxx-User-Id": user, "Content-Length": "1000"}
            await client.request("POST", "/v1/chat/completions", fields)
            await client.send(b'{"model":')
            await asyncio.sleep(0.05)
        row = await row_of_user(gateway, user)
        expected = GONE | FREE | {"phase": "head", "attempts": 0}
        assert part_of(row, expected) == expected
        assert gateway.upstream.requests == []


async def test_S09_a_reset_after_the_complete_answer_is_success() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(STREAM, end=hang()))
        user = next(users)
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(stream=True), {"X-Muxx-User-Id": user})
            await client.readuntil(DONE)
            client.reset()
        row = await row_of_user(gateway, user)
        assert (row["status"], row["ended_by"], row["usage_source"]) == (200, None, "provider")
        await gateway.upstream.last.peer_left()


@every_way
async def test_S09_a_client_that_neither_reads_nor_stays_is_noticed(way: str) -> None:
    async with serving() as gateway:
        gateway.upstream.script(endless)
        user = next(users)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True), {"X-Muxx-User-Id": user})
            request = await gateway.upstream.request()
            await eventually(lambda: request.blocked)
            WAYS[way](client)
            await request.peer_left(5.0)
            row = await row_of_user(gateway, user)
            assert part_of(row, GONE) == GONE


# ── S10: the client stops reading ───────────────────────────────────────────────────────────────────────────────────────────

KIB = 1024


def endless(request: RecordedRequest) -> Iterator[bytes]:
    """A script of a stream without an end."""
    yield head(200, {"Content-Type": "text/event-stream", "Connection": "close"})
    while True:
        yield delta("x" * KIB)


@both_transports
async def test_S10_a_client_that_stops_reading_stops_the_providers_writing(transport: str) -> None:
    async with ScriptedUpstream(send_buffer=32 * KIB) as upstream, serving(transport, upstream=upstream) as gateway:
        upstream.script(endless)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            request = await upstream.request()
            await eventually(lambda: request.blocked)
            await asyncio.sleep(0.5)
            assert request.blocked
            assert request.produced <= 1024 * KIB
            client.reset()
        await request.peer_left()


@both_transports
async def test_S10_a_client_that_reads_again_gets_everything(transport: str) -> None:
    stream = b"".join(delta(f"{number:04}" + "x" * KIB) for number in range(2000)) + finish() + usage_event() + DONE
    async with ScriptedUpstream(send_buffer=32 * KIB) as upstream, serving(transport, upstream=upstream) as gateway:
        upstream.script(sse(stream))
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True, stream_options={"include_usage": True}))
            request = await upstream.request()
            await eventually(lambda: request.blocked)
            response = await client.read_response()
        assert without_comment(response) == stream
        assert (await gateway.get_row(response.request_id))["status"] == 200


@both_transports
async def test_S10_a_client_that_reads_nothing_for_too_long_is_let_go(transport: str) -> None:
    async with serving(transport, {"server": {"write_stall_timeout_s": 0.5}}) as gateway:
        base = await baseline(gateway)
        user = next(users)
        gateway.upstream.script(endless)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True), {"X-Muxx-User-Id": user})
            request = await gateway.upstream.request()
            await request.peer_left(10.0)
            row = await row_of_user(gateway, user)
        expected = {"status": 499, "ended_by": "client", "phase": "stream", "error_code": "client_stalled"}
        assert part_of(row, expected | {"usage_source": "estimated"}) == expected | {"usage_source": "estimated"}
        assert row["output_tokens"] > 0
        await settled(base)


class Endless:
    """A plugin that answers without an end."""

    @hookimpl
    def pre_request(self) -> Reply:
        return Reply(self._chunks())

    async def _chunks(self) -> AsyncIterator[Chunk]:
        while True:
            yield Chunk("text", "x" * KIB)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("way", "code"), [("stays", "client_stalled"), ("FIN", "client_disconnected"), ("RST", "client_disconnected")]
)
async def test_S10_a_plugins_answer_that_is_not_read_ends_as_a_providers_does(way: str, code: str) -> None:
    async with serving(config={"server": {"write_stall_timeout_s": 0.5}}, plugins={"endless": Endless}) as gateway:
        user = next(users)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True), {"X-Muxx-User-Id": user})
            await client.read_head()
            if way in WAYS:
                WAYS[way](client)
            row = await row_of_user(gateway, user)
        expected = {"status": 499, "ended_by": "client", "phase": "stream", "error_code": code}
        assert part_of(row, expected) == expected


BIG = {"choices": [{"index": 0, "message": {"content": "x" * 8 * KIB * KIB}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("way", "code"), [("stays", "client_stalled"), ("FIN", "client_disconnected"), ("RST", "client_disconnected")]
)
async def test_S10_a_plain_answer_nobody_reads_is_amended_in_the_log(way: str, code: str) -> None:
    async with serving(config={"server": {"write_stall_timeout_s": 1.0}}) as gateway:
        gateway.upstream.script(json(BIG))
        user = next(users)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(), {"X-Muxx-User-Id": user})
            await client.read_head()
            if way in WAYS:
                WAYS[way](client)
            async with asyncio.timeout(10):
                while (row := await row_of_user(gateway, user))["status"] == 200:
                    await asyncio.sleep(0.05)
        expected = {"status": 499, "ended_by": "client", "phase": "finish", "error_code": code}
        assert part_of(row, expected) == expected
        assert row["output_tokens"] == tokens("x" * 8 * KIB * KIB)


async def test_S10_a_slow_answer_of_a_provider_is_no_stall() -> None:
    async with serving(config={"server": {"write_stall_timeout_s": 0.3}}) as gateway:
        gateway.upstream.script(sse(chunks=[delta("a"), delta("b") + finish() + DONE], gap=0.8))
        assert (await gateway.chat(stream=True)).done
        gateway.upstream.script(sse(delta("a"), end=fin()))
        assert not (await gateway.chat(stream=True)).done

"""Identical requests share one upstream call: who begins it pays, who leaves takes nothing from the others, and it ends with the
last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cache_kit import asked
from carrying_kit import (
    ANSWER,
    INPUT,
    OUTPUT,
    STREAM,
    WORDS,
    both_transports,
    delta,
    finish,
    hang,
    serving,
    usage_event,
    usd,
    without_comment,
    without_usage,
)

from muxx import Chunk, Exchange, Gateway, WholeAnswer, hookimpl
from muxx.flight import LEAST_KEPT, UNCOUNTED, Flight, Flights
from muxx.testing import DONE, RawClient, RunningGateway, chat_body, error, eventually, head, json, rst, sse, wait


class Shares:
    """Lets every request with an `X-Share` header share its call under that key, and keeps what it collects."""

    def __init__(self) -> None:
        self.collected: list[WholeAnswer] = []
        self.ended: list[str | None] = []
        """Whose exchanges are over."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        exchange.at_end(lambda exchange: self.ended.append(exchange.request.user_id))
        if (key := exchange.request.headers.get("x-share")) is not None:
            exchange.cache = "miss"
            exchange.coalesce(key.encode())
            exchange.collect(self.collected.append, 2**20)


OPTIONS: dict[str, Any] = {"plugins": {"shares": Shares}, "config": {"plugins": {"cache": {"enabled": False}}}}


def collected(gateway: RunningGateway) -> list[WholeAnswer]:
    found: list[WholeAnswer] = gateway.gateway.plugins.by_name["shares"].instance.collected
    return found


def ended(gateway: RunningGateway) -> list[str | None]:
    found: list[str | None] = gateway.gateway.plugins.by_name["shares"].instance.ended
    return found


async def begin(gateway: RunningGateway, *, user: str = "u", key: str = "a", stream: bool = True, **members: Any) -> RawClient:
    """A client that has sent its request."""
    client = await gateway.connect()
    headers = {"X-Share": key, "X-Muxx-User-Id": user}
    await client.post_chat(gateway.key, chat_body(stream=stream, **members), headers)
    return client


def in_steps(*events: asyncio.Event) -> Iterator[Any]:
    """The stream, word by word; before each but the first the test says when."""
    steps = [head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})]
    pieces = [*map(delta, WORDS[:-1]), delta(WORDS[-1]) + finish() + usage_event() + DONE]
    gates: list[asyncio.Event | None] = [None, *events]
    for number, piece in enumerate(pieces):
        if number < len(gates) and (gate := gates[number]) is not None:
            steps.append(wait(gate))  # type: ignore[arg-type]
        steps.append(b"%x\r\n%b\r\n" % (len(piece), piece))
    return iter([*steps, b"0\r\n\r\n"])


def readers(gateway: RunningGateway) -> int:
    """How many exchanges have begun a call that can be shared, or joined one, and still want its answer."""
    return sum((call.shares or call.flight is not None) and not call.recorded for call in gateway.gateway.calls._calls)  # type: ignore[attr-defined]


async def aboard(gateway: RunningGateway, count: int) -> None:
    await eventually(lambda: readers(gateway) == count)


async def row_of(gateway: RunningGateway, user: str, **expected: Any) -> dict[str, Any]:
    """The row of that user's request, once it says what is expected: the bill of a call that outlived its exchange comes late."""
    deadline = time.monotonic() + 5
    while True:
        rows = (await gateway.get(f"/v1/logs?user_id={user}")).json()["data"]
        if rows and all(rows[0][name] == value for name, value in expected.items()):
            found: dict[str, Any] = rows[0]
            return found
        assert time.monotonic() < deadline, (expected, rows)
        await asyncio.sleep(0.01)


BILL = {"usage_source": "provider", "input_tokens": 10, "output_tokens": 5, "cost_usd": usd(10 * INPUT + 5 * OUTPUT)}
FREE = {"usage_source": "cache", "input_tokens": 10, "output_tokens": 5, "cost_usd": "0", "attempts": 0}


@both_transports
@pytest.mark.parametrize("stream", [False, True])
async def test_many_at_once_make_one_call_and_the_one_who_began_it_pays(transport: str, stream: bool) -> None:
    gate = asyncio.Event()
    plain = json(ANSWER)
    async with serving(transport, OPTIONS["config"], plugins=OPTIONS["plugins"]) as gateway:
        gateway.upstream.script(in_steps(gate) if stream else [wait(gate), *plain])
        clients = [await begin(gateway, user=f"u{number}", stream=stream) for number in range(20)]
        await aboard(gateway, 20)
        gate.set()
        responses = [await client.read_response() for client in clients]
        assert asked(gateway) == 1
        for client in clients:
            client.close()
        bodies = [without_comment(response) for response in responses] if stream else [r.body for r in responses]
        assert set(bodies) == ({without_usage(STREAM)} if stream else {bodies[0]})
        assert [response.header("x-muxx-cache") for response in responses] == ["MISS", *["HIT"] * 19]
        assert {response.header("x-muxx-cost") for response in responses[1:]} == {"0"}
        assert {response.header("age") for response in responses[1:]} == {"0"}
        await row_of(gateway, "u0", cache="miss", attempts=1, saved_usd=None, **BILL)
        for number in range(1, 20):
            await row_of(gateway, f"u{number}", cache="joined", saved_usd=BILL["cost_usd"], provider="openai", model="gpt-4o", **FREE)
        assert len(collected(gateway)) == 1
        assert len(gateway.gateway.flights) == gateway.gateway.flights.held == 0


@both_transports
async def test_who_comes_late_gets_all_of_it_too(transport: str) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    async with serving(transport, OPTIONS["config"], plugins=OPTIONS["plugins"]) as gateway:
        gateway.upstream.script(in_steps(*gates))
        first = await begin(gateway)
        await first.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        gates[0].set()
        await first.readuntil(b"Gott")
        late = await begin(gateway, user="late")
        await late.readuntil(b"Gott")
        gates[1].set()
        async with first, late:
            await first.readuntil(DONE)
            await late.readuntil(DONE)
        assert asked(gateway) == 1
        await row_of(gateway, "late", cache="joined", status=200, **FREE)


@both_transports
@pytest.mark.parametrize("phase", ["before the answer", "in the stream"])
async def test_when_the_one_who_began_it_leaves_the_others_lose_no_byte_and_it_still_pays(transport: str, phase: str) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    async with serving(transport, OPTIONS["config"], plugins=OPTIONS["plugins"]) as gateway:
        steps = list(in_steps(gates[1]))
        gateway.upstream.script([wait(gates[0]), *steps])
        starter, other = await begin(gateway, user="starter"), None
        await aboard(gateway, 1)
        other = await begin(gateway, user="other")
        await aboard(gateway, 2)
        if phase == "in the stream":
            gates[0].set()
            await starter.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        starter.reset()
        await row_of(gateway, "starter", status=499, ended_by="client")
        await aboard(gateway, 1)
        gates[0].set()
        gates[1].set()
        async with other:
            response = await other.read_response()
        assert without_comment(response) == without_usage(STREAM)
        assert asked(gateway) == 1
        await row_of(gateway, "other", status=200, cache="joined", saved_usd=BILL["cost_usd"], **FREE)
        await row_of(gateway, "starter", status=499, ended_by="client", error_code="client_disconnected", **BILL)
        assert [answer.usage.output_tokens for answer in collected(gateway)] == [5]


async def test_a_call_ends_within_a_second_of_its_last_client_and_is_booked_by_what_anybody_had() -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script(in_steps(asyncio.Event(), gate))
        starter = await begin(gateway, user="starter")
        await aboard(gateway, 1)
        other = await begin(gateway, user="other")
        await starter.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        await other.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        starter.close()
        await row_of(gateway, "starter", status=499)
        await aboard(gateway, 1)
        assert gateway.upstream.last.left_at is None
        left = time.monotonic()
        other.close()
        assert await gateway.upstream.last.peer_left() - left < 1.0
        await row_of(gateway, "other", status=499, cache="joined", cost_usd="0", saved_usd=None)
        row = await row_of(gateway, "starter", usage_source="estimated")
        assert row["output_tokens"] > 0
        assert row["cost_usd"] != "0"
        assert collected(gateway) == []


class LosesTheFirst:
    """The client of the request that began a call goes just before another one would join that: its task has yet to hear of it."""

    @hookimpl
    def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        exchange.coalesce(b"one")
        if exchange.request.user_id == "other":
            [starter] = [call for call in gateway.calls._calls if call.shares]  # type: ignore[attr-defined]
            starter.down._connection.connection_lost(ConnectionResetError())


async def test_nobody_joins_a_call_that_is_about_to_end_with_its_client() -> None:
    gate = asyncio.Event()
    async with serving(config=OPTIONS["config"], plugins={"shares": LosesTheFirst}) as gateway:
        gateway.upstream.script([hang()], [wait(gate), *json(ANSWER)])
        async with await begin(gateway, user="starter", stream=False):
            await aboard(gateway, 1)
            await gateway.upstream.request(1)
            async with await begin(gateway, user="other", stream=False) as other:
                await gateway.upstream.request(2)
                await row_of(gateway, "starter", status=499)
                async with await begin(gateway, user="third", stream=False) as third:
                    await aboard(gateway, 2)
                    gate.set()
                    responses = [await client.read_response() for client in (other, third)]
        assert [response.status for response in responses] == [200, 200]
        assert asked(gateway) == 2
        assert len(gateway.gateway.calls) == len(gateway.gateway.flights) == 0


HEAD_ALONE = [head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}), hang()]


@both_transports
@pytest.mark.parametrize("leaving", [["starter"], ["starter", "other"], ["other", "starter"]], ids=" then ".join)
async def test_a_call_whose_last_client_leaves_between_the_head_and_the_first_byte_ends_and_so_do_their_exchanges(
    transport: str, leaving: list[str]
) -> None:
    async with serving(transport, OPTIONS["config"], plugins=OPTIONS["plugins"]) as gateway:
        gateway.upstream.script(HEAD_ALONE)
        clients = {}
        for number, user in enumerate(sorted(leaving, reverse=True), start=1):
            clients[user] = await begin(gateway, user=user)
            await aboard(gateway, number)
        [starter] = [call for call in gateway.gateway.calls._calls if call.shares]  # type: ignore[attr-defined]
        await eventually(lambda: starter.exchange.phase == "stream")
        for user in leaving:
            assert gateway.upstream.last.left_at is None
            left = time.monotonic()
            clients[user].reset()
            await row_of(gateway, user, status=499, ended_by="client")
        assert await gateway.upstream.last.peer_left() - left < 1.0
        await eventually(lambda: sorted(ended(gateway), key=str) == sorted(leaving))
        await row_of(gateway, "starter", usage_source="estimated")
        assert len(gateway.gateway.calls) == len(gateway.gateway.flights) == 0


async def test_a_provider_that_fails_after_the_one_who_began_it_has_left_is_paid_nothing() -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([wait(gate), *error(500)])
        starter = await begin(gateway, user="starter")
        await aboard(gateway, 1)
        other = await begin(gateway, user="other")
        await aboard(gateway, 2)
        await gateway.upstream.request(1)
        starter.reset()
        await row_of(gateway, "starter", status=499, usage_source="estimated")
        gate.set()
        async with other:
            assert (await other.read_response()).status == 500
        await row_of(gateway, "starter", status=499, usage_source="none", cost_usd="0", input_tokens=0)


async def test_who_began_it_pays_as_the_provider_says_whatever_those_who_left_had_seen() -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script(in_steps(gate))
        starter = await begin(gateway, user="starter")
        await aboard(gateway, 1)
        other = await begin(gateway, user="other")
        await other.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        other.reset()
        await row_of(gateway, "other", status=499, cost_usd="0")
        gate.set()
        async with starter:
            assert without_comment(await starter.read_response()) == without_usage(STREAM)
        await row_of(gateway, "starter", status=200, **BILL)


async def test_a_slow_reader_keeps_nobody_waiting_and_gets_all_of_it_in_its_own_time() -> None:
    text = "word " * 1000
    stream = b"".join(delta(text) for _ in range(150)) + finish() + usage_event() + DONE
    async with serving(**OPTIONS) as gateway:
        gate = asyncio.Event()
        gateway.upstream.script([wait(gate), *sse(chunks=[stream[i : i + 9000] for i in range(0, len(stream), 9000)])])
        slow = await gateway.connect(receive_buffer=4096)
        await slow.post_chat(gateway.key, chat_body(stream=True), {"X-Share": "a"})
        await aboard(gateway, 1)
        quick = await begin(gateway, user="quick")
        await aboard(gateway, 2)
        gate.set()
        async with quick, slow:
            response = await quick.read_response()
            assert without_comment(response) == without_usage(stream)
            assert without_comment(await slow.read_response()) == without_usage(stream)
        assert asked(gateway) == 1


async def test_while_nobody_reads_the_provider_is_stopped() -> None:
    stream = delta("word " * 2000) * 2000 + finish() + DONE
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.send_buffer = 8192
        gateway.upstream.script(sse(stream))
        clients = []
        for _ in range(2):
            client = await gateway.connect(receive_buffer=4096)
            await client.post_chat(gateway.key, chat_body(stream=True), {"X-Share": "a"})
            clients.append(client)
        await gateway.upstream.request(1)
        await eventually(lambda: gateway.upstream.last.blocked)
        produced = gateway.upstream.last.produced
        await asyncio.sleep(0.2)
        assert gateway.upstream.last.produced <= produced + 2**18
        assert produced < len(stream) / 4
        for client in clients:
            client.reset()


class Taking:
    """A sink."""

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("joined", [False, True])
async def test_what_is_kept_of_an_answer_is_counted_however_small_its_pieces_are(joined: bool) -> None:
    flights, provider = Flights(), Taking()
    starter: Any = SimpleNamespace(exchange=SimpleNamespace(collectors=[]), shared_as=None, facts=None, stream=None)
    other: Any = SimpleNamespace(stream=None, facts=None)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    response: Any = SimpleNamespace(
        status=200, headers={}, pump=lambda sink: never, pause=lambda: None, resume=lambda: None, close=lambda: None
    )
    flight, first, second = Flight(flights, starter), Taking(), Taking()
    flight.take(starter, response).pump(first)
    piece = b"a piece of a stream "
    for number in range(1, LEAST_KEPT // len(piece) + UNCOUNTED):
        flight.feed(piece)
        provider.feed(piece)
        if joined and number == 1000:
            flight.board(other).pump(second)
        assert 0 <= (len(provider.data) if flight.kept else 0) - flights.held <= UNCOUNTED + len(piece)
    assert not flight.kept
    assert (first.data, second.data) == (provider.data, provider.data if joined else b"")
    for reader in sorted(flight.readers, key=lambda reader: reader.call is starter):
        reader.close()
    assert flights.held == 0


async def test_an_answer_that_outgrows_what_is_kept_still_reaches_its_readers_whole() -> None:
    stream = delta("word " * 2000) * 300 + finish() + usage_event() + DONE
    assert len(stream) > 2**20
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([wait(gate), *sse(stream)])
        first = await begin(gateway)
        await aboard(gateway, 1)
        second = await begin(gateway, user="second")
        await aboard(gateway, 2)
        gate.set()
        async with first, second:
            for response in await asyncio.gather(first.read_response(), second.read_response()):
                assert without_comment(response) == without_usage(stream)
        assert collected(gateway) == []
        assert gateway.gateway.flights.held == 0
        assert asked(gateway) == 1


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (error(500), 500, "server_error"),
        (error(429, retry_after="7"), 429, "server_error"),
        ([b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"], 502, "upstream_error"),
        ([rst()], 502, "upstream_disconnected"),
    ],
)
async def test_what_fails_fails_for_all_and_is_kept_by_nobody(script: Any, status: int, code: str) -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([wait(gate), *script])
        clients = [await begin(gateway, user=f"u{number}", stream=False) for number in range(5)]
        await aboard(gateway, 5)
        gate.set()
        for client in clients:
            async with client:
                response = await client.read_response()
                assert (response.status, response.error["code"] or response.error["type"]) == (status, code)
        assert asked(gateway) == 1
        assert collected(gateway) == []
        for number in range(1, 5):
            row = await row_of(gateway, f"u{number}", cache="joined", cost_usd="0", saved_usd=None, status=status)
            assert row["phase"] is not None


async def test_a_stream_that_breaks_breaks_for_all() -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([*list(in_steps(gate))[:2], wait(gate), rst()])
        clients = [await begin(gateway, user=f"u{number}") for number in range(3)]
        for client in clients:
            await client.readuntil(b"Gr\xc3\xbc\xc3\x9f")
        gate.set()
        for client in clients:
            async with client:
                assert b"upstream_disconnected" in await client.readuntil(b"0\r\n\r\n")
        assert collected(gateway) == []
        row = await row_of(gateway, "u0", ended_by="upstream", phase="stream")
        assert row["usage_source"] == "estimated"
        for number in (1, 2):
            await row_of(gateway, f"u{number}", ended_by="upstream", phase="stream", cost_usd="0", saved_usd=None)


async def test_another_target_is_asked_once_for_all_before_the_first_byte() -> None:
    gate = asyncio.Event()
    models = [{"name": "gpt-4o", "targets": ["openai/gpt-4o", "google/gpt-4o"]}]
    config = OPTIONS["config"] | {"models": models, "providers": {"google": {"format": "openai"}}}
    async with serving(config=config, plugins=OPTIONS["plugins"]) as gateway:
        gateway.upstream.script([wait(gate), *error(503)], sse(STREAM))
        clients = [await begin(gateway, user=f"u{number}") for number in range(3)]
        await aboard(gateway, 3)
        gate.set()
        for client in clients:
            async with client:
                assert without_comment(await client.read_response()) == without_usage(STREAM)
        assert asked(gateway) == 2
        await row_of(gateway, "u0", attempts=2, provider="google")
        await row_of(gateway, "u1", attempts=0, provider="google", cache="joined")


async def test_each_gets_the_usage_event_only_if_it_asked_for_it() -> None:
    gate = asyncio.Event()
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([wait(gate), *sse(STREAM)])
        without = await begin(gateway, user="without")
        await aboard(gateway, 1)
        with_it = await begin(gateway, user="with", stream_options={"include_usage": True})
        await aboard(gateway, 2)
        gate.set()
        async with without, with_it:
            assert without_comment(await without.read_response()) == without_usage(STREAM)
            assert without_comment(await with_it.read_response()) == STREAM


async def test_streamed_and_plain_do_not_share_nor_do_projects_environments_or_keys() -> None:
    async with serving(**OPTIONS) as gateway:
        gateway.upstream.script([hang()])
        clients = [await begin(gateway, stream=stream, key=key) for stream in (True, False) for key in ("a", "b")]
        await gateway.upstream.request(4)
        for client in clients:
            client.close()


class Ends:
    """Ends the answer of one user after the first word."""

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> list[Chunk] | None:
        if exchange.request.user_id == "short" and chunk.kind == "text":
            return [chunk, Chunk("end")]
        return None


async def test_hooks_run_for_each_by_itself_and_one_that_ends_early_ends_no_other() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    async with serving(config=OPTIONS["config"], plugins=OPTIONS["plugins"] | {"ends": Ends}) as gateway:
        gateway.upstream.script([wait(gates[0]), *in_steps(gates[1])])
        short = await begin(gateway, user="short")
        await aboard(gateway, 1)
        long = await begin(gateway, user="long")
        await aboard(gateway, 2)
        gates[0].set()
        async with short, long:
            response = await short.read_response()
            assert "Gott" not in response.text
            assert response.done
            gates[1].set()
            assert without_comment(await long.read_response()) == without_usage(STREAM)
        await row_of(gateway, "short", status=200, error_code=None, **BILL)
        await row_of(gateway, "long", status=200, cache="joined", **FREE)


async def test_a_collected_answer_is_the_providers_own_and_not_what_hooks_made_of_it() -> None:
    async with serving(config=OPTIONS["config"], plugins=OPTIONS["plugins"] | {"ends": Ends}) as gateway:
        gateway.upstream.script(sse(STREAM))
        async with await begin(gateway) as client:
            await client.read_response()
        [answer] = collected(gateway)
        assert answer.body == STREAM
        assert answer.is_stream
        assert str(answer.target) == "openai/gpt-4o"
        assert answer.cost is not None
        assert answer.cost.total_pico == 10 * INPUT + 5 * OUTPUT

"""A request whose head repeats the connection's last one is not parsed again; nobody can tell, however it is cut or forged."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import orjson
import pytest

from muxx import HttpRequest, hookimpl, lean
from muxx.connection import Connection
from muxx.incoming import MOST_HEADS
from muxx.server import Service
from muxx.testing import RunningGateway, ScriptedUpstream, chat, chat_body, eventually, pause

ROUNDS = 12


def head(gateway: RunningGateway, length: int | str, *more: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {gateway.key}", *more]
    return "\r\n".join([*lines, f"Content-Length: {length}", "Accept: */*", "", ""]).encode()


def request(gateway: RunningGateway, content: str, *more: str) -> bytes:
    body = orjson.dumps(chat_body(content))
    return head(gateway, len(body), *more) + body


async def say(gateway: RunningGateway, *pieces: bytes, answers: int) -> list[int]:
    """Send the pieces with a pause after each; the statuses of so many answers."""
    statuses = []
    async with await gateway.connect() as client:
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0.003)
        for _ in range(answers):
            statuses.append((await client.read_response()).status)
    return statuses


def service_of(gateway: RunningGateway) -> Service:
    assert gateway._running is not None
    return gateway._running.worker.service


def asked(upstream: ScriptedUpstream) -> list[str]:
    return [recorded.json()["messages"][0]["content"] for recorded in upstream.requests]


async def test_repeated_heads_carry_each_its_own_body(muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.choose = chat()
    contents = ["a", "bb" * 50, "", "c" * 9000, "d"]
    assert await say(muxx_gateway, *(request(muxx_gateway, content) for content in contents), answers=5) == [200] * 5
    assert asked(scripted_upstream) == contents


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_however_a_connections_requests_are_cut_the_answers_are_the_same(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream, seed: int
) -> None:
    dice = random.Random(seed)
    scripted_upstream.choose = chat()
    contents = [f"{number} " + "x" * dice.choice((0, 10, 2000)) for number in range(8)]
    data = b"".join(request(muxx_gateway, content) for content in contents)
    ends = [len(b"".join(request(muxx_gateway, c) for c in contents[: n + 1])) for n in range(len(contents) - 1)]
    cuts = sorted({*dice.sample(ends, dice.randint(2, len(ends))), *dice.sample(range(1, len(data)), dice.randint(0, 5))})
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert await say(muxx_gateway, *pieces, answers=len(contents)) == [200] * len(contents)
    assert asked(scripted_upstream) == contents


async def test_a_body_that_looks_like_the_known_request_is_a_body(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream
) -> None:
    """A body is announced, and in its place comes, in a piece of its own, what would be a request if one could begin there."""
    scripted_upstream.choose = chat()
    inner = request(muxx_gateway, "smuggled")
    outer = head(muxx_gateway, len(inner))
    statuses = await say(muxx_gateway, request(muxx_gateway, "first"), outer, inner, answers=2)
    assert statuses == [200, 400], "the second body is no JSON"
    assert asked(scripted_upstream) == ["first"]


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b"\n"])
async def test_empty_lines_before_a_head_do_not_move_where_the_next_one_begins(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream, blank: bytes
) -> None:
    scripted_upstream.choose = chat()
    inner = request(muxx_gateway, "smuggled")
    shifted = blank + head(muxx_gateway, len(inner) + len(blank))
    async with await muxx_gateway.connect() as client:
        for piece in (request(muxx_gateway, "first"), shifted, inner):
            await client.send(piece)
            await asyncio.sleep(0.02)
        assert (await client.read_response()).status == 200
    assert "smuggled" not in asked(scripted_upstream)


@pytest.mark.parametrize("length", ["+5", "0x10", "007", " 5", "5 ", "-1", "99999999999999999999", "1e3", "٥"])
async def test_a_length_that_is_none_is_judged_by_the_parser(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream, length: str
) -> None:
    scripted_upstream.choose = chat()
    first = request(muxx_gateway, "first")
    async with await muxx_gateway.connect() as client:
        await client.send(first)
        assert (await client.read_response()).status == 200
        await client.send(first.replace(b"Content-Length: ", f"Content-Length: {length}".encode(), 1))
        with pytest.raises((AssertionError, EOFError, OSError, TimeoutError)):
            async with asyncio.timeout(0.3):
                assert (await client.read_response()).status == 200
    assert asked(scripted_upstream) == ["first"]


async def test_an_authenticator_reads_the_heads_of_each_request_and_keeps_what_it_learnt() -> None:
    seen: list[tuple[str | None, Any]] = []

    class Watches:
        @hookimpl(tryfirst=True)
        def authenticate(self, request: HttpRequest) -> None:
            seen.append((request.headers.get("Content-Length"), request.memory.get(self)))
            request.memory[self] = request.headers.get("X-Tag")

    async with RunningGateway(plugins={"watches": Watches}) as gateway:
        pieces = [request(gateway, "a", "X-Tag: 1"), request(gateway, "bbb", "X-Tag: 1"), request(gateway, "a", "X-Tag: 2")]
        assert await say(gateway, *pieces, answers=3) == [200] * 3
    lengths = [piece.split(b"\r\n\r\n", 1)[1] for piece in pieces]
    assert [length for length, _ in seen] == [str(len(body)) for body in lengths]
    assert [known for _, known in seen] == [None, "1", None], "another head, another memory"


async def test_requests_in_a_row_are_each_known_by_their_own_bytes() -> None:
    """While one waits for its provider the next one's head is read: what is learnt of either stays with it."""
    seen: list[tuple[str | None, Any]] = []

    class Watches:
        @hookimpl(tryfirst=True)
        def authenticate(self, request: HttpRequest) -> None:
            seen.append((request.headers.get("X-Tag"), request.memory.get(self)))
            request.memory[self] = request.headers.get("X-Tag")

    async with RunningGateway(plugins={"watches": Watches}) as gateway:
        gateway.upstream.choose = lambda asked: [pause(0.05), *chat()(asked)]
        first, second = (request(gateway, "a", f"X-Tag: {tag}") for tag in "12")
        async with await gateway.connect() as client:
            for piece in (first, second, first, second):
                await client.send(piece)
                await asyncio.sleep(0.005)
            assert [(await client.read_response()).status for _ in range(4)] == [200] * 4
            await client.send(second)
            assert (await client.read_response()).status == 200
    assert [tag for tag, _ in seen] == ["1", "2", "1", "2", "2"]
    assert all(known in (None, tag) for tag, known in seen)


async def test_a_connection_that_begins_like_another_one_is_known_and_carries_its_own_body(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.choose = chat()
    contents = ["a", "b" * 9000, "cc"]
    for content in contents:
        assert await say(muxx_gateway, request(muxx_gateway, content), answers=1) == [200]
    cut = request(muxx_gateway, "in two pieces")
    assert await say(muxx_gateway, cut[:-7], cut[-7:], answers=1) == [200]
    assert await say(muxx_gateway, cut[:30], cut[30:], answers=1) == [200]
    assert asked(scripted_upstream) == [*contents, "in two pieces", "in two pieces"]


async def test_bytes_that_come_before_a_connection_waits_for_them_are_known_too(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On uvloop nearly all do, of clients that send as soon as they are connected."""
    scripted_upstream.choose = chat()
    assert await say(muxx_gateway, request(muxx_gateway, "a"), answers=1) == [200]
    parsed: list[bytes] = []
    made, follow = Connection.connection_made, Connection._follow

    def made_with_a_request(connection: Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        connection.data_received(request(muxx_gateway, "bb"))

    def note(connection: Connection, data: bytes, messages: Any) -> None:
        parsed.append(data)
        follow(connection, data, messages)

    monkeypatch.setattr(Connection, "connection_made", made_with_a_request)
    monkeypatch.setattr(Connection, "_follow", note)
    assert await say(muxx_gateway, b"", answers=1) == [200]
    assert parsed == []
    assert asked(scripted_upstream) == ["a", "bb"]


async def test_what_is_learnt_of_a_head_is_known_to_all_connections_that_begin_with_it_until_the_gateway_is_another() -> None:
    seen: list[Any] = []

    class Watches:
        @hookimpl(tryfirst=True)
        def authenticate(self, request: HttpRequest) -> None:
            seen.append(request.memory.get("watches"))
            request.memory["watches"] = request.headers["X-Tag"]

    async with RunningGateway(plugins={"watches": Watches}) as gateway:
        for tag in ("1", "1", "2", "1"):
            assert await say(gateway, request(gateway, "a", f"X-Tag: {tag}"), answers=1) == [200]
        assert seen == [None, "1", None, "1"]
        service_of(gateway).use(gateway.gateway)
        assert await say(gateway, request(gateway, "a", "X-Tag: 1"), answers=1) == [200]
        assert seen[4:] == [None]


async def test_only_so_many_heads_are_known_to_connections_that_begin() -> None:
    async with RunningGateway() as gateway:
        for number in range(MOST_HEADS + 3):
            assert await say(gateway, head(gateway, 2, f"X-Tag: {number}") + b"{}", answers=1) == [400]
        assert len(service_of(gateway).heads) == MOST_HEADS


def tags(count: int) -> list[str]:
    return [f"X-Tag-{number}: {'a' * 8000}" for number in range(count)]


@pytest.mark.parametrize("key", [True, False], ids=["a caller", "a stranger"])
async def test_a_large_head_is_not_kept_and_neither_is_its_connection(key: bool) -> None:
    async with RunningGateway() as gateway:
        for more, kept in ((tags(1), True), (tags(3), False)):
            data = head(gateway, 2, *more).replace(b"Authorization", b"Authorization" if key else b"X-Other") + b"{}"
            async with await gateway.connect() as client:
                await client.send(data)
                response = await client.read_response()
                assert response.status == (400 if key else 401)
                assert response.header("connection") == (None if kept else "close")
        assert len(service_of(gateway).heads) == 1


async def test_a_large_head_for_a_provider_is_not_kept(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.choose = chat()
    lean._head_kept.cache_clear()
    for size, kept in ((9000, 1), (17_000, 1)):
        beta = [f"OpenAI-Beta: {'b' * (size // 3)}"] * 3
        assert await say(muxx_gateway, request(muxx_gateway, "a", *beta), answers=1) == [200]
        assert lean._head_kept.cache_info().currsize == kept
    assert [len(recorded.header("openai-beta") or "") > 9000 for recorded in scripted_upstream.requests] == [True, True]


def connections() -> list[Connection]:
    return [each for each in gc.get_objects() if type(each) is Connection]


@pytest.mark.parametrize("sent", [b"{}", b"", b"no header\r\n\r\n"], ids=["answered", "without its body", "no request"])
async def test_what_a_connection_was_sent_goes_with_it(sent: bytes) -> None:
    """The garbage collector counts objects, not their megabytes."""
    async with RunningGateway() as gateway:
        data = head(gateway, 2).replace(b"Authorization", b"X-Other")
        data = data + sent if len(sent) <= 2 else data.removesuffix(b"\r\n") + sent
        gc.collect()
        others = connections()  # which tests before this one still hold
        gc.disable()
        try:
            for _ in range(3):
                async with await gateway.connect() as client:
                    await client.send(data)
                    assert (await client.read_response()).status in (400, 401)
            await eventually(lambda: len(connections()) == len(others))
        finally:
            gc.enable()

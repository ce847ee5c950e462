"""A route may answer piece by piece: at its client's pace, for as long as there is one, and never looking whole when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from carrying_kit import error_code

from muxx import HttpRequest, InvalidRequest, Reply, Route, hookimpl
from muxx.testing import RawClient, RawResponse, RunningGateway, eventually

PIECE = b"x" * 65_536

CRASHES: dict[str, BaseException] = {
    "crash": ValueError("dry"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "cancel": asyncio.CancelledError(),
}
ODD: dict[str, Any] = {"none": None, "text": "water", "zero": 0, "array": bytearray(b"water")}
"""What is no piece of bytes."""


class Fountain:
    """A plugin whose route gives pieces: as many as the query says, and what it says of how they end."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = 0

    @hookimpl
    def register_routes(self) -> list[Route]:
        return [Route("GET", "/fountain", self.answer)]

    async def answer(self, gateway: Any, request: HttpRequest) -> Reply:
        query = request.query
        return Reply(self.pieces(int(query["count"]), query.get("end", "")), content_type="text/plain", headers={"X-Kind": "water"})

    async def pieces(self, count: int, end: str) -> AsyncIterator[bytes]:
        try:
            for number in range(count):
                yield b"" if end == "empty" and number % 2 else PIECE if count > 100 else b"%d\n" % number
                self.given += 1
                await asyncio.sleep(0)
            if end in CRASHES:
                raise CRASHES[end]
            if end in ODD:
                yield ODD[end]
            if end == "refuse":
                raise InvalidRequest("There is no water.", param="count")
        finally:
            self.closed += 1


def fountain(gateway: RunningGateway) -> Any:
    return gateway.gateway.plugins.by_name["fountain"].instance


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with RunningGateway({"server": {"write_stall_timeout_s": 0.3}}, mock=True, plugins={"fountain": Fountain}) as running:
        yield running


async def test_pieces_arrive_as_one_answer_with_its_headers(gateway: RunningGateway) -> None:
    for query, body in (("count=3", b"0\n1\n2\n"), ("count=4&end=empty", b"0\n2\n"), ("count=0", b"")):
        response = await gateway.get(f"/fountain?{query}")
        assert (response.status, response.body, response.complete) == (200, body, True)
        assert (response.header("content-type"), response.header("x-kind")) == ("text/plain", "water")
        assert response.header("transfer-encoding") == "chunked"
        assert (response.request_id or "").startswith("req_")
    assert fountain(gateway).closed == 3


@pytest.mark.parametrize(
    ("end", "status", "code"), [*((end, 500, "plugin_error") for end in (*CRASHES, *ODD)), ("refuse", 400, "invalid_type")]
)
async def test_an_error_before_the_first_piece_is_an_answer_like_any_other(
    gateway: RunningGateway, end: str, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = await gateway.get(f"/fountain?count=0&end={end}")
    assert (response.status, error_code(response)) == (status, code)
    assert ("plugin fountain failed in GET /fountain" in caplog.text) is (end != "refuse")


@pytest.mark.parametrize("end", [*CRASHES, *ODD, "refuse"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_error_behind_the_first_piece_never_looks_like_the_end(
    gateway: RunningGateway, end: str, version: str
) -> None:
    async with await gateway.connect() as client:
        head = await ask(client, gateway, f"count=2&end={end}", version)
        with pytest.raises((asyncio.IncompleteReadError, OSError)):
            async for _ in client.body(head):
                pass
    assert fountain(gateway).closed == 1
    assert (await gateway.chat()).status == 200


class Spring:
    """A plugin whose routes take a while, streamed and plain, and say whether its lifespan has ended meanwhile."""

    def __init__(self) -> None:
        self.state = "new"
        self.go_on = asyncio.Event()

    @hookimpl
    async def lifespan(self) -> AsyncIterator[None]:
        self.state = "flowing"
        yield
        self.state = "dry"

    @hookimpl
    def register_routes(self) -> list[Route]:
        return [Route("GET", "/spring", self.pieces_of), Route("GET", "/cup", self.cup)]

    async def pieces_of(self, gateway: Any, request: HttpRequest) -> Reply:
        return Reply(self.pieces(), content_type="text/plain")

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"begun "
        await self.go_on.wait()
        yield self.state.encode()

    async def cup(self, gateway: Any, request: HttpRequest) -> Reply:
        await self.go_on.wait()
        return Reply(self.state.encode(), content_type="text/plain")


@asynccontextmanager
async def drinking(gateway: RunningGateway, version: str = "1.1") -> AsyncIterator[tuple[RawClient, RawResponse, RawClient]]:
    """Clients of both routes, and the head of the streamed answer, which has begun."""
    async with await gateway.connect() as first, await gateway.connect() as second:
        for client, path in ((first, "/spring"), (second, "/cup")):
            await client.send(f"GET {path} HTTP/{version}\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\n\r\n".encode())
        yield first, await first.read_head(), second


@pytest.mark.parametrize("ends", [False, True], ids=["reload", "stop"])
async def test_a_route_that_answers_is_let_finish_and_keeps_its_gateway(ends: bool) -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(RunningGateway(mock=True, plugins={"spring": Spring}))
        spring = gateway.gateway.plugins.by_name["spring"].instance
        async with drinking(gateway) as (first, head, second):
            worker = gateway._running.worker  # type: ignore[union-attr]
            if ends:
                ending = asyncio.ensure_future(stack.aclose())
                await eventually(lambda: worker.service.draining)
            else:
                assert await worker.reload()
            await asyncio.sleep(0.2)
            spring.go_on.set()
            assert b"".join([piece async for piece in first.body(head)]) == b"begun flowing"
            assert (await second.read_response()).body == b"flowing"
            if ends:
                await ending
            await eventually(lambda: spring.state == "dry")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_route_that_does_not_end_in_time_is_refused_or_broken_off(version: str) -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(RunningGateway(mock=True, plugins={"spring": Spring}))
        async with drinking(gateway, version) as (first, head, second):
            ending = asyncio.ensure_future(stack.aclose())
            with pytest.raises((asyncio.IncompleteReadError, OSError)):
                async for _ in first.body(head):
                    pass
            response = await second.read_response()
            assert (response.status, error_code(response)) == (503, "shutting_down")
            await ending


class Mill:
    """A plugin whose route gives what the test wants."""

    reply = Reply(b"")

    @hookimpl
    def register_routes(self) -> list[Route]:
        return [Route("GET", "/mill", self.answer)]

    async def answer(self, gateway: Any, request: HttpRequest) -> Reply:
        return self.reply


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"{}", 204),
        Reply(b"flour", 304),
        Reply(b"flour", headers={"Content-Length": "1"}),
        Reply(b"flour", headers={"transfer-encoding": "chunked"}),
        Reply(b"flour", headers={"content-type": "text/plain"}),
        Reply(b"flour", headers=None),  # type: ignore[arg-type]
    ],
    ids=str,
)
async def test_nothing_a_route_replies_moves_where_its_answer_ends(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    async with RunningGateway(mock=True, plugins={"mill": Mill}) as gateway:
        gateway.gateway.plugins.by_name["mill"].instance.reply = reply
        response = await gateway.get("/mill")
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert "plugin mill failed in GET /mill" in caplog.text


async def ask(client: Any, gateway: RunningGateway, query: str, version: str = "1.1") -> RawResponse:
    await client.send(f"GET /fountain?{query} HTTP/{version}\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\n\r\n".encode())
    head: RawResponse = await client.read_head()
    assert head.status == 200
    return head


async def test_nothing_is_made_that_the_client_does_not_take_and_one_that_does_not_read_is_left(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await ask(client, gateway, "count=100000")
        await eventually(lambda: fountain(gateway).closed == 1)
        assert fountain(gateway).given < 500


async def test_a_client_that_leaves_ends_the_work(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        head = await ask(client, gateway, "count=100000")
        async for _ in client.body(head):
            break
    await eventually(lambda: fountain(gateway).closed == 1)
    assert fountain(gateway).given < 2000


async def test_others_are_served_while_a_client_takes_a_long_answer(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        head = await ask(client, gateway, "count=2000")
        served = 0

        async def take() -> int:
            return sum([len(piece) async for piece in client.body(head)])

        taking = asyncio.ensure_future(take())
        while not taking.done():
            assert (await gateway.chat()).status == 200
            served += 1
        assert await taking == 2000 * len(PIECE)
        assert served > 3

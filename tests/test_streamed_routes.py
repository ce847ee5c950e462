"""A route may answer piece by piece: at its client's pace, for as long as there is one, and never looking whole when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from carrying_kit import error_code

from muxx import HttpRequest, InvalidRequest, Reply, Route, hookimpl
from muxx.testing import RawResponse, RunningGateway, eventually

PIECE = b"x" * 65_536


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
            if end == "crash":
                raise ValueError("dry")
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


@pytest.mark.parametrize(("end", "status", "code"), [("crash", 500, "internal_error"), ("refuse", 400, "invalid_type")])
async def test_an_error_before_the_first_piece_is_an_answer_like_any_other(
    gateway: RunningGateway, end: str, status: int, code: str
) -> None:
    response = await gateway.get(f"/fountain?count=0&end={end}")
    assert (response.status, error_code(response)) == (status, code)


@pytest.mark.parametrize("end", ["crash", "refuse"])
async def test_an_error_behind_the_first_piece_never_looks_like_the_end(gateway: RunningGateway, end: str) -> None:
    async with await gateway.connect() as client:
        head = await ask(client, gateway, f"count=2&end={end}")
        with pytest.raises((asyncio.IncompleteReadError, OSError)):
            async for _ in client.body(head):
                pass
    assert fountain(gateway).closed == 1


async def ask(client: Any, gateway: RunningGateway, query: str) -> RawResponse:
    await client.send(f"GET /fountain?{query} HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\n\r\n".encode())
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

"""FAULTS H08 to H11 over raw sockets: slow senders, and more than one request on a connection."""

from __future__ import annotations

import asyncio
import time

import pytest
from carrying_kit import row_of_user
from http_kit import (
    BODY,
    CANARY,
    CHUNKED,
    HIDDEN,
    LENGTH,
    LINE,
    PATH,
    SHORT_LIMITS,
    chat_bytes,
    check_refusal,
    next_response,
    one_loop,
    plain,
    request,
    say,
)

from muxx.testing import (
    RawClient,
    RecordedRequest,
    RunningGateway,
    Script,
    chat,
    eventually,
    hold,
)

GATEWAY_CONFIG = SHORT_LIMITS

# ── H08, H09: slow senders ──────────────────────────────────────────────────────────────────────────────────────────────────


async def drip(client: RawClient, data: bytes, gap: float = 0.05) -> None:
    """Send a byte at a time until it is all sent or the peer has gone."""
    for byte in data:
        try:
            await client.send(bytes([byte]))
        except ConnectionError:
            return
        await asyncio.sleep(gap)


@one_loop
@pytest.mark.parametrize("sent", [b"", b"POST /v1", b"POST / HTTP/1.1\r\nHost: x\r\nX: "])
async def test_H08_a_head_that_does_not_come_costs_its_connection(sent: bytes, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        started = time.monotonic()
        await client.send(sent)
        assert await client.closed()
        assert time.monotonic() - started < 4


@one_loop
@pytest.mark.parametrize("after_another", [False, True])
async def test_H08_a_head_that_drips_costs_its_connection(after_another: bool, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        if after_another:
            await client.send(plain().replace(b"<KEY>", gateway.key.encode()))
            assert (await client.read_response()).status == 200
        started = time.monotonic()
        await asyncio.wait_for(drip(client, b"POST / HTTP/1.1\r\nX: " + b"a" * 200), 4)
        assert time.monotonic() - started > 0.2
    assert (await gateway.chat()).status == 200


@one_loop
@pytest.mark.parametrize(("how", "chunked"), [("stalls", False), ("drips", True)])
async def test_H09_a_slow_body_is_refused_and_its_row_says_so(how: str, chunked: bool, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        data = request(CHUNKED if chunked else "Content-Length: 1000", body=b"3e8\r\n{" if chunked else b"{")
        await client.send(data.replace(b"<KEY>", gateway.key.encode()))
        started = time.monotonic()
        dripping = asyncio.create_task(drip(client, b" " * 100)) if how == "drips" else None
        response = await client.read_response()
        assert 0.3 < time.monotonic() - started < 8
        check_refusal(response, 408, "request_timeout")
        assert response.header("x-should-retry") == "true"
        assert await client.closed()
        if dripping is not None:
            dripping.cancel()
    assert gateway.upstream.requests == []
    row = await gateway.get_row(response.request_id)
    assert (row["status"], row["ended_by"], row["phase"], row["error_code"]) == (408, "client", "head", "request_timeout")
    assert (row["cost_usd"], row["usage_source"]) == ("0", "none")


@one_loop
async def test_H09_without_a_key_nobody_waits_for_the_body(gateway: RunningGateway) -> None:
    data = request("Content-Length: 1000", body=b"{").replace(b"X-Muxx-Api-Key: <KEY>\r\n", b"")
    async with await gateway.connect() as client:
        await client.send(data)
        started = time.monotonic()
        check_refusal(await client.read_response(), 401, "missing_api_key")
        assert time.monotonic() - started < 0.4 * 5


@one_loop
async def test_H09_a_body_that_keeps_coming_in_time_is_served(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        data = plain().replace(b"<KEY>", gateway.key.encode())
        for piece in (data[: -len(BODY)], BODY[:10], BODY[10:20], BODY[20:]):
            await client.send(piece)
            await asyncio.sleep(0.05)
        assert (await client.read_response()).status == 200


@one_loop
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (plain().replace(b"<KEY>", b"muxx_sk_live_wrong"), 401),
        (plain(line="POST /v1/images/generations HTTP/1.1"), 404),
        (plain(line="POST /v1/models HTTP/1.1"), 405),
    ],
)
async def test_H09_an_answer_ahead_of_the_body_says_that_the_connection_closes(
    data: bytes, status: int, gateway: RunningGateway
) -> None:
    """Python's SDKs send a body after its head. Not told, they would send the next request to a connection that ends just then."""
    head, end, body = data.replace(b"<KEY>", gateway.key.encode()).partition(b"\r\n\r\n")
    async with await gateway.connect() as client:
        await client.send(head + end)
        await asyncio.sleep(0.05)
        await client.send(body)
        response = await client.read_response()
        assert response.status == status
        assert response.header("connection") == "close"
        assert await client.closed()


# ── H10: Expect ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

EXPECT = "Expect: 100-continue"


@one_loop
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (request(EXPECT, LENGTH, body=b"").replace(b"<KEY>", b"muxx_sk_live_wrong"), 401, "invalid_api_key"),
        (request(EXPECT, "Content-Length: 99000000000", body=b""), 413, "request_too_large"),
        (request("Expect: cookies", LENGTH, body=b""), 417, "expectation_failed"),
        (request("Expect: 100-continue, cookies", LENGTH, body=b""), 417, "expectation_failed"),
        (request(EXPECT, "Expect: cookies", LENGTH, body=b""), 417, "expectation_failed"),
        (request(EXPECT, LENGTH, "Content-Encoding: gzip", body=b""), 415, "unsupported_content_encoding"),
    ],
)
async def test_H10_what_will_be_refused_is_not_asked_for(data: bytes, status: int, code: str, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(data.replace(b"<KEY>", gateway.key.encode()))
        check_refusal(await client.read_response(), status, code)
        await client.send(BODY)
        assert await client.closed()
    assert gateway.upstream.requests == []


@one_loop
async def test_H10_what_is_wanted_is_asked_for_once(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(request(EXPECT, LENGTH, body=b"").replace(b"<KEY>", gateway.key.encode()))
        assert await client.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(BODY)
        assert (await client.read_response()).status == 200
        await client.send(plain(EXPECT).replace(b"<KEY>", gateway.key.encode()))
        assert (await client.read_response()).status == 200


@one_loop
async def test_H10_a_client_of_http_1_0_is_not_told_to_go_on(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        head = plain(EXPECT, line=f"POST {PATH} HTTP/1.0").removesuffix(BODY)
        await client.send(head.replace(b"<KEY>", gateway.key.encode()))
        await asyncio.sleep(0.1)
        await client.send(BODY)
        assert (await client.read_head()).status == 200


# ── H11: more than one request on a connection ──────────────────────────────────────────────────────────────────────────────


def echo(request: RecordedRequest) -> Script:
    """Answer with what was asked."""
    return chat(request.json()["messages"][0]["content"])(request)


@one_loop
@pytest.mark.parametrize("stream", [False, True])
async def test_H11_pipelined_requests_are_answered_once_each_and_in_order(stream: bool, gateway: RunningGateway) -> None:
    gateway.upstream.script(echo)
    asked = [f"question-{number}" for number in range(50)]
    told = await say(gateway, b"".join(plain(body=chat_bytes(text, stream=stream)) for text in asked), most=50)
    assert [response.status for response in told.responses] == [200] * 50
    assert len({response.request_id for response in told.responses}) == 50
    for text, response in zip(asked, told.responses, strict=True):
        assert text in response.text
    assert [request.json()["messages"][0]["content"] for request in gateway.upstream.requests] == asked


@one_loop
async def test_H11_pipelined_requests_of_all_kinds_keep_their_order(gateway: RunningGateway) -> None:
    gateway.upstream.script(echo)
    kinds = [
        (plain(), 200),
        (plain(body=b"{"), 400),
        (plain().replace(b"<KEY>", b"muxx_sk_live_wrong"), 401),
        (request(line="GET /nothing HTTP/1.1", body=b""), 404),
        (plain(line="PUT /v1/models HTTP/1.1"), 405),
        (request(line="GET /v1/models HTTP/1.1", body=b""), 200),
        (plain(body=chat_bytes(model="no-such-model")), 404),
    ]
    told = await say(gateway, b"".join(data for data, _ in kinds * 5), most=35)
    assert [response.status for response in told.responses] == [status for _, status in kinds * 5]


AHEAD = {
    "many requests": plain() * 100,
    "a large one": plain(body=chat_bytes("a" * 1_000_000)),
    "a large one in chunks": request(CHUNKED, body=(b"ea60\r\n" + b"a" * 60_000 + b"\r\n") * 10),
}
LEAVING = {"FIN": RawClient.close, "RST": RawClient.reset, "half-close": RawClient.half_close}


@one_loop
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", LEAVING)
@pytest.mark.parametrize("ahead", AHEAD)
async def test_S09_a_client_that_leaves_after_sending_far_ahead_is_noticed(
    ahead: str, way: str, stream: bool, gateway: RunningGateway
) -> None:
    gateway.upstream.script([hold()])
    user = f"ahead-{ahead}-{way}-{stream}".replace(" ", "-")
    async with await gateway.connect() as client:
        first = plain(f"X-Muxx-User-Id: {user}", body=chat_bytes(user, stream=stream))
        await client.send(first.replace(b"<KEY>", gateway.key.encode()))
        asked = await gateway.upstream.request()
        await client.send(AHEAD[ahead].replace(b"<KEY>", gateway.key.encode()))
        await asyncio.sleep(0.05)
        LEAVING[way](client)
        await asked.peer_left()
    row = await row_of_user(gateway, user)
    assert (row["status"], row["ended_by"], row["error_code"]) == (499, "client", "client_disconnected")
    assert len(gateway.upstream.requests) == 1, "what was sent ahead is nobody's any more"


UPGRADES = {
    "websocket": [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ],
    "h2c": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"],
    "anything": ["Connection: upgrade", "Upgrade: x/1"],
}


@one_loop
@pytest.mark.parametrize("protocol", UPGRADES)
@pytest.mark.parametrize("line", [LINE, "GET /v1/models HTTP/1.1", "GET /nothing HTTP/1.1"])
async def test_H11_nothing_is_upgraded_and_a_request_hidden_behind_it_never_runs(
    protocol: str, line: str, gateway: RunningGateway
) -> None:
    framed = plain if line == LINE else request
    data = framed(*UPGRADES[protocol], line=line, **({} if line == LINE else {"body": b""}))
    told = await say(gateway, data + HIDDEN)
    assert told.closed
    assert len(told.responses) == 1
    assert told.responses[0].status in (200, 404)
    assert CANARY not in [request.target for request in gateway.upstream.requests]
    assert len(gateway.upstream.requests) <= 1


@one_loop
@pytest.mark.parametrize("sent", ["all of the body", "half of the body", "none of the body"])
async def test_H11_after_a_refusal_before_the_body_the_connection_is_in_step_or_closed(
    sent: str, gateway: RunningGateway
) -> None:
    """The body is itself a request: it must never be taken for one."""
    inner = HIDDEN.replace(b"<KEY>", gateway.key.encode())
    body = {"all of the body": inner, "half of the body": inner[: len(inner) // 2], "none of the body": b""}[sent]
    early = request(f"Content-Length: {len(inner)}", body=body).replace(b"<KEY>", b"muxx_sk_live_wrong")
    async with await gateway.connect() as client:
        await client.send(early)
        response = await client.read_response()
        check_refusal(response, 401, "invalid_api_key")
        try:
            await client.send(inner[len(body) :] + plain().replace(b"<KEY>", gateway.key.encode()))
        except ConnectionError:
            return
        following = await next_response(client)
        if following is not None:
            assert following.status == 200
            assert [request.target for request in gateway.upstream.requests] == [PATH]
        else:
            assert gateway.upstream.requests == []


@one_loop
async def test_H11_a_connection_reset_in_the_middle_of_anything_harms_nobody(gateway: RunningGateway) -> None:
    for data in (b"POST", plain()[:50], request(LENGTH, body=BODY[:10]), plain() * 3):
        client = await gateway.connect()
        await client.send(data.replace(b"<KEY>", gateway.key.encode()))
        await asyncio.sleep(0.01)
        client.reset()
    assert (await gateway.chat()).status == 200
    await eventually(lambda: len(gateway.gateway.calls) == 0)


@one_loop
async def test_H08_half_a_head_that_came_during_a_request_costs_its_connection_too(gateway: RunningGateway) -> None:
    whole = plain().replace(b"<KEY>", gateway.key.encode())
    for first in (whole + b"POST /v1", b"".join([whole, whole[:40]])):
        async with await gateway.connect() as client:
            await client.send(first)
            assert (await client.read_response()).status == 200
            started = time.monotonic()
            assert await client.closed()
            assert time.monotonic() - started < 4


@one_loop
async def test_H02_a_body_is_refused_behind_a_head_that_was_fine_without(gateway: RunningGateway) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: %b\r\nContent-Length: %b\r\n\r\n"
    for again in (True, False):
        async with await gateway.connect() as client:
            if again:
                await client.send(head % (gateway.key.encode(), b"0"))
                assert (await client.read_response()).status == 200
            await client.send(head % (gateway.key.encode(), b"5") + b"hello")
            assert (await client.read_response()).status == 400


@one_loop
@pytest.mark.parametrize(("path", "has"), [("/v1/messages", '"type":"error"'), ("/v1beta/models/g:generateContent", '"status"')])
async def test_what_is_refused_for_its_head_is_told_in_the_callers_words(path: str, has: str, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(plain(line=f"POST {path} HTTP/1.1", host="evil/?").replace(b"<KEY>", gateway.key.encode()))
        refused = await client.read_response()
        assert refused.status == 400
        assert has in refused.text

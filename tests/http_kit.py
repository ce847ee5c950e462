"""What the tests of raw HTTP share: requests written byte by byte, and the one refusal they may be met with."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from carrying_kit import error_code

from muxx import Environment
from muxx.testing import RawClient, RawResponse, RunningGateway, chat_body
from muxx_std.keys import format
from muxx_std.keys.store import KeyStore, digest, new_row

PATH = "/v1/chat/completions"
LINE = f"POST {PATH} HTTP/1.1"
CANARY = "canary-93ac"
"""In the second request of a connection that must never get to it, and in input that must never be repeated."""

SHORT_LIMITS = {"server": {"head_timeout_s": 0.4, "body_idle_timeout_s": 0.4, "body_timeout_s": 0.8}}
one_loop = pytest.mark.asyncio(loop_scope="module")
"""For tests of the `gateway` a whole module shares."""

REQUEST_ID = re.compile(r"req_[0-9A-Za-z]{20,40}")


def chat_bytes(content: str = "Hello", **members: object) -> bytes:
    return orjson.dumps(chat_body(content, **members))


BODY = chat_bytes(CANARY)
SIZE = b"%x" % len(BODY)
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
IN_CHUNKS = SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"


def request(*headers: str, line: str = LINE, body: bytes = BODY, host: str | None = "x", newline: str = "\r\n") -> bytes:
    """A request of exactly these lines, Host and the key's header; `say` puts the gateway's key in the place of `<KEY>`."""
    lines = [line, *([f"Host: {host}"] if host is not None else []), "X-Muxx-Api-Key: <KEY>", *headers, "", ""]
    return newline.join(lines).encode("latin-1") + body


def plain(*headers: str, line: str = LINE, body: bytes = BODY, host: str | None = "x") -> bytes:
    """The same, well framed."""
    return request(*headers, f"Content-Length: {len(body)}", line=line, body=body, host=host)


HIDDEN = plain(f"X-Note: {CANARY}", line=f"POST {PATH}?{CANARY} HTTP/1.1")


@dataclass
class Conversation:
    """What a gateway answered on one connection, and whether it closed it then."""

    responses: list[RawResponse] = field(default_factory=list)
    closed: bool = False


async def say(gateway: RunningGateway, *pieces: bytes, within: float = 5.0, most: int = 10) -> Conversation:
    """Send the pieces, each in a write of its own, and read responses until the end of the connection or `most` of them."""
    told = Conversation()
    async with await gateway.connect() as client:
        client.within = within
        with suppress(ConnectionError):  # closed before everything was sent
            for piece in pieces:
                await client.send(piece.replace(b"<KEY>", gateway.key.encode()))
        while len(told.responses) < most:
            response = await next_response(client)
            if response is None:
                told.closed = True
                break
            told.responses.append(response)
    return told


async def refused(gateway: RunningGateway, *pieces: bytes) -> RawResponse:
    """The one response to bytes after which the connection is closed, and which reached no upstream."""
    told = await say(gateway, *pieces)
    assert len(told.responses) == 1
    assert told.closed
    assert gateway.upstream.requests == []
    return told.responses[0]


async def next_response(client: RawClient) -> RawResponse | None:
    """The next whole response; None at the end of the connection."""
    try:
        return await client.read_response()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def check_head(response: RawResponse) -> None:
    """What holds for every response: an id of ours in both headers, and nothing of what serves it."""
    assert REQUEST_ID.fullmatch(response.request_id or "")
    assert response.header("x-request-id") == response.request_id
    assert response.header("server") is None
    assert response.header("x-powered-by") is None


def check_refusal(response: RawResponse, status: int, code: str) -> None:
    """The envelope with this code, which repeats nothing of the input."""
    check_head(response)
    assert (response.status, error_code(response)) == (status, code)
    assert response.error["type"] in ("invalid_request_error", "api_error", "authentication_error", "permission_error", "rate_limit_error")
    assert CANARY not in response.text


async def add_key(
    gateway: RunningGateway, environment: Environment = "live", project: str | None = "default", **more: Any
) -> str:
    """A key made as a command beside the running gateway makes one."""
    text = format.generate(environment)
    host = gateway.gateway.host
    await KeyStore(host.db).add(new_row(text, host.derive("keys"), project=project, **more))
    host.shared.bump("keys")
    return text


async def revoke(gateway: RunningGateway, key: str) -> None:
    host = gateway.gateway.host
    wanted = digest(host.derive("keys"), key)
    [row] = [row for row in await KeyStore(host.db).rows() if row.hmac == wanted]
    assert await KeyStore(host.db).revoke(row.id)
    host.shared.bump("keys")

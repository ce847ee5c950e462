"""What the tests of raw HTTP share: requests written byte by byte, and the one refusal they may be met with."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from carrying_kit import error_code
from muxx.testing import RawClient, RawResponse, RunningGateway, chat_body

PATH = "/v1/chat/completions"
LINE = f"POST {PATH} HTTP/1.1"
CANARY = "canary-93ac"
"""In the second request of a connection that must never get to it, and in input that must never be repeated."""

SHORT_LIMITS = {"server": {"head_timeout_s": 0.4, "body_idle_timeout_s": 0.4, "body_timeout_s": 0.8}}
REQUEST_ID = re.compile(r"req_[0-9A-HJKMNP-TV-Z]{26}")


def chat_bytes(content: str = "Hello", **members: object) -> bytes:
    return orjson.dumps(chat_body(content, **members))


BODY = chat_bytes(CANARY)
SIZE = b"%x" % len(BODY)
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
IN_CHUNKS = SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"


def request(*headers: str, line: str = LINE, body: bytes = BODY, host: str | None = "x", newline: str = "\r\n") -> bytes:
    """A request of exactly these lines; `KEY` in them is replaced by the gateway's key. Nothing is added but Host and the key."""
    lines = [line, *([f"Host: {host}"] if host is not None else []), "X-Muxx-Api-Key: KEY", *headers, "", ""]
    return newline.join(lines).encode("latin-1") + body


def plain(*headers: str, line: str = LINE, body: bytes = BODY, host: str | None = "x") -> bytes:
    """The same, well framed."""
    return request(*headers, f"Content-Length: {len(body)}", line=line, body=body, host=host)


HIDDEN = plain(f"X-Note: {CANARY}", line=f"POST {PATH}?{CANARY} HTTP/1.1")


@dataclass
class Conversation:
    """Everything a gateway said on one connection, until it closed it or fell silent."""

    responses: list[RawResponse] = field(default_factory=list)
    raw: bytes = b""
    closed: bool = False


async def say(gateway: RunningGateway, *pieces: bytes, within: float = 5.0, most: int = 10) -> Conversation:
    """Send the pieces, each in a write of its own, and read responses until the end of the connection or `most` of them."""
    told = Conversation()
    async with await gateway.connect() as client:
        client.within = within
        with suppress(ConnectionError):  # closed before everything was sent
            for piece in pieces:
                await client.send(piece.replace(b"KEY", gateway.key.encode()))
        while len(told.responses) < most:
            if not await _read_one(client, told):
                told.closed = True
                break
    return told


async def _read_one(client: RawClient, told: Conversation) -> bool:
    """One response into `told`; False at the end of the connection."""
    try:
        head = await client.readuntil(b"\r\n\r\n")
    except EOFError as error:
        assert not getattr(error, "partial", b""), "half a response"
        return False
    except ConnectionError:
        return False
    client.put_back(head)
    response = await client.read_response()
    told.raw += head + response.body
    told.responses.append(response)
    return True


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
    assert response.error["type"] in ("invalid_request_error", "api_error", "authentication_error")
    assert CANARY not in response.text

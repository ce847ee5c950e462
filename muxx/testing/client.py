"""A client that does exactly what the test says: half a head, one byte a second, a reset in the middle, or nothing at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from .asking import request_body, request_target, sent
from .http1 import Headers, chunks, header, is_chunked, parse_head
from .reading import read_answer, read_comment, read_error
from .said import Said

READ = 64 * 1024


@dataclass(slots=True)
class RawResponse:
    """A response as it came. `complete` says that its framing ended as announced; what came before a break is kept."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def header(self, name: str) -> str | None:
        """The first header of this name, in any spelling."""
        return header(self.headers, name)

    @property
    def request_id(self) -> str | None:
        return self.header("x-muxx-request-id")

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an error answer."""
        found: dict[str, Any] = self.json()["error"]
        return found

    @property
    def streamed(self) -> bool:
        return (self.header("content-type") or "").startswith("text/event-stream")

    def said(self, endpoint: str = "chat") -> Said:
        """What a whole answer of this endpoint says, plain or streamed; raises `Unreadable` for one that is broken."""
        return read_answer(endpoint, self.body, streamed=self.streamed)

    def told(self, endpoint: str = "chat") -> dict[str, Any]:
        """The error of a refused request, or that ends a broken stream, as this endpoint tells it; raises `Unreadable`."""
        return read_error(self.body, streamed=self.streamed, endpoint=endpoint)

    def comment(self, endpoint: str = "chat") -> dict[str, Any] | None:
        """What the comment of a whole stream tells of its cost; None where there is none. Raises `Unreadable`."""
        return read_comment(endpoint, self.body)

    @property
    def data(self) -> list[str]:
        """The data of each event of a stream that keeps to `data: …` and a blank line, as OpenAI's do; comments are left out."""
        return [event.removeprefix("data: ") for event in self.text.split("\n\n") if event.startswith("data: ")]

    @property
    def events(self) -> list[Any]:
        """`data` as JSON, without `[DONE]`."""
        return [orjson.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def done(self) -> bool:
        return self.data[-1:] == ["[DONE]"]


class RawClient:
    """One TCP connection. Nothing is read before it is asked for, so a client that does not read really does not read."""

    def __init__(self, sock: socket.socket, host: str, within: float) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.host = host
        self.within = within

    @classmethod
    async def connect(cls, url: str, *, receive_buffer: int | None = None, within: float = 10.0) -> Self:
        """Connect to the host and port of `url`. `receive_buffer` sets SO_RCVBUF; `within` bounds each later read."""
        parsed = urlsplit(url)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.get_running_loop().sock_connect(sock, (parsed.hostname, parsed.port))
        except BaseException:
            sock.close()
            raise
        return cls(sock, f"{parsed.hostname}:{parsed.port}", within)

    async def send(self, *data: bytes) -> None:
        for piece in data:
            await asyncio.get_running_loop().sock_sendall(self._sock, piece)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> None:
        """Send one well-formed request. A header with an empty name is left out."""
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", *(f"{name}: {value}" for name, value in fields if name)]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    async def post_chat(self, key: str | None, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Send a chat request; reading the answer is the caller's."""
        fields = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        await self.request("POST", "/v1/chat/completions", fields | dict(headers or {}), orjson.dumps(body))

    async def read_some(self) -> bytes:
        """Whatever is there, waiting for at least one byte; `b""` at the end of the connection."""
        if not self._buffer:
            await self._receive()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def readuntil(self, separator: bytes) -> bytes:
        while (end := self._buffer.find(separator)) < 0:
            await self._more(None)
        return self._take(end + len(separator))

    async def readexactly(self, n: int) -> bytes:
        while len(self._buffer) < n:
            await self._more(n)
        return self._take(n)

    async def _more(self, expected: int | None) -> None:
        if not await self._receive():
            partial = self._take(len(self._buffer))
            raise asyncio.IncompleteReadError(partial, expected)

    async def _receive(self) -> bool:
        """Read once into the buffer; False at the end of the connection."""
        async with asyncio.timeout(self.within):
            data = await asyncio.get_running_loop().sock_recv(self._sock, READ)
        self._buffer += data
        return bool(data)

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    async def read_head(self) -> RawResponse:
        """The status and headers of the next response; its body is left to be read."""
        first, headers = parse_head(await self.readuntil(b"\r\n\r\n"))
        return RawResponse(int(first.split(" ", 2)[1]), headers)

    async def body(self, head: RawResponse) -> AsyncIterator[bytes]:
        """The body piece by piece: HTTP chunks as they were cut, or what each read brings. Raises where the framing breaks."""
        length = header(head.headers, "content-length")
        if head.status in (204, 304):
            return
        if is_chunked(head.headers):
            async for piece in chunks(self):
                yield piece
        elif length is not None:
            yield await self.readexactly(int(length))
        else:
            while piece := await self.read_some():
                yield piece

    async def read_response(self) -> RawResponse:
        """A whole response. One that breaks off comes back with `complete` false and what there was of its body."""
        response = await self.read_head()
        try:
            async for piece in self.body(response):
                response.body += piece
        except asyncio.IncompleteReadError as error:
            response.body += error.partial
        except ConnectionError:
            pass
        else:
            response.complete = True
        return response

    async def closed(self) -> bool:
        """Wait for the server to close: True when it does with nothing more to read, False when data comes instead."""
        try:
            return not await self.read_some()
        except ConnectionError:
            return True

    def half_close(self) -> None:
        """Send FIN and keep reading."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST: lingering for no time at all makes the kernel abort the connection."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        """Send FIN and let go (the kernel sends RST instead when there is unread data). Idempotent."""
        self._sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def chat_body(content: str = "Hello", model: str = "gpt-4o", **members: Any) -> dict[str, Any]:
    """A chat request with one user message; keyword arguments are further members of the body."""
    return request_body("chat", content, model=model, **members)


async def post_chat(
    url: str,
    key: str | None,
    content: str = "Hello",
    *,
    model: str = "gpt-4o",
    headers: Mapping[str, str] | None = None,
    within: float = 10.0,
    **members: Any,
) -> RawResponse:
    """One chat request on a connection of its own, read to its end."""
    async with await RawClient.connect(url, within=within) as client:
        await client.post_chat(key, chat_body(content, model, **members), headers)
        return await client.read_response()


async def ask(
    url: str,
    key: str | None,
    endpoint: str = "chat",
    content: str = "Hello",
    *,
    model: str | None = None,
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
    within: float = 10.0,
    **members: Any,
) -> RawResponse:
    """One request of any endpoint on a connection of its own, read to its end. Keyword arguments are further members of it."""
    body = request_body(endpoint, content, model=model, **members) | ({"stream": True} if stream else {})
    fields = {"Content-Type": "application/json"} | ({"X-Muxx-Api-Key": key} if key else {}) | dict(headers or {})
    target = request_target(endpoint, body["model"], stream=stream)
    async with await RawClient.connect(url, within=within) as client:
        await client.request("POST", target, fields, orjson.dumps(sent(endpoint, body)))
        return await client.read_response()


async def get(
    url: str,
    target: str,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    within: float = 10.0,
) -> RawResponse:
    """One GET on a connection of its own, read to its end."""
    async with await RawClient.connect(url, within=within) as client:
        fields = ({"Authorization": f"Bearer {key}"} if key else {}) | dict(headers or {})
        await client.request("GET", target, fields)
        return await client.read_response()

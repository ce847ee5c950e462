"""The client's side of an exchange: heads, bodies and streams written straight to the connection's transport.

Head and body of an `Answer` leave in one write, and a stream's head leaves together with its first bytes. Nothing is copied per
event beyond the chunk framing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage

if TYPE_CHECKING:
    from .connection import Connection

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request", 529: "Overloaded"}


@lru_cache(maxsize=32)
def _first_lines(status: int, second: int) -> str:
    """Status line and Date, made once a second for each status."""
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\nDate: {formatdate(second, usegmt=True)}\r\n"


class Answer:
    """One response. `whole()` sends it at once; `begin()`, `send()`, `end()` stream it; `break_off()` ends a failed stream.

    After `end()` or `break_off()` nothing more is written. Writing to a client that has gone is a no-op: the connection's loss
    cancels the exchange by its own way.
    """

    __slots__ = ("_bodiless", "_connection", "_head", "_http11", "head_sent", "keep_alive", "on_resume", "stalled_since")

    def __init__(self, connection: Connection, message: RawRequestMessage | None) -> None:
        """`message` is the request's head; None when it could not be parsed, and then the connection ends with this answer."""
        self._connection = connection
        self._http11 = message is None or message.version >= HttpVersion11
        self._bodiless = message is not None and message.method == "HEAD"
        self._head: bytes | None = None
        self.keep_alive = message is not None and not message.should_close
        self.head_sent = False
        self.stalled_since: float | None = None
        self.on_resume: Callable[[], None] | None = None
        connection.answer = self

    @property
    def gone(self) -> bool:
        """The client's connection is closed or closing."""
        transport = self._connection.transport
        return transport is None or transport.is_closing()

    @property
    def paused(self) -> bool:
        """The client does not read as fast as we write: write no more than what has already come."""
        return self.stalled_since is not None

    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a complete answer in one write."""
        head = self._head_bytes(status, headers, f"Content-Length: {len(body)}\r\n")
        self.head_sent = True
        self._transmit(head if self._bodiless else head + body)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Prepare a stream. Nothing leaves yet: its head goes out with the first bytes."""
        if not self._http11:
            self.keep_alive = False
        framing = "Transfer-Encoding: chunked\r\n" if self._http11 else ""
        self._head = self._head_bytes(status, headers, framing)

    def send(self, data: bytes) -> None:
        """Send a piece of a stream, framed as one chunk."""
        self._transmit(self._take_head() + self._chunk(data))

    def end(self, data: bytes = b"") -> None:
        """Send the stream's last bytes and its end, in one write."""
        piece = self._chunk(data) if data else b""
        self._transmit(self._take_head() + piece + (b"0\r\n\r\n" if self._http11 else b""))

    def break_off(self, data: bytes) -> None:
        """End a failed stream: `data` (the error event), the last chunk, then the connection's close."""
        self.keep_alive = False
        self.end(data)

    def close_after(self) -> None:
        """The connection is not used again after this answer."""
        self.keep_alive = False

    def _take_head(self) -> bytes:
        head, self._head = self._head or b"", None
        self.head_sent = True
        return head

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._http11 else data

    def _head_bytes(self, status: int, headers: Mapping[str, str], framing: str) -> bytes:
        named = "".join(map("%s: %s\r\n".__mod__, headers.items()))
        if named.count("\n") != len(headers) or not named.replace("\r\n", "").isprintable():
            named = "".join([f"{_safe(name)}: {_safe(value)}\r\n" for name, value in headers.items()])
        lines = [_first_lines(status, int(time.time())), framing, named]
        if self._connection.draining():
            self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close\r\n")
        elif not self._http11:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1", "replace")

    def _transmit(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def pause_writing(self) -> None:
        self.stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        self.stalled_since = None
        if self.on_resume is not None:
            self.on_resume()

    async def drained(self, seconds: float) -> bool:
        """Wait until the client has taken (nearly) all; False when it has gone or not read for `seconds`."""
        if self.paused and not self.gone:
            try:
                async with asyncio.timeout(seconds):
                    await self._connection._drain_helper()
            except (TimeoutError, ConnectionError):
                self.abort()
        return not self.gone

    def abort(self) -> None:
        """Drop the connection at once."""
        self.keep_alive = False
        transport = self._connection.transport
        if transport is not None:
            transport.abort()


def _safe(value: str) -> str:
    """A header value aiohttp's writer, and every client's parser, will accept."""
    return "".join([c if c.isprintable() else " " for c in value])

"""The client's side of an exchange: heads, bodies and streams written straight to the connection's transport.

Head and body of an `Answer` leave in one write, and a stream's head leaves together with its first bytes. Nothing is copied per
event beyond the chunk framing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from .errors import MuxxError

if TYPE_CHECKING:
    from .connection import Connection
    from .targets import Format

LARGE = 64 * 1024
"""Bytes from which on a client may not take an answer at a stroke."""

_RESETS = struct.pack("ii", 1, 0)
"""Lingering for no time at all makes the kernel reset a connection that is closed."""

_KEEP = "\r\n"
_CLOSE = "Connection: close\r\n\r\n"
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

    __slots__ = (
        "_bodiless", "_connection", "_head", "_http11", "format",
        "head_sent", "keep_alive", "on_gone", "on_resume", "stalled_since",
    )  # fmt: skip

    def __init__(self, connection: Connection, message: RawRequestMessage | None) -> None:
        """`message` is the request's head; None when it could not be parsed, and then the connection ends with this answer."""
        self._connection = connection
        self._head: bytes | None = None
        self.head_sent = False
        self.format: Format = "openai"
        """That of errors for which there is no exchange."""
        self.stalled_since: float | None = None
        self.on_resume: Callable[[], None] | None = None
        self.on_gone: Callable[[], bool] | None = None
        connection.answer = self
        if message is None:
            self._http11, self._bodiless, self.keep_alive = True, False, False
            return
        self._http11 = message.version == HttpVersion11
        self._bodiless = message.method == "HEAD"
        # aiohttp's parser counts the last field of a trailer among the next request's headers: no next one after chunks.
        self.keep_alive = not (message.should_close or message.chunked or message.upgrade)

    @property
    def gone(self) -> bool:
        """The client's connection is closed or closing."""
        transport = self._connection.transport
        return transport is None or transport.is_closing()

    @property
    def paused(self) -> bool:
        """The client does not read as fast as we write: write no more than what has already come."""
        return self.stalled_since is not None

    def whole(self, status: int, head: str, body: bytes) -> None:
        """Send a complete answer in one write. `head` is lines, as `headers.lines` makes them."""
        data = self._head_bytes(status, head, f"Content-Length: {len(body)}\r\n")
        self.head_sent = True
        self._leave(data if self._bodiless else data + body, self._not_recorded)

    def begin(self, status: int, head: str) -> None:
        """Prepare a stream. Nothing leaves yet: its head goes out with the first bytes."""
        if not self._http11:
            self.keep_alive = False
        framing = "Transfer-Encoding: chunked\r\n" if self._http11 else ""
        self._head = self._head_bytes(status, head, framing)

    def send(self, data: bytes) -> None:
        """Send a piece of a stream, framed as one chunk."""
        size = len(data)
        if size > LARGE:
            self._send_large(data)
        elif self._head is not None:
            self._transmit(self._take_head() + self._chunk(data))
        elif (transport := self._connection.transport) is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (size, data) if self._http11 else data)

    def _send_large(self, data: bytes) -> None:
        """The same, without making another one of it. `writelines` would in Python 3.11, and in 3.12 before 3.12.9 and 3.13
        before 3.13.2 it takes any amount for a client that does not read (CVE-2024-12254)."""
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            before, behind = (b"%x\r\n" % len(data), b"\r\n") if self._http11 else (b"", b"")
            if before := self._take_head() + before:
                transport.write(before)
            transport.write(data)
            if behind:
                transport.write(behind)

    def end(self, data: bytes = b"", otherwise: Callable[[MuxxError], bytes] | None = None) -> None:
        """Send the stream's last bytes and its end, in one write; `otherwise` makes the error event where they cannot be."""
        piece = self._chunk(data) if data else b""
        last = self._take_head() + piece + (b"0\r\n\r\n" if self._http11 else b"")
        self._leave(last, partial(self._cut, otherwise))

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

    def _head_bytes(self, status: int, head: str, framing: str) -> bytes:
        if self._connection.draining() or self._connection.owed:  # nobody waits for a body that is not wanted any more
            self.keep_alive = False
        end = _KEEP if self.keep_alive and self._http11 else "Connection: keep-alive\r\n\r\n" if self.keep_alive else _CLOSE
        return f"{_first_lines(status, int(time.time()))}{framing}{head}{end}".encode("latin-1", "replace")

    def _leave(self, data: bytes, failed: Callable[[MuxxError], None]) -> None:
        """Send the end of an answer, behind its row. One that may not go out at a stroke goes at once: it has to be known whether
        the client takes it."""
        transport, outbox = self._connection.transport, self._connection.outbox
        if transport is None or (len(data) <= LARGE and not transport.get_write_buffer_size()):
            outbox.put(self._transmit, data, failed)
            return
        try:
            outbox.write_now()
        except MuxxError as error:
            failed(error)
        else:
            self._transmit(data)

    def _not_recorded(self, error: MuxxError) -> None:
        self.head_sent = False
        self._connection.refuse(self, error)

    def _cut(self, otherwise: Callable[[MuxxError], bytes] | None, error: MuxxError) -> None:
        """A stream that is not recorded must not look whole."""
        self.keep_alive = False
        data = self._take_head() + self._chunk(otherwise(error)) if otherwise is not None else b""
        self._transmit(data + (b"0\r\n\r\n" if self._http11 else b""))
        if self._connection.transport is not None:
            self._connection.transport.close()

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
        """Drop the connection at once. Where its end is that of the answer, as in HTTP/1.0, it is reset, or the answer would look
        whole."""
        self.keep_alive = False
        transport = self._connection.transport
        if transport is not None:
            if self.head_sent and not self._http11 and not transport.is_closing():
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            transport.abort()

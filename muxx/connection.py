"""A client's connection: aiohttp's parser, keep-alive and back-pressure, and a serving loop of our own.

aiohttp's loop makes a task, a request object and a writer per request. This one serves a connection's requests one after the
other in the connection's own task, which is cancelled when the client goes; and it keeps a time limit for each head.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from .answer import Answer
from .errors import InvalidRequest, MuxxError

if TYPE_CHECKING:
    from .config import ServerConfig

LINGER_SECONDS = 2.0
"""How long an unread request body is drained before its connection closes."""

SEND_BUFFER = 128 * 1024
"""Bytes of kernel buffer per client, so that one who does not read holds little."""

_TARGET = re.compile(rb"(?:[A-Z]+ )?(?:/|https?://)", re.IGNORECASE)

Serve = Callable[["Connection", RawRequestMessage, StreamReader, Answer], Awaitable[None]]
Refuse = Callable[[Answer, MuxxError], None]


class Connection(RequestHandler):
    """One client connection. `draining()` says whether the service wants connections to end."""

    __slots__ = ("_body", "_head_seconds", "_head_timer", "_refuse", "_serve", "answer", "draining", "remote")

    def __init__(self, manager: ConnectionServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._serve = manager.serve
        self._refuse = manager.refuse
        self._head_seconds = manager.head_seconds
        self.draining = manager.draining
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None
        self.answer: Answer | None = None
        self.remote: str | None = None

    # The loop.

    async def start(self) -> None:
        """Serve requests until either side has had enough."""
        try:
            while not self._force_close and await self._serve_next():
                self._rest()
        finally:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _serve_next(self) -> bool:
        """Wait for one request and answer it; whether the connection may carry another."""
        if not self._messages:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        if not isinstance(message, RawRequestMessage):
            self._refuse(Answer(self, None), _parser_error(message.exc))
            return False
        self._request_in_progress = True
        self._body = payload
        answer = Answer(self, message)
        if message.chunked:
            answer.close_after()  # aiohttp's parser counts the last field of a trailer among the next request's headers
        try:
            await self._serve(self, message, payload, answer)
        finally:
            self._request_in_progress = False
            self.answer = None
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        if not payload.is_eof():
            await self._linger(payload)
            return False
        return answer.keep_alive and not message.upgrade and not self._close

    async def _linger(self, payload: StreamReader) -> None:
        """Take what is still sent of a request body nobody wants, so that the client gets to read its answer."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not payload.at_eof():
                    await payload.readany()
        except Exception:
            return

    def _rest(self) -> None:
        """Between two requests: the connection may idle for so long."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    # Events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        peer = transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else None
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """A half-closed client counts as gone. asyncio closes its connection, but first waits for what it does not read."""
        if self.answer is not None and self.answer.paused and self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._break_body()
        if self._messages or self._request_in_progress:
            self._stop_waiting()
        elif self._head_timer is None and data:
            self._await_head()

    def _break_body(self) -> None:
        """What cannot be parsed ends the body before it: no more of that will come, and the parser does not tell its reader."""
        newest, _ = self._messages[-1]
        if isinstance(newest, RawRequestMessage):
            return
        body = self._messages[-2][1] if len(self._messages) > 1 else self._body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(newest.exc)

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._head_seconds, self._head_late)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        """A head that does not come: the connection is not kept for it."""
        self._head_timer = None
        if not self._request_in_progress:
            self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.answer is not None:
            self.answer.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.answer is not None:
            self.answer.resume_writing()


def _parser_error(exc: BaseException) -> MuxxError:
    """The parser's refusal in our words. Only its text tells a long target from a long header, and many from a bad one."""
    if isinstance(exc, LineTooLong):
        if _TARGET.match(bytes(exc.args[0])):
            return InvalidRequest("The request target is too long.", status=414, code="uri_too_long")
        return InvalidRequest("A header is too long.", status=431, code="headers_too_large")
    if "Too many headers" in str(exc):
        return InvalidRequest("There are too many headers.", status=431, code="headers_too_large")
    return InvalidRequest("The request is not well-formed HTTP/1.1.", code="malformed_http")


class ConnectionServer(web.Server):
    """aiohttp's server, making our connections and handing their requests to `serve`."""

    def __init__(self, server: ServerConfig, serve: Serve, refuse: Refuse, draining: Callable[[], bool]) -> None:
        super().__init__(
            _unused,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=server.keepalive_timeout_s,
            max_line_size=server.max_header_bytes,
            max_field_size=server.max_header_bytes,
            max_headers=server.max_headers,
            auto_decompress=False,
        )
        self.serve = serve
        self.refuse = refuse
        self.draining = draining
        self.head_seconds = server.head_timeout_s

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    """aiohttp wants a handler; our connections never call it."""
    raise AssertionError

"""A client's connection: aiohttp's parser, keep-alive and back-pressure, and a serving loop of our own.

aiohttp's loop makes a task, a request object and a writer per request. This one serves a connection's requests one after the
other in the connection's own task, which is cancelled when the client goes; and it keeps a time limit for each head.
"""

from __future__ import annotations

import asyncio
import re
import select
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from .answer import Answer
from .errors import InvalidRequest, MuxxError
from .incoming import KnownHead, KnownHeads
from .wire.wires import format_at

if TYPE_CHECKING:
    from .config import ServerConfig
    from .outbox import Outbox
    from .targets import Format

LINGER_SECONDS = 2.0
"""How long an unread request body is drained before its connection closes."""

SEND_BUFFER = 128 * 1024
"""Bytes of kernel buffer per client, so that one who does not read holds little. The listening socket brings it."""

WATCH_SECONDS = 0.25
"""How soon the leaving of a client is noticed that had sent more than is read meanwhile."""

EAGERLY: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}

LOST = -1

OPENING_BYTES = 64
"""Of a head that may turn out to be none: its method, and as much of its target as tells one format from another."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ ", re.IGNORECASE)

Serve = Callable[["Connection", RawRequestMessage | KnownHead, StreamReader | bytes, Answer], Awaitable[None]]
Refuse = Callable[[Answer, MuxxError], None]


class Connection(RequestHandler):
    """One client connection. `draining()` says whether the service wants connections to end."""

    __slots__ = (
        "_begun", "_body", "_head_seconds", "_head_timer", "_left", "_opening", "_serve", "_watch",
        "answer", "draining", "followed", "head", "heads", "known", "outbox", "refuse", "remote",
    )  # fmt: skip

    def __init__(self, manager: ConnectionServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._serve = manager.serve
        self.refuse = manager.refuse
        self.outbox = manager.outbox
        self._head_seconds = manager.head_seconds
        self.draining = manager.draining
        self.heads = manager.heads
        self._head_timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._left = 0
        """Bytes until the parser is between two requests; `LOST` when that is not known."""
        self._opening = b""
        """What the head begins with that the parser has not read to its end, where that is known."""
        self._begun = False
        """A head has begun to come while a request was under way."""
        self.followed: RawRequestMessage | None = None
        """The last message whose head is known by its bytes, `head`: it came in one piece."""
        self.head = b""
        self.answer: Answer | None = None
        self.remote: str | None = None
        self.known: KnownHead | None = None
        """The last head and what was learnt of it."""

    @property
    def waits(self) -> bool:
        """Nothing is under way on it: it has had its answers, and no whole request has come since."""
        return self._waiter is not None and not self._waiter.done() and not self._force_close

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The one that serves this connection."""
        return self._task_handler

    @property
    def owed(self) -> bool:
        """Some of the request's body has not come yet."""
        return not self._body.is_eof()

    # The loop.

    async def start(self) -> None:
        """Serve requests until either side has had enough."""
        try:
            while not self._force_close:
                if not self._messages:
                    if self._begun and self._head_timer is None:
                        self._await_head()
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                message: Any
                payload: Any
                message, payload = self._messages.popleft()
                if type(message) is KnownHead:
                    answer = Answer(self, message.message)
                    self._body = EMPTY_PAYLOAD
                elif type(message) is RawRequestMessage:
                    answer = Answer(self, message)
                    self._body = payload
                    self._consumed()
                else:
                    self._refuse_unreadable(message)
                    return
                self._request_in_progress = True
                serving = self._serve(self, message, payload, answer)
                del message, payload  # what is no longer needed of them goes while the request runs, which may take minutes
                try:
                    await serving
                finally:
                    self._request_in_progress = False
                    self.answer = None
                    if self._handler_waiter is not None and not self._handler_waiter.done():
                        self._handler_waiter.set_result(None)
                if self.owed:
                    await self._linger(self._body)
                    return
                if not answer.keep_alive or self._close:
                    return
                if self._messages:  # requests in a row: what answers the next one at once is not to overtake this
                    self.outbox.flush()
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if self._keepalive_handle is None:
                    self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        finally:
            self._task_handler = None
            if self.transport is not None:
                self.outbox.flush()
                self.transport.close()

    def _refuse_unreadable(self, error: BaseException) -> None:
        """Tell a client that what it sent is no request, in the format of the endpoint that was meant."""
        answer = Answer(self, None)
        answer.format = _format_of(self._opening)
        self.refuse(answer, _parser_error(error))

    def _consumed(self) -> None:
        """Room for another request in the parser's queue."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _linger(self, payload: StreamReader) -> None:
        """Take what is still sent of a request body nobody wants, so that the client gets to read its answer."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not payload.at_eof():
                    await payload.readany()
        except Exception:
            return

    # Events.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As aiohttp's, but for the options of the socket: loop and listener have set them, and each costs two system calls."""
        self.transport = cast(asyncio.Transport, transport)
        manager, loop = self._manager, self._loop
        assert manager is not None
        manager.connection_made(self, self.transport)
        self._next_keepalive_close_time = close_time = loop.time() + self._keepalive_timeout
        self._keepalive_handle = loop.call_at(close_time, self._process_keepalive)
        self._task_handler = asyncio.Task(self.start(), loop=loop, **EAGERLY)
        peer = transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else None
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The task that serves the client ends, unless others wait for what it is about."""
        self._stop_waiting()
        self._stop_watching()
        answer = self.answer
        if answer is not None and answer.on_gone is not None and answer.on_gone():
            self._task_handler = None
        super().connection_lost(exc)
        # They know us, and megabytes of heads would wait for the garbage collector, which counts objects.
        self.answer = self.known = self.followed = None
        self._body = EMPTY_PAYLOAD

    def eof_received(self) -> None:
        """A half-closed client counts as gone. asyncio closes its connection, but first waits for what it does not read."""
        if self.answer is not None and self.answer.paused and self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """As aiohttp's, without its ways for other protocols: what follows an Upgrade is dropped, for none is served here."""
        if self._force_close or self._close or self._upgraded or self._parser is None:
            return
        if self._left == 0 and not self._request_in_progress and not self._messages:
            known = self.known or self._begun_like_others(data)
            body = known.body_of(data) if known is not None else None
            if body is not None:
                self._messages.append(cast(Any, (known, body)))
                self._wake()
                return
        if self._left == 0:
            self._opening = data[:OPENING_BYTES]
        elif 0 < len(self._opening) < OPENING_BYTES:
            self._opening += data[:OPENING_BYTES]
        messages: Any
        owed = self.owed or bool(self._messages)
        try:
            messages, self._upgraded, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._break_body(error)
            messages = ((error.with_traceback(None), EMPTY_PAYLOAD),)  # else it would hold what it was found in, and that it
        else:
            if messages:
                self._opening = b""
        self._begun = self._follow(data, messages) or bool(data and not messages and not owed)
        if messages:
            self._messages.extend(messages)
            self._wake()
            if len(self._messages) >= self._max_msg_queue_size and not self._buffer_paused:
                self._pause_reading_for_buffer()
        if self._head_timer is not None:
            if messages or self._request_in_progress:
                self._stop_waiting()
        elif data and not messages and not self._request_in_progress and not self._messages:
            self._await_head()

    def _wake(self) -> None:
        """Have the loop take what has come. A new connection's first bytes can come before its loop begins."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begun_like_others(self, data: bytes) -> KnownHead | None:
        """A new connection's head, where another one has begun with the same."""
        known = self.known = self.heads.find(data) if self._head_timer is not None else None
        if known is not None:
            self._stop_waiting()
        return known

    def _follow(self, data: bytes, messages: Any) -> bool:
        """Keep count of where the parser stands: True when that is known to be in a head. In any doubt the count is lost for
        good, and all of the connection goes through the parser.

        A head is counted only if it and the parser's reading of it have the same number of lines, so that it can neither begin
        before the parser's nor end behind it.
        """
        if self._left > 0 and not messages:
            self._left -= len(data)
            return self._left < 0
        if self._left == 0 and len(messages) == 1 and type(messages[0][0]) is RawRequestMessage and not messages[0][0].chunked:
            message, payload = messages[0]
            end = data.find(b"\r\n\r\n") + 4
            head, lines = data[:end], len(message.raw_headers) + 2
            length = int(message.headers.get("Content-Length", 0))
            exact = end > 3 and head.count(b"\r\n") == head.count(b"\n") == lines and not message.upgrade
            self._left = end + length - len(data) if exact and payload.is_eof() == (end + length == len(data)) else LOST
            if self._left != LOST:
                self.followed, self.head = message, head
            return exact and end + length < len(data)
        if data:
            self._left = LOST
        return False

    def resume_reading(self, resume_parser: bool = True) -> None:
        """A body that has been read asks for more whether or not it had asked for less; aiohttp would parse nothing for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _pause_transport_reading(self) -> None:
        """asyncio tells nothing of a client whose bytes are not read, not even that it has gone: that is looked for."""
        super()._pause_transport_reading()
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._look_for_client)

    def _resume_transport_reading(self) -> None:
        self._stop_watching()
        super()._resume_transport_reading()

    def _look_for_client(self) -> None:
        self._watch = None
        transport = self.transport
        if transport is None:
            return
        if _has_hung_up(transport.get_extra_info("socket").fileno()):
            transport.abort()
        else:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._look_for_client)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _break_body(self, error: HttpProcessingError) -> None:
        """What cannot be parsed ends the body before it: no more of that will come, and the parser does not tell its reader."""
        body = self._messages[-1][1] if self._messages else self._body
        if not body.is_eof() and body.exception() is None:
            body.set_exception(error)

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


def _has_hung_up(fd: int) -> bool:
    """Whether the peer has closed, half-closed or reset its connection, whatever of it is still to be read."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))  # where there is none, the others tell: they need not be asked for
    return bool(poll.poll(0))


def _format_of(opening: bytes) -> Format:
    """The format of whoever sent what begins so and is no request, as far as its target tells."""
    _, _, target = opening.partition(b" ")
    return format_at(target.decode("latin-1"), {})


def _parser_error(exc: BaseException) -> MuxxError:
    """The parser's refusal in our words. Only its text tells many headers from a bad one."""
    if isinstance(exc, LineTooLong):
        if _is_target(exc.args[0]):
            return InvalidRequest("The request target is too long.", status=414, code="uri_too_long")
        return InvalidRequest("A header is too long.", status=431, code="headers_too_large")
    if "Too many headers" in str(exc):
        return InvalidRequest("There are too many headers.", status=431, code="headers_too_large")
    return InvalidRequest("The request is not well-formed HTTP/1.1.", code="malformed_http")


def _is_target(too_long: Any) -> bool:
    """Whether what was too long is a target, or a header. aiohttp's C parser tells of either by itself, and gathers only targets
    in a bytearray; its other one tells the line, of which a header's begins with a name and a colon."""
    if HttpRequestParser is not HttpRequestParserPy:
        return isinstance(too_long, bytearray)
    return _REQUEST_LINE.match(too_long) is not None


class ConnectionServer(web.Server):
    """aiohttp's server, making our connections and handing their requests to `serve`.

    Beyond `most` connections each new one costs one that waits for a request: clients that keep theirs open and idle, or never
    send a request, must not take the files that those need who do.
    """

    def __init__(
        self,
        server: ServerConfig,
        serve: Serve,
        refuse: Refuse,
        draining: Callable[[], bool],
        outbox: Outbox,
        heads: KnownHeads,
        most: int,
    ) -> None:
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
        self.outbox = outbox
        self.head_seconds = server.head_timeout_s
        self.heads = heads
        self._most = most

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        """Close the oldest connection that waits. Where none does, those there are will be closed with their answers or time."""
        for connection in self._connections:
            if isinstance(connection, Connection) and connection.waits:
                connection.force_close()
                return

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    """aiohttp wants a handler; our connections never call it."""
    raise AssertionError

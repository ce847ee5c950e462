"""The lean transport: a pool of plain asyncio protocols on httptools' parser (llhttp, as aiohttp's).

Bytes reach the sink in the same loop step in which they were read. It knows TLS with the system's authorities, and no proxies.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

from httptools import HttpResponseParser
from yarl import URL

from .errors import MuxxError, UpstreamDisconnected, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from .targets import Attempt
from .transport import IDLE_SECONDS, RECEIVE_BUFFER, Sink, UpstreamResponse

if TYPE_CHECKING:
    from .outbox import Outbox

MAX_IDLE = 256

MAX_INTERIM = 8
"""1xx responses borne before one answer."""

MAX_HEAD_BYTES = 16 * 1024
MAX_LINE_BYTES = 8190
MAX_HEADERS = 128


class Origin(NamedTuple):
    host: str
    port: int
    tls: bool


@lru_cache(maxsize=512)
def _destination(url: str) -> tuple[Origin, str]:
    """The connection's origin and the first lines of the request."""
    parsed = URL(url)
    if parsed.scheme not in ("http", "https") or parsed.host is None or parsed.port is None:
        raise UpstreamUnreachable("The provider's base_url is not an http(s) URL. Mend it in the configuration.")
    origin = Origin(parsed.host, parsed.port, parsed.scheme == "https")
    return origin, f"POST {parsed.raw_path_qs} HTTP/1.1\r\nHost: {parsed.host_port_subcomponent}\r\n"


def _head(first_lines: str, headers: Mapping[str, str]) -> bytes:
    """The request's head but for the length of its body; clients and keys repeat, so it mostly is one that was made before. A
    large one is not kept for that: callers decide what is in it."""
    pairs = tuple(headers.items())
    return _head_kept(first_lines, pairs) if sum(map(len, headers.values())) <= MAX_HEAD_BYTES else _head_of(first_lines, pairs)


def _head_of(first_lines: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    head = first_lines + "".join([f"{name}: {value}\r\n" for name, value in headers])
    # One count finds a line break smuggled in by any header value, whichever plugin wrote it.
    breaks = len(headers) + 2
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise UpstreamError("A header for the provider holds a control character. Mend the plugin or row that sets it.")
    return head.encode("utf-8", "surrogateescape")


_head_kept = lru_cache(maxsize=1024)(_head_of)


@lru_cache(maxsize=256)
def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


class LeanConnection(asyncio.Protocol):
    """One upstream connection. Idle, or carrying exactly one request; bytes that come while idle close it.

    The methods `on_…` are the parser's callbacks. The parser, llhttp, is strict; what it does not bound is bounded here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox | None = None) -> None:
        self._loop = loop
        self._outbox = outbox
        self._pieces: list[bytes] = []
        """What has come of the body and was not handed on."""
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.reusable = True
        self.idle_since = 0.0
        self.rest()

    def rest(self) -> None:
        """Become idle: anything that comes now is an answer nobody asked for, and what nobody took of the last one is gone."""
        self._pieces.clear()
        self._head: asyncio.Future[int] | None = None
        self._done: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._feed: Callable[[bytes], None] | None = None
        """The sink's, while the body may go on."""
        self._failure: MuxxError | None = None
        self.idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # TCP_NODELAY has been set by the loop

    def start(self, data: bytes) -> asyncio.Future[int]:
        """Write one request; the future brings the status of its answer, whose `headers` are then known."""
        assert self.transport is not None
        self.headers: dict[str, str] = {}
        self._head_bytes = self._interim = self._trailers = self._trailer_bytes = 0
        self._head_read = False
        self.finished = False
        """The answer was read to its end."""
        self._head = head = self._loop.create_future()
        if self._outbox is None:
            self.transport.write(data)
        else:
            self._outbox.put(self._write, data, self._fail)
        return head

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        feed, pieces = self._feed, self._pieces
        if feed is None and not self._is_expected(data):
            return
        try:
            self._parser.feed_data(data)
        except Exception:
            self._fail(UpstreamProtocolError())
            return
        if feed is not None and len(pieces) == 1 and not self.finished:  # a piece of a stream, which nearly everything is
            feed(pieces.pop())
        elif self._sink is not None:
            self._deliver()

    def _is_expected(self, data: bytes) -> bool:
        """Whether these bytes may be of the answer; otherwise the connection is of no more use."""
        head = self._head
        if head is None or self.finished:
            self.abort()  # an answer nobody asked for, or more than one
            return False
        if not head.done() and not self._is_bounded(data):
            self._fail(UpstreamProtocolError())
            return False
        return True

    @property
    def answering(self) -> bool:
        """Bytes of the answer have come."""
        return self._head_bytes > 0

    def _is_bounded(self, data: bytes) -> bool:
        """No head is longer than this, neither in pieces nor in one, and no status line than that."""
        self._head_bytes += len(data)
        before = self._head_bytes - len(data)
        has_line = before > 0 or len(data) <= MAX_LINE_BYTES or b"\n" in data[:MAX_LINE_BYTES]
        return before <= MAX_HEAD_BYTES and has_line

    def on_message_begin(self) -> None:
        if self._head is None or self._head.done():
            raise UpstreamProtocolError()  # a second answer, or the first bytes of one

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_read:
            self._bound_trailer(len(name) + len(value))
        else:
            self.headers[_name(name)] = value.decode("latin-1")

    def _bound_trailer(self, size: int) -> None:
        """Fields behind the body say nothing of the answer to anybody, and are no longer than a head."""
        self._trailer_bytes += size
        self._trailers += 1
        if self._trailers > MAX_HEADERS or self._trailer_bytes > MAX_HEAD_BYTES:
            raise UpstreamProtocolError()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            self.headers = {}
            if status < 100 or status == 101 or self._interim > MAX_INTERIM:
                raise UpstreamProtocolError()
            return
        if len(self.headers) > MAX_HEADERS or sum(map(len, self.headers.values())) > MAX_HEAD_BYTES:
            raise UpstreamProtocolError()
        self.reusable = self._parser.should_keep_alive()
        self._head_read = True
        assert self._head is not None
        self._head.set_result(status)

    def on_message_complete(self) -> None:
        head = self._head
        if head is not None and head.done():
            self.finished = True
            self._feed = None

    @property
    def at_rest(self) -> bool:
        """Its answer was read to its end, and its request is written to its end too: a provider that answers before it has read
        all of one may never read the rest, nor anything behind that."""
        transport = self.transport
        return self.finished and self.reusable and transport is not None and not transport.get_write_buffer_size()

    def body_now(self) -> bytes | None:
        return self._taken() if self.finished else None

    def _taken(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def _deliver(self) -> None:
        """Note the end, and hand what has come to the sink, which may look whether that is the end."""
        if self.finished and self._done is not None and not self._done.done():
            self._done.set_result(None)
        if self._pieces and self._sink is not None:
            self._sink.feed(self._taken())

    def pump(self, sink: Sink) -> asyncio.Future[None]:
        self._sink = sink
        self._done = done = self._loop.create_future()
        self._deliver()
        if self._failure is not None and not done.done():
            done.set_exception(self._failure)
        if not done.done():
            self._feed = sink.feed
        return done

    def eof_received(self) -> None:
        """The end of the connection is the end of a body only where nothing else says how long that is."""
        head = self._head
        self.reusable = False
        if head is not None and head.done() and not self.finished and self._ends_with_connection():
            self.finished = True
            self._feed = None
            self._deliver()

    def _ends_with_connection(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self.reusable = False
        if self._head is not None and not self.finished:
            self._fail(UpstreamDisconnected())
        self._sink = self._feed = None

    def _fail(self, error: MuxxError) -> None:
        """Only the first failure is told: what follows from it, like the connection's loss, is not."""
        if self._failure is not None:
            return
        self._failure = error
        self.abort()
        for future in (self._head, self._done):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it still gets it; a call nobody waits for any more logs nothing

    def abort(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()


class LeanResponse:
    """`UpstreamResponse` over a `LeanConnection`, which goes back to the pool when its body has been read."""

    __slots__ = ("_attempt", "_closed", "_connection", "_origin", "_pool", "_reading_paused", "headers", "status")

    def __init__(
        self, pool: LeanTransport, origin: Origin, connection: LeanConnection, attempt: Attempt, status: int
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = connection.headers
        self._pool = pool
        self._origin = origin
        self._connection = connection
        self._attempt = attempt
        self._closed = False
        self._reading_paused = False

    def body_now(self) -> bytes | None:
        return self._connection.body_now()

    def pump(self, sink: Sink) -> asyncio.Future[None]:
        return self._connection.pump(sink)

    def pause(self) -> None:
        transport = self._connection.transport
        if transport is not None and not self._reading_paused:
            self._reading_paused = True
            transport.pause_reading()

    def resume(self) -> None:
        transport = self._connection.transport
        if transport is not None and self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connection.at_rest and not self._attempt.surplus:
            self.resume()
            self._pool.give_back(self._origin, self._connection)
        else:
            self._connection.abort()


class LeanTransport:
    """A pool of `LeanConnection`s per origin; the last one given back is the first one used."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        """Requests leave by the `outbox`, behind their traces; without one, at once."""
        self._outbox = outbox
        self._idle: dict[Origin, deque[LeanConnection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        origin, first_lines = _destination(attempt.url)
        head, payload = _head(first_lines, attempt.headers), attempt.payload
        idle = self._idle.get(origin)
        # Where one idle connection had been closed unnoticed, the others have too: a replay gets a new one.
        connection = self._take(idle) if idle and not attempt.replays else None
        attempt.reused = connection is not None
        if connection is None:
            if self._outbox is not None:
                self._outbox.write_now()
            connection = await self._connect(origin, attempt.target.timeouts.connect)
        attempt.sent = True
        try:
            status = await connection.start(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(payload), payload))
        except BaseException:
            attempt.answering = connection.answering
            connection.abort()
            raise
        return LeanResponse(self, origin, connection, attempt, status)

    def _take(self, idle: deque[LeanConnection]) -> LeanConnection | None:
        oldest = time.monotonic() - IDLE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.reusable and connection.transport is not None and not connection.transport.is_closing():
                if connection.idle_since >= oldest:
                    return connection
                connection.abort()
        return None

    async def _connect(self, origin: Origin, seconds: float) -> LeanConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                tls = self._context() if origin.tls else None
                _, connection = await loop.create_connection(
                    lambda: LeanConnection(loop, self._outbox), origin.host, origin.port, ssl=tls
                )
        except (OSError, TimeoutError, UnicodeError) as error:
            raise UpstreamUnreachable() from error
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def give_back(self, origin: Origin, connection: LeanConnection) -> None:
        connection.rest()
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = deque()
        idle.append(connection)
        if len(idle) > MAX_IDLE or idle[0].transport is None:
            idle.popleft().abort()

    async def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets

"""Transports: the only outward sockets. Each turns an `Attempt` into an `UpstreamResponse` whose body is pushed into a sink.

Two speak HTTP, behind one interface and under the same tests. `LeanTransport` is a pool of plain asyncio protocols on aiohttp's
own response parser: bytes reach the sink in the same loop step in which they were read. `AiohttpTransport` is aiohttp's client:
complete, with proxies and private CAs, and slower. `HttpTransports` picks one per provider.

What holds for both: a redirect is never followed; a connection is used again only when its last answer was read to its end and
nothing came after it; a cancelled or failed call closes its connection at once; bodies come as the provider encoded them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from .errors import UpstreamDisconnected, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from .exchange import Attempt, Provider


class Sink(Protocol):
    """Where a response's body goes. `feed` must not block; it may call `pause()` on the response that feeds it."""

    def feed(self, data: bytes) -> None: ...


class UpstreamResponse(Protocol):
    """The head of a provider's answer, and the means to have its body pushed. `headers` is asked with lower-case names."""

    status: int
    headers: Mapping[str, str]

    async def pump(self, sink: Sink) -> None:
        """Push the body into `sink` until its clean end; `UpstreamDisconnected` or `UpstreamProtocolError` when there is none."""

    def pause(self) -> None:
        """Stop reading from the provider."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Let go of the response. Unless its body was read to the end, the connection is closed at once. Idempotent."""


class Transport(Protocol):
    """Carries attempts to providers. Outside plugins may bring their own (`register_providers`)."""

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        """Send and wait for the head. Sets `attempt.sent`; raises a `UpstreamError` of the fitting kind."""

    async def close(self) -> None: ...


RECEIVE_BUFFER = 128 * 1024
"""Bytes of kernel buffer per upstream connection, so that a paused stream holds little."""

IDLE_SECONDS = 20.0
"""Idle connections older than this are not used again: below the shortest keep-alive of the big providers."""

MAX_IDLE = 256
WATCH_SECONDS = 0.5
"""How soon a connection of aiohttp's client that ended without telling its reader is noticed."""

MAX_INTERIM = 8
"""1xx responses borne before one answer."""


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


def _request_head(first_lines: str, attempt: Attempt) -> bytes:
    lines = "".join(map("%s: %s\r\n".__mod__, attempt.headers.items()))
    head = f"{first_lines}{lines}Content-Length: {len(attempt.payload)}\r\n\r\n"
    # One count finds a line break smuggled in by any header value, whichever plugin wrote it.
    breaks = len(attempt.headers) + 4
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise UpstreamError("A header for the provider holds a control character. Mend the plugin or row that sets it.")
    return head.encode("utf-8", "surrogateescape")


class LeanConnection(BaseProtocol):
    """One upstream connection. Idle, or carrying exactly one request; bytes that come while idle close it."""

    __slots__ = ("_done", "_head", "_interim", "_payload", "_sink", "idle_since", "reusable", "served")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: asyncio.Future[RawResponseMessage] | None = None
        self._done: asyncio.Future[None] | None = None
        self._payload: StreamReader | None = None
        self._sink: Sink | None = None
        self._interim = 0
        self._parser = HttpResponseParser(
            self, loop, 2**30, read_until_eof=True, auto_decompress=False, max_line_size=8190, max_field_size=16384
        )
        self.reusable = True
        self.served = 0
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def pause_reading(self) -> None:
        """aiohttp's reader would stop and restart the parser by itself; here the response pauses the transport instead."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See `pause_reading`: without this, taking bytes from the reader would re-enter the parser."""

    def start(self, data: bytes) -> asyncio.Future[RawResponseMessage]:
        """Write one request; the future brings the head of its answer."""
        assert self.transport is not None
        self._payload = self._sink = self._done = None
        self._interim = 0
        self.served += 1
        self._head = self._loop.create_future()
        self.transport.write(data)
        return self._head

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self.abort()  # an answer nobody asked for
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(data)  # type: ignore[union-attr]
        except Exception:
            self._fail(UpstreamProtocolError())
            return
        for message, payload in messages:
            if not self._take_message(message, payload, upgraded):
                return
        self._deliver()

    def _take_message(self, message: RawResponseMessage, payload: Any, upgraded: bool) -> bool:
        head = self._head
        assert head is not None
        if 100 <= message.code < 200 and not upgraded and self._interim < MAX_INTERIM:
            self._interim += 1
            return True
        if head.done() or upgraded or message.code < 200:
            self._fail(UpstreamProtocolError())  # a second answer, a switch of protocols, or endless 1xx
            return False
        self.reusable = not message.should_close
        self._payload = payload
        head.set_result(message)
        return True

    def _deliver(self) -> None:
        """Hand what has come to the sink; note the end."""
        payload = self._payload
        if payload is None or self._sink is None:
            return
        if payload is not EMPTY_PAYLOAD:
            error = payload.exception()
            if error is not None:
                self._fail(UpstreamProtocolError())
                return
            data = payload.read_nowait(-1)
            if data:
                self._sink.feed(data)
        if payload.is_eof() and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def pump(self, sink: Sink) -> None:
        self._sink = sink
        self._done = self._loop.create_future()
        self._deliver()
        if not self._done.done() and self.transport is None:
            raise UpstreamDisconnected()
        await self._done

    @property
    def finished(self) -> bool:
        """The answer was read to its end."""
        return self._done is not None and self._done.done() and not self._done.cancelled() and self._done.exception() is None

    def eof_received(self) -> None:
        if self._payload is not None and not self._payload.is_eof():
            try:
                self._parser.feed_eof()  # type: ignore[union-attr]
            except Exception:
                self._fail(UpstreamDisconnected())
                return
            self._deliver()
        self.reusable = False

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._payload is not None and self._payload.is_eof() and exc is None:
            self._deliver()
        super().connection_lost(exc)
        self._fail(UpstreamDisconnected())
        self._sink = None

    def _fail(self, error: UpstreamError) -> None:
        self.abort()
        for future in (self._head, self._done):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it still gets it; a call nobody waits for any more logs nothing

    def abort(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    def rest(self) -> None:
        """Become idle: anything that comes now is an answer nobody asked for."""
        self._head = self._done = self._sink = self._payload = None
        self.idle_since = time.monotonic()


class LeanResponse:
    """`UpstreamResponse` over a `LeanConnection`, which goes back to the pool when its body has been read."""

    __slots__ = ("_closed", "_connection", "_origin", "_pool", "_reading_paused", "headers", "status")

    def __init__(self, pool: LeanTransport, origin: Origin, connection: LeanConnection, message: RawResponseMessage) -> None:
        self.status = message.code
        self.headers: Mapping[str, str] = message.headers
        self._pool = pool
        self._origin = origin
        self._connection = connection
        self._closed = False
        self._reading_paused = False

    async def pump(self, sink: Sink) -> None:
        await self._connection.pump(sink)

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
        if self._connection.finished and self._connection.reusable:
            self.resume()
            self._pool.give_back(self._origin, self._connection)
        else:
            self._connection.abort()


class LeanTransport:
    """A pool of `LeanConnection`s per origin; the last one given back is the first one used."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[LeanConnection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        origin, first_lines = _destination(attempt.url)
        head = _request_head(first_lines, attempt)
        connection = self._take(origin)
        attempt.reused = connection is not None
        if connection is None:
            connection = await self._connect(origin, attempt.target.timeouts.connect)
        attempt.sent = True
        answer = connection.start(head + attempt.payload)
        try:
            message = await answer
        except BaseException:
            connection.abort()
            raise
        return LeanResponse(self, origin, connection, message)

    def _take(self, origin: Origin) -> LeanConnection | None:
        idle = self._idle.get(origin)
        oldest = time.monotonic() - IDLE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing() and connection.reusable:
                if connection.idle_since >= oldest:
                    return connection
                connection.abort()
        return None

    async def _connect(self, origin: Origin, seconds: float) -> LeanConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: LeanConnection(loop), origin.host, origin.port, ssl=self._context() if origin.tls else None
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
        idle = self._idle.setdefault(origin, deque())
        connection.rest()
        idle.append(connection)
        while len(idle) > MAX_IDLE or (idle and idle[0].transport is None):
            idle.popleft().abort()

    async def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets


class AiohttpResponse:
    """`UpstreamResponse` over aiohttp's `ClientResponse`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._finished = False
        self._watch: asyncio.TimerHandle | None = None

    async def pump(self, sink: Sink) -> None:
        self._watch_connection()
        try:
            async for data in self._response.content.iter_any():
                sink.feed(data)
                await self._resumed.wait()
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamDisconnected() from error
        finally:
            if self._watch is not None:
                self._watch.cancel()
        self._finished = True

    def _watch_connection(self) -> None:
        """aiohttp closes the connection of a body whose chunks are malformed, but leaves who reads it waiting for ever."""
        connection, content = self._response.connection, self._response.content
        protocol = connection.protocol if connection is not None else None
        if protocol is None or protocol.is_connected():
            self._watch = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch_connection)
        elif not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection ended before the body did"))

    def pause(self) -> None:
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    def close(self) -> None:
        if self._finished:
            self._response.release()
        else:
            self._response.close()


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool hands out a connection on which something came while it was idle, and takes that for the next answer."""

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            connection.close()
        return None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """aiohttp reads ahead of a paused body by what the kernel holds, too."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return made


async def _note_connect(session: Any, context: Any, params: Any) -> None:
    context.trace_request_ctx.reused = False


async def _note_reuse(session: Any, context: Any, params: Any) -> None:
    context.trace_request_ctx.reused = True


async def _note_sent(session: Any, context: Any, params: Any) -> None:
    context.trace_request_ctx.sent = True


def _notes() -> aiohttp.TraceConfig:
    """What aiohttp tells of an attempt while it makes it: the attempt is the request's `trace_request_ctx`."""
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(_note_reuse)
    tracing.on_connection_create_start.append(_note_connect)
    tracing.on_request_headers_sent.append(_note_sent)
    return tracing


def client_session(ca_file: str | None = None, *traces: aiohttp.TraceConfig) -> aiohttp.ClientSession:
    """A session without aiohttp's defaults that do not suit a gateway: total time limit, cookies, 100 connections."""
    tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=tls, socket_factory=_socket),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=True,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        trace_configs=list(traces),
        read_bufsize=64 * 1024,
    )


class AiohttpTransport:
    """aiohttp's client: proxies from the row or the environment, private CAs. One session per CA file."""

    def __init__(self) -> None:
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        provider = attempt.target.provider
        session = self._sessions.get(provider.ca_file)
        if session is None:
            session = self._sessions[provider.ca_file] = client_session(provider.ca_file, _notes())
        try:
            response = await session.post(
                URL(attempt.url, encoded=True),
                data=attempt.payload,
                headers=attempt.headers,
                allow_redirects=False,
                proxy=provider.proxy,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=attempt.target.timeouts.connect),
                trace_request_ctx=attempt,
            )
        except aiohttp.ServerDisconnectedError as error:
            raise UpstreamDisconnected() from error
        except aiohttp.ClientResponseError as error:
            raise UpstreamProtocolError() from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise UpstreamUnreachable() from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise (UpstreamDisconnected() if attempt.sent else UpstreamUnreachable()) from error
        if response.status < 200:
            response.close()
            raise UpstreamProtocolError()
        return AiohttpResponse(response)

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


class HttpTransports:
    """Both, and which one carries a provider: the lean one, except where a proxy or a private CA asks for aiohttp's client, or
    the operator does."""

    def __init__(self, choice: str = "auto") -> None:
        self._choice = choice
        self._lean = LeanTransport()
        self._complete = AiohttpTransport()

    def pick(self, provider: Provider) -> Transport:
        if self._choice == "auto":
            proxied = provider.proxy or provider.ca_file or _environment_proxy(provider.base_url)
            return cast(Transport, self._complete if proxied else self._lean)
        return self._lean if self._choice == "lean" else self._complete

    async def close(self) -> None:
        await self._lean.close()
        await self._complete.close()


def _environment_proxy(url: str) -> str | None:
    """The proxy HTTP_PROXY, HTTPS_PROXY and NO_PROXY mean for this URL."""
    parsed = URL(url)
    if not parsed.host or urllib.request.proxy_bypass(parsed.host):
        return None
    return urllib.request.getproxies().get(parsed.scheme)

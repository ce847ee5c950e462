"""The complete transport: aiohttp's client. It knows proxies, of the row or the environment, and private CAs, and is slower."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from yarl import URL

from .errors import UpstreamDisconnected, UpstreamProtocolError, UpstreamUnreachable
from .targets import Attempt, Provider
from .transport import IDLE_SECONDS, RECEIVE_BUFFER, Sink, UpstreamResponse

WATCH_SECONDS = 0.5
"""How soon a connection of aiohttp's client that ended without telling its reader is noticed."""


class AiohttpResponse:
    """`UpstreamResponse` over aiohttp's `ClientResponse`."""

    def __init__(self, response: aiohttp.ClientResponse, attempt: Attempt) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._attempt = attempt
        self._protocol = response.connection.protocol if response.connection is not None else None
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._finished = False
        self._watch: asyncio.TimerHandle | None = None

    def body_now(self) -> bytes | None:
        return None

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
        if self._was_cut():
            raise UpstreamDisconnected()
        self._finished = True

    def _was_cut(self) -> bool:
        """aiohttp takes a reset, too, for the end of a body of which nothing but the connection's end says how long it is."""
        if self._protocol is None or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            return False
        return isinstance(self._protocol.exception(), OSError)

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
        if self._finished and not self._attempt.surplus:
            self._response.release()
        else:
            self._response.close()


_fresh: ContextVar[bool] = ContextVar("fresh", default=False)
"""Whether the request being made is a replay, which gets a new connection: where one idle one had been closed unnoticed, the
others have too."""


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool hands out a connection on which something came while it was idle, and takes that for the next answer."""

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        if _fresh.get():
            return None
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            connection.close()
        return None


def environment_proxy(url: URL) -> str | None:
    """The proxy HTTP_PROXY, HTTPS_PROXY and NO_PROXY mean for this URL."""
    if not url.host or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


class _Request(aiohttp.ClientRequest):
    """Goes through the proxy that the environment names, where it is given none. aiohttp's own `trust_env` would have it send
    the passwords of the user's `.netrc` to providers and receivers, too."""

    def update_proxy(self, proxy: URL | None, proxy_auth: aiohttp.BasicAuth | None, proxy_headers: Any) -> None:
        named = environment_proxy(self.url) if proxy is None else None
        super().update_proxy(URL(named) if named else proxy, proxy_auth, proxy_headers)


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
        request_class=_Request,
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
        session = self._session(provider)
        before = _fresh.set(attempt.replays > 0)
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
        finally:
            _fresh.reset(before)
        if response.status < 200:
            response.close()
            raise UpstreamProtocolError()
        return AiohttpResponse(response, attempt)

    def _session(self, provider: Provider) -> aiohttp.ClientSession:
        session = self._sessions.get(provider.ca_file)
        if session is None:
            try:
                session = self._sessions[provider.ca_file] = client_session(provider.ca_file, _notes())
            except OSError as error:  # the file was whole when the configuration was read
                raise UpstreamUnreachable() from error
        return session

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

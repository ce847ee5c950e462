"""HTTP in: aiohttp's protocol with the limits and the error format of the wire contract, and the table of endpoints.

Routes are taken from the raw request target, never from a URL rebuilt from it and the Host header, so that no header can change which
route, and so which rule, a request meets.
"""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from .answer import Answer
from .call import Call
from .chains import describe_crash
from .config import Config
from .endpoints import Table
from .errors import InvalidRequest, MuxxError, NotFound, PermissionDenied, RequestTimeout, RequestTooLarge, Unavailable
from .exchange import Exchange, HttpRequest, Reply, Request, Route
from .gateway import Gateway
from .headers import error_headers
from .pipeline import authenticate, carry
from .wire.openai import error_body, request_parts

LINGER_SECONDS = 2.0
"""How long an unread request body is drained before its connection closes."""

SEND_BUFFER = 128 * 1024
MOST_CALLS = 9500
SPARE_FILES = 256

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class Connection(RequestHandler):
    """One client connection. Adds to aiohttp's protocol: a time limit for the head, our error format, and a stream's back-pressure."""

    __slots__ = ("_head_seconds", "_head_timer", "_service", "answer")

    def __init__(self, service: Service, manager: web.Server, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._service = service
        self._head_seconds = service.gateway.config.server.head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self.answer: Answer | None = None

    @property
    def draining(self) -> bool:
        return self._service.draining

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._request_in_progress:
            self._stop_waiting()
        elif self._head_timer is None and data:
            self._await_head()

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

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp's own refusals (its parser's, mostly) in our envelope; the connection closes after each."""
        answer = Answer(self, request)
        answer.close_after()
        error = _parser_error(exc) if status == 400 else MuxxError()
        self._service.refuse(answer, self._service.gateway.ids.next(), error)
        return answer


def _parser_error(exc: BaseException | None) -> MuxxError:
    if isinstance(exc, LineTooLong):
        return InvalidRequest("A header or the request target is too long.", status=431, code="headers_too_large")
    return InvalidRequest("The request is not well-formed HTTP/1.1.", code="malformed_http")


class Server(web.Server):
    """aiohttp's server, making our connections."""

    def __init__(self, service: Service, config: Config) -> None:
        server = config.server
        super().__init__(
            service.handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=server.keepalive_timeout_s,
            max_line_size=server.max_header_bytes,
            max_field_size=server.max_header_bytes,
            max_headers=server.max_headers,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self._service = service

    def __call__(self) -> RequestHandler:
        return Connection(self._service, self, self._loop, **self._kwargs)


class Service:
    """Requests to endpoints, on the gateway of the moment: `gateway` is replaced as a whole when the configuration is reloaded."""

    def __init__(self, gateway: Gateway, writable: Callable[[], bool] = lambda: True) -> None:
        self.draining = False
        self._writable = writable
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_calls = min(MOST_CALLS, (soft - SPARE_FILES) // 2)
        self.use(gateway)

    def use(self, gateway: Gateway) -> None:
        """Serve new requests with this gateway."""
        self.gateway = gateway
        self._table = Table(gateway)

    @property
    def ready(self) -> bool:
        return not self.draining and self._writable()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request. Every path answers, in our format, with a request id."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        answer = Answer(connection, request)
        request_id = self.gateway.ids.next()
        try:
            await self._serve(request, answer, request_id)
        except MuxxError as error:
            self.refuse(answer, request_id, error)
        except Exception as error:
            self.gateway.log.error("request %s failed inside the gateway: %s", request_id, describe_crash(error))
            self.refuse(answer, request_id, MuxxError())
        finally:
            connection.answer = None
        return answer

    async def _serve(self, request: web.BaseRequest, answer: Answer, request_id: str) -> None:
        check_framing(request)
        path, _, query = _raw_target(request).partition("?")
        head = HttpRequest(request.method, path, query, request.headers, request.remote, lambda: self._read_body(request, answer))
        if path == "/v1/chat/completions" and request.method == "POST":
            await self._carry(head, answer, request_id)
            return
        if path in ("/healthz", "/health", "/readyz", "/ready"):
            self._health(path, answer, request_id)
            return
        route, head.params = self._table.find(request.method, path)
        self._reply(answer, request_id, await self._call(route, head))

    async def _carry(self, head: HttpRequest, answer: Answer, request_id: str) -> None:
        gateway = self.gateway
        if len(gateway.calls) >= self._most_calls:
            raise Unavailable()
        request = Request(head)
        request.use_parts(request_parts)
        exchange = Exchange(request_id, "chat", request)
        await carry(Call(gateway, exchange, head, head.body, answer))

    def _health(self, path: str, answer: Answer, request_id: str) -> None:
        good = self.ready if path.startswith("/ready") else True
        self._reply(answer, request_id, Reply.json({"status": "ok" if good else "unavailable"}, 200 if good else 503))

    async def _call(self, route: Route, head: HttpRequest) -> Reply:
        if route.role != "public":
            head.identity = identity = await authenticate(self.gateway, head)
            if route.role == "admin" and identity.role != "admin":
                raise PermissionDenied("This needs an admin key: `muxx keys create --admin` makes one.", code="admin_required")
        reply = await route.handler(self.gateway, head)
        if not isinstance(reply, Reply):
            raise TypeError(f"the handler of {route.path} returned no Reply")
        return reply

    def _reply(self, answer: Answer, request_id: str, reply: Reply) -> None:
        if not isinstance(reply.body, bytes):
            raise TypeError("a route's Reply carries bytes")
        headers = {"Content-Type": reply.content_type, "X-Muxx-Request-Id": request_id, "x-request-id": request_id}
        answer.whole(reply.status, headers | dict(reply.headers), reply.body)

    def refuse(self, answer: Answer, request_id: str, error: MuxxError) -> None:
        """An error of an endpoint that is no LLM call."""
        if answer.head_sent or answer.gone:
            return
        headers = {"Content-Type": "application/json", "X-Muxx-Request-Id": request_id, "x-request-id": request_id}
        answer.whole(error.status, headers | error_headers(error), error_body(error))

    async def _read_body(self, request: web.BaseRequest, answer: Answer) -> bytes:
        """The request body within its limits of size and time. A refused body closes the connection: the rest of it is not read."""
        try:
            return await read_body(request, self.gateway.config)
        except MuxxError:
            answer.close_after()
            raise


def check_framing(request: web.BaseRequest) -> None:
    """Refuse what aiohttp lets in and a strict server does not."""
    if request.version not in (HttpVersion11, HttpVersion10):
        raise InvalidRequest("Only HTTP/1.1 and HTTP/1.0 are served.", status=505, code="http_version_not_supported")
    coding = request.headers.get("Transfer-Encoding")
    if coding is not None:
        if request.version == HttpVersion10:
            raise InvalidRequest("HTTP/1.0 knows no Transfer-Encoding.", code="malformed_http")
        if coding.lower() != "chunked":
            raise InvalidRequest("Only the chunked transfer coding is understood.", status=501, code="not_implemented")
    if request.method in ("GET", "HEAD", "DELETE") and not request.content.at_eof():
        raise InvalidRequest(f"{request.method} takes no body here.", code="malformed_http")
    host = request.headers.get("Host")
    if host is not None and not valid_host(host):
        raise InvalidRequest("The Host header is not a host name.", code="invalid_host")


@lru_cache(maxsize=256)
def valid_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and int(found.group(1) or 0) <= 65535


def _raw_target(request: web.BaseRequest) -> str:
    target = request.raw_path
    if target.startswith("/"):
        return target
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            authority, slash, rest = target[len(scheme) :].partition("/")
            if authority != request.headers.get("Host"):
                raise InvalidRequest("The request target names another host than the Host header.", code="invalid_host")
            return slash + rest
    raise NotFound()


async def read_body(request: web.BaseRequest, config: Config) -> bytes:
    """Read a request body: one step when it has come with its head, else piece by piece under two time limits."""
    headers, server = request.headers, config.server
    coding = headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise InvalidRequest("Send the body without Content-Encoding.", status=415, code="unsupported_content_encoding")
    length = headers.get("Content-Length")
    if length is not None and int(length) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    _continue(request)
    payload = request.content
    if payload.is_eof():
        data = payload.read_nowait(-1)
    else:
        data = await _read_slowly(payload, server.max_body_bytes, server.body_idle_timeout_s, server.body_timeout_s)
    if len(data) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    return data


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes. Send less, or raise [server] max_body_bytes.")


def _continue(request: web.BaseRequest) -> None:
    """Answer an Expect header, only once the request is one we want to read."""
    expect = request.headers.get("Expect")
    if expect is None:
        return
    if expect.strip().lower() != "100-continue":
        raise InvalidRequest("Only `Expect: 100-continue` is understood.", status=417, code="expectation_failed")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _read_slowly(payload: Any, most: int, idle: float, whole: float) -> bytes:
    pieces: list[bytes] = []
    size = 0
    deadline = time.monotonic() + whole
    while not payload.at_eof():
        seconds = min(idle, deadline - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                piece = await payload.readany()
        except TimeoutError:
            raise RequestTimeout("The request body did not arrive in time.") from None
        except Exception:
            raise InvalidRequest("The request body is not well-formed HTTP/1.1.", code="malformed_http") from None
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise _too_large(most)
    return b"".join(pieces)

"""The service: requests to endpoints, each answered in our format with a request id.

Routes are taken from the raw request target, never from a URL rebuilt from it and the Host header, so that no header can change
which route, and so which rule, a request meets.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from .answer import Answer
from .call import Call
from .chains import describe_crash, run_step
from .connection import Connection, ConnectionServer
from .endpoints import HEALTH_PATHS, Table
from .errors import MuxxError, PermissionDenied, Unavailable
from .exchange import Exchange, HttpRequest, Reply, Request, Route
from .headers import error_headers
from .incoming import check_framing, raw_target, read_body
from .pipeline import authenticate, carry
from .plugins import Step
from .wire.openai import error_body, request_parts

if TYPE_CHECKING:
    from .gateway import Gateway

MOST_CALLS = 9500
SPARE_FILES = 256


class Service:
    """Requests to endpoints, on the gateway of the moment: `gateway` is replaced as a whole when the configuration is
    reloaded."""

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

    def server(self) -> ConnectionServer:
        """What a listening socket hands its connections to."""
        return ConnectionServer(self.gateway.config.server, self.serve, self._refuse, lambda: self.draining)

    async def serve(self, connection: Connection, message: RawRequestMessage, payload: StreamReader, answer: Answer) -> None:
        """Any request. Every path answers, and ends only when the client has taken its answer or stalled."""
        try:
            await self._serve(connection, message, payload, answer)
        except MuxxError as error:
            self._refuse(answer, error)
        except Exception as error:
            self.gateway.log.error("%s failed inside the gateway: %s", message.method, describe_crash(error))
            self._refuse(answer, MuxxError())
        if answer.paused:
            await answer.drained(self.gateway.config.server.write_stall_timeout_s)

    async def _serve(self, connection: Connection, message: RawRequestMessage, payload: StreamReader, answer: Answer) -> None:
        try:
            check_framing(message, payload)
        except MuxxError:
            answer.close_after()  # where the next request would begin is not to be guessed
            raise
        path, _, query = raw_target(message).partition("?")
        read = partial(self._read_body, connection, message, payload, answer)
        head = HttpRequest(message.method, path, query, message.headers, connection.remote, read)
        if path == "/v1/chat/completions" and message.method == "POST":
            await self._carry(head, answer)
        elif path in HEALTH_PATHS:
            self._health(path, answer)
        else:
            route, head.params = self._table.find(message.method, path)
            self._reply(answer, await self._call(route, head))

    async def _carry(self, head: HttpRequest, answer: Answer) -> None:
        gateway = self.gateway
        if len(gateway.calls) >= self._most_calls:
            raise Unavailable()
        request = Request(head)
        request.use_parts(request_parts)
        exchange = Exchange(gateway.ids.next(), "chat", request)
        await carry(Call(gateway, exchange, head, head.body, answer))

    def _health(self, path: str, answer: Answer) -> None:
        good = self.ready if path.startswith("/ready") else True
        self._reply(answer, Reply.json({"status": "ok" if good else "unavailable"}, 200 if good else 503))

    async def _call(self, route: Route, head: HttpRequest) -> Reply:
        if route.role != "public":
            head.identity = identity = await authenticate(self.gateway, head)
            if route.role == "admin" and identity.role != "admin":
                raise PermissionDenied("This needs an admin key: `muxx keys create --admin` makes one.", code="admin_required")
        handler = Step(f"{route.method} {route.path}", route.handler, is_async=True)
        reply = await run_step(handler, (self.gateway, head), None)
        if not isinstance(reply, Reply):
            raise TypeError(f"the handler of {route.path} returned no Reply")
        return reply

    def _reply(self, answer: Answer, reply: Reply) -> None:
        if not isinstance(reply.body, bytes):
            raise TypeError("a route's Reply carries bytes")
        headers = {"Content-Type": reply.content_type, **self._request_id(), **reply.headers}
        answer.whole(reply.status, headers, reply.body)

    def _refuse(self, answer: Answer, error: MuxxError) -> None:
        """An error of a request that has no exchange."""
        if not answer.head_sent and not answer.gone:
            headers = {"Content-Type": "application/json", **self._request_id(), **error_headers(error)}
            answer.whole(error.status, headers, error_body(error))

    def _request_id(self) -> dict[str, str]:
        request_id = self.gateway.ids.next()
        return {"X-Muxx-Request-Id": request_id, "x-request-id": request_id}

    async def _read_body(
        self, connection: Connection, message: RawRequestMessage, payload: StreamReader, answer: Answer
    ) -> bytes:
        """The request body within its limits of size and time. A refused body closes the connection: the rest is not read."""
        try:
            return await read_body(message, payload, connection.transport, self.gateway.config.server)
        except MuxxError:
            answer.close_after()
            raise

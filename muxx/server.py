"""The service: requests to endpoints, each answered in our format with a request id.

Routes are taken from the raw request target, never from a URL rebuilt from it and the Host header, so that no header can change
which route, and so which rule, a request meets.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from .answer import Answer
from .arrays import AsArray
from .bodies import Asked, query_as
from .call import Call
from .chains import crashed, is_plugins_own, run_step
from .connection import Connection, ConnectionServer
from .crashes import describe_crash, is_database_fault
from .endpoints import HEALTH_PATHS, Table
from .errors import (
    AuthenticationError,
    DatabaseUnavailable,
    MissingApiKey,
    MuxxError,
    PermissionDenied,
    PluginError,
    Unavailable,
)
from .exchange import Exchange
from .headers import error_headers, lines, request_id_headers
from .incoming import KnownHead, KnownHeads, receive
from .pipeline import authenticate, carry
from .plugins import Step
from .reply import Reply
from .replying import UnusableReply, items_of, refuse_kernel_headers, refuse_unusable
from .request import HttpRequest, Request, Route
from .wire.wires import ERROR_BODIES, WIRES, format_at, named_in

if TYPE_CHECKING:
    from .gateway import Gateway

MOST_CALLS = 9500
SPARE_FILES = 256
MOST_FILES = 32_768
"""Enough for as many calls, and for as many connections again that wait."""

_END: Any = object()


def allow_files() -> None:
    """Have this process and its children open as many files as the system lets them, and no more than they could use.

    The soft limit is 1,024 nearly everywhere, for the sake of programs that call select(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = most_files()
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_files() -> int:
    """How many files a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def most_calls() -> int:
    """How many calls a process carries at a time: each takes a file for its client and one for its provider."""
    return min(MOST_CALLS, (most_files() - SPARE_FILES) // 2)


def most_connections() -> int:
    """How many connections of clients a process keeps open: those of the calls, and as many more as leave the calls their files
    for providers, and half of the spare ones."""
    return most_files() - most_calls() - SPARE_FILES // 2


class Service:
    """Requests to endpoints, on the gateway of the moment: `gateway` is replaced as a whole when the configuration is
    reloaded."""

    def __init__(self, gateway: Gateway, writable: Callable[[], bool] = lambda: True) -> None:
        self.draining = False
        self._writable = writable
        self._most_calls = most_calls()
        self.heads = KnownHeads()
        self.use(gateway)

    def use(self, gateway: Gateway) -> None:
        """Serve new requests with this gateway."""
        self.gateway = gateway
        self._table = Table(gateway)
        self.heads.clear()  # what plugins of the old gateway had learnt of them goes with it

    @property
    def ready(self) -> bool:
        return not self.draining and self._writable()

    def server(self) -> ConnectionServer:
        """What a listening socket hands its connections to."""
        config, outbox = self.gateway.config.server, self.gateway.journal.outbox
        return ConnectionServer(config, self.serve, self._refuse, lambda: self.draining, outbox, self.heads, most_connections())

    async def serve(
        self, connection: Connection, message: RawRequestMessage | KnownHead, payload: StreamReader | bytes, answer: Answer
    ) -> None:
        """Any request. Every path answers, and ends only when the client has taken its answer or stalled."""
        gateway = self.gateway
        try:
            if type(message) is RawRequestMessage:  # it may be refused before anybody has looked where it goes
                answer.format = format_at(message.path, message.headers)
            head = receive(connection, message, payload, answer, gateway.config.server)
            del message, payload
            wire, given = WIRES.get(head.path), None
            if wire is None and (named := named_in(head.path)) is not None:
                wire, given = named
            answer.format = wire.format if wire is not None else format_at(head.path, head.headers)
            if wire is not None and head.method == "POST":
                if len(gateway.calls) >= self._most_calls:
                    answer.close_after()  # who is refused for want of files keeps none
                    raise Unavailable()
                exchange = Exchange(gateway.ids.next(), wire.name, Request(head, wire.parts))
                exchange.format = wire.format
                call = Call(gateway, exchange, wire, head, answer, connection.task)
                if given is not None:
                    call.given = given
                    if given["stream"] and head.query.get("alt") != "sse":
                        call.down = AsArray(answer)
                await carry(call)
            elif head.path in HEALTH_PATHS:
                self._health(head.path, answer)
            else:
                route, head.params = self._table.find(head.method, head.path, answer.format)
                with gateway.calls.answering():
                    await self._answer(gateway, route, head, answer)
        except AuthenticationError as error:
            self._refuse(answer, gateway.strangers.told(error, connection.remote))
        except PluginError as error:
            self._refuse(answer, _cause(error.__cause__, error))
        except MuxxError as error:
            self._refuse(answer, error)
        except Exception as error:
            gateway.log.error("a request failed inside the gateway: %s", describe_crash(error))
            self._refuse(answer, _cause(error, MuxxError()))
        if answer.paused:
            await answer.drained(gateway.config.server.write_stall_timeout_s)

    async def _answer(self, gateway: Gateway, route: Route, head: HttpRequest, answer: Answer) -> None:
        """Answer with what a route replies, whole or piece by piece. All of it is one gateway's, though it be replaced."""
        way = f"{route.method} {route.path}"
        handler = Step(gateway.plugin_of_route.get(way, "muxx"), route.handler, is_async=True, hook=way)
        reply = await self._call(gateway, route, handler, head)
        if isinstance(reply.body, AsyncIterator):
            async with items_of(handler, reply.body) as pieces:
                await self._stream(answer, reply, handler, pieces)
        else:
            self._reply(answer, reply)
        await answer.drained(gateway.config.server.write_stall_timeout_s)

    def _health(self, path: str, answer: Answer) -> None:
        good = self.ready if path.startswith("/ready") else True
        self._reply(answer, Reply.json({"status": "ok" if good else "unavailable"}, 200 if good else 503))

    async def _call(self, gateway: Gateway, route: Route, handler: Step, head: HttpRequest) -> Reply:
        if route.role != "public":
            head.identity = identity = await authenticate(gateway, head)
            if identity is None:
                raise MissingApiKey()
            if route.role == "admin" and identity.role != "admin":
                raise PermissionDenied("This needs an admin key: `muxx keys create --admin` makes one.", code="admin_required")
            if identity.role != "admin":
                await gateway.projects.admit(identity.project)
        if route.query is Asked:
            query_as(head, Asked)
        reply = await run_step(handler, (gateway, head), None)
        if not isinstance(reply, Reply):
            crashed(handler, "it returned no Reply")
        try:
            refuse_unusable(reply, bytes, AsyncIterator)
            refuse_kernel_headers(reply)
        except UnusableReply as error:
            crashed(handler, str(error), error)
        whole: Reply = reply
        return whole

    def _reply(self, answer: Answer, reply: Reply) -> None:
        assert isinstance(reply.body, bytes), "other bodies have been refused"
        answer.whole(reply.status, self._head(answer, reply), reply.body)

    def _head(self, answer: Answer, reply: Reply) -> str:
        request_id = request_id_headers(self.gateway.ids.next(), answer.format)
        return lines({"Content-Type": reply.content_type, **request_id, **reply.headers})

    async def _stream(self, answer: Answer, reply: Reply, handler: Step, pieces: AsyncIterator[Any]) -> None:
        """Send pieces at the client's pace: the next is asked for when the last has (nearly) been taken. What ends early, for
        whatever reason, does not look whole; an error before the first piece is an answer like any other."""
        seconds = self.gateway.config.server.write_stall_timeout_s
        piece = await _next_piece(handler, pieces)
        answer.begin(reply.status, self._head(answer, reply))
        try:
            while piece is not None:
                if piece:  # an empty chunk would be the last
                    answer.send(piece)
                if not await answer.drained(seconds):
                    return
                await asyncio.sleep(0)  # others want to be served too
                piece = await _next_piece(handler, pieces)
        except BaseException as error:
            answer.abort()
            if not isinstance(error, Exception):
                raise
            self.gateway.log.error("a route's reply failed on its way: %s", describe_crash(error))
            return
        answer.end()

    def _refuse(self, answer: Answer, error: MuxxError) -> None:
        """An error of a request that has no exchange."""
        if not answer.head_sent and not answer.gone:
            request_id = self.gateway.ids.next()
            headers = {"Content-Type": "application/json", **request_id_headers(request_id, answer.format)}
            body = ERROR_BODIES[answer.format](error, request_id)
            answer.whole(error.status, lines(headers | error_headers(error)), body)


async def _next_piece(handler: Step, pieces: AsyncIterator[Any]) -> bytes | None:
    """The next piece of a route's reply; None at its end. Whatever else comes instead is the plugin's crash."""
    try:
        piece = await anext(pieces, _END)
    except MuxxError:
        raise
    except BaseException as error:
        if not is_plugins_own(error):
            raise
        crashed(handler, describe_crash(error), error)
    if piece is _END:
        return None
    if not isinstance(piece, bytes):
        crashed(handler, f"its Reply gives a {type(piece).__name__} as a piece; give bytes")
    whole: bytes = piece
    return whole


def _cause(error: BaseException | None, otherwise: MuxxError) -> MuxxError:
    """What the client is told of an error: where the database is at fault, that, which is no plugin's failure."""
    return DatabaseUnavailable(error) if error is not None and is_database_fault(error) else otherwise

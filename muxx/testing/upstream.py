"""A provider under the test's control: it answers by script, byte for byte, and remembers what it saw.

Built on a plain asyncio protocol rather than an HTTP library, because a fault is often what a library refuses to send.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson

from .answers import answer, refuses
from .asking import model_asked
from .http1 import Headers, header, parse_head, read_request_body
from .said import Pieces, Said, words
from .steps import Chooser, Script
from .waiting import eventually

CONNECTION = "scripted upstream"
"""The name of the task of each connection."""
SLICE = 16 * 1024
"""Bytes handed to the socket at once, so that `produced` is never far ahead of what the kernel took."""


class RecordedRequest:
    """One request as it came, and what became of its answer.

    `produced` counts the bytes the script sent for it that the kernel took; `finished` is true once its script ran to the end.
    """

    def __init__(self, connection: Connection, method: str, target: str, version: str, headers: Headers, body: bytes) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.body = body
        self.produced = 0
        self.finished = False

    def header(self, name: str) -> str | None:
        """The first header of this name, in any spelling."""
        return header(self.headers, name)

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def model(self) -> str | None:
        """The model that is asked for, in the body or in the path."""
        return model_asked(self.target, self.json())

    @property
    def blocked(self) -> bool:
        """The peer has stopped reading: its answer no longer fits the kernel's buffers."""
        return self.connection.blocked

    @property
    def left_at(self) -> float | None:
        """When the peer closed or reset this request's connection (monotonic seconds); None while it has not."""
        return self.connection.left_at

    async def peer_left(self, within: float = 5.0) -> float:
        """Wait for the peer to close or reset this request's connection; the monotonic time at which it did."""
        await eventually(lambda: self.left_at is not None, within)
        assert self.left_at is not None
        return self.left_at


class Connection(asyncio.Protocol):
    """One accepted connection: reads requests and plays their scripts, one after the other, until either side closes it."""

    transport: asyncio.Transport

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._reader = asyncio.StreamReader(limit=2**26)
        self._writable = asyncio.Event()
        self._writable.set()
        self.requests: list[RecordedRequest] = []
        self.left_at: float | None = None
        """When the peer's FIN or RST came (monotonic seconds)."""
        self.was_reset = False
        """The peer sent a RST."""
        self.closed = False
        self.task: asyncio.Task[None] | None = None

    @property
    def blocked(self) -> bool:
        return not self._writable.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # at 0, TLS transports of Python 3.11 never ask for more
        if self._upstream.send_buffer:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._upstream.send_buffer)
        self._upstream.connections.append(self)
        self.task = asyncio.get_running_loop().create_task(self._serve(), name=CONNECTION)

    def data_received(self, data: bytes) -> None:
        self._reader.feed_data(data)

    def eof_received(self) -> bool:
        """A half-closed peer may still read, so the script goes on; TLS has no half-closed state to keep."""
        self._leave()
        self._reader.feed_eof()
        return self.transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None:
            self._leave()
            self.was_reset = isinstance(exc, ConnectionResetError)
        assert self.task is not None
        self.task.cancel()

    def _leave(self) -> None:
        if self.left_at is None:
            self.left_at = time.monotonic()

    async def _serve(self) -> None:
        try:
            await self._play(self._upstream.greeting, None)
            while not self.transport.is_closing():
                request = await self._read_request()
                self._upstream.requests.append(request)
                self.requests.append(request)
                await self._play(self._upstream.choose(request), request)
                request.finished = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            self._upstream.errors.append(error)
        finally:
            self.transport.close()

    async def _read_request(self) -> RecordedRequest:
        first, headers = parse_head(await self._reader.readuntil(b"\r\n\r\n"))
        method, target, version = first.split(" ", 2)
        return RecordedRequest(self, method, target, version, headers, await read_request_body(self._reader, headers))

    async def _play(self, script: Script, request: RecordedRequest | None) -> None:
        for step in script:
            if isinstance(step, bytes):
                await self._send(step, request)
            else:
                await step.play(self)
            if self.transport.is_closing():
                return

    async def _send(self, data: bytes, request: RecordedRequest | None) -> None:
        for start in range(0, len(data), SLICE):
            piece = data[start : start + SLICE]
            self.transport.write(piece)
            if self.blocked:
                await self._writable.wait()
            if request is not None:
                request.produced += len(piece)
        await asyncio.sleep(0)  # an endless script must let the loop see the peer leave


class ScriptedUpstream:
    """A provider of every format on 127.0.0.1, at a port of its own, as an async context manager.

    The path says which format is asked for. Without a script it answers every endpoint, with a short text or a vector. An
    exception in a chooser or a step is raised again when the upstream is left, so that a mistake in a test is never taken for a
    fault of the network.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, greeting: Script = (), send_buffer: int | None = None) -> None:
        """`greeting` is played as soon as a connection is accepted; `send_buffer` sets SO_SNDBUF, to be blocked sooner."""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.greeting = greeting
        self.send_buffer = send_buffer
        self.choose: Chooser = answer(Said("Hello there.", vectors=((0.5, -0.25),)))
        self.requests: list[RecordedRequest] = []
        self.connections: list[Connection] = []
        self.errors: list[Exception] = []

    def script(self, *scripts: Script | Chooser) -> None:
        """Answer the requests from now on with these, one each in turn; the last one answers all that follow.

        Each is a script, or a callable that gets the request and returns one.
        """
        choosers = [script if callable(script) else _always(script) for script in scripts]
        self.choose = _in_turn(choosers)

    def says(self, *answers: Said | str, model: str | None = None, pieces: Pieces = words) -> None:
        """Answer the requests from now on with these, in the format and form that each asks for; the last one answers all that
        follow."""
        said = [Said(item) if isinstance(item, str) else item for item in answers]
        self.script(*(answer(item, model=model, pieces=pieces) for item in said))

    def refuses(self, status: int, message: str = "No.", code: str | None = None, **headers: str) -> None:
        """Refuse every request from now on, in the format that it asks for."""
        self.script(refuses(status, message, code, **headers))

    @property
    def port(self) -> int:
        assert self._server is not None, "the upstream is not started: use it in `async with`"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What goes into a provider's `base_url`."""
        return f"{self.url}/v1"

    @property
    def last(self) -> RecordedRequest:
        return self.requests[-1]

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed for connection in self.connections)

    async def request(self, number: int = 1, within: float = 5.0) -> RecordedRequest:
        """The `number`-th request received since the start, waiting for it where it has not come yet."""
        await eventually(lambda: len(self.requests) >= number, within)
        return self.requests[number - 1]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, ssl=self._tls, backlog=1024)

    async def close(self) -> None:
        """Stop listening, drop every connection, wait for their tasks; raise what went wrong in a script."""
        if self._server is None:
            return
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if self.errors:
            raise self.errors[0]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def _always(script: Script) -> Callable[[RecordedRequest], Script]:
    return lambda request: script


def _in_turn(choosers: Sequence[Chooser]) -> Chooser:
    if not choosers:
        raise ValueError("script() needs at least one script or callable")
    queue = list(choosers)
    return lambda request: (queue.pop(0) if len(queue) > 1 else queue[0])(request)


_BELOW_EPHEMERAL = range(10_240, 32_768)
"""Ports no system gives out by itself: the ephemeral ones of Linux begin at 32768 and those of other systems later."""


def unused_port() -> int:
    """A port of 127.0.0.1 nobody listens on just now: for a refused connection, or for a server that needs one beforehand.

    It is none that another socket could be given by the kernel in the meantime.
    """
    while True:
        port = secrets.choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

"""A request as it comes off the wire: its framing checked, its target taken raw, its body read within limits.

aiohttp's parser is lenient where a gateway must be strict; what it lets in and a strict server does not is refused here.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDictProxy

from .errors import InvalidRequest, MuxxError, NotFound, RequestTimeout, RequestTooLarge
from .request import HttpRequest

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

    from .answer import Answer
    from .config import ServerConfig
    from .connection import Connection

BODILESS = ("GET", "HEAD", "DELETE")
"""Methods with which a body is refused; so a head of theirs tells nothing of one with another length."""

LONGEST_LENGTH = 12
"""Digits, and one more, of a Content-Length that is looked at."""

MOST_HEADS = 256
"""Heads that a worker knows for new connections; each takes some 10 KB."""

LARGE_HEAD = 16 * 1024
"""Bytes from which on a head is not kept when it has been answered, nor is its connection. Nobody's are as large but those of
callers who mean to fill our memory, and for that it takes no key."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)\r\n", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class KnownHead:
    """A head that was checked, and what was learnt of it: good for the next one of its connection, or the first one of another,
    when that is the same.

    Only the length of the body may differ. A head with anything rare in it (chunks, Expect, no length) is the same as none.

    `body_of` knows the head by its bytes, and so spares a request that is there as a whole the parser: bytes equal to those that
    the parser has read as a head, coming where it would begin a head, are that head.
    """

    __slots__ = (
        "_after", "_at", "_before", "_count", "_length_name", "_same", "large", "memory", "message", "path", "plain", "query",
    )  # fmt: skip

    def __init__(self, message: RawRequestMessage, payload: StreamReader) -> None:
        """Check the framing and the target; a `MuxxError` for what no honest client sends."""
        check_framing(message, payload)
        self.message = message
        self.path, _, self.query = raw_target(message).partition("?")
        self.memory: dict[Any, Any] = {}
        self.plain = "Content-Encoding" not in message.headers and "Expect" not in message.headers
        self._before = self._after = b""
        raw = message.raw_headers
        self.large = len(message.path) + sum([len(name) + len(value) for name, value in raw]) > LARGE_HEAD
        lengths = [at for at, (name, _) in enumerate(raw) if name.lower() == b"content-length"]
        usual = self.plain and len(lengths) == 1 and message.method not in BODILESS
        self._at = at = lengths[0] if usual else 0
        self._count = len(raw) if usual else 0
        """Headers of a head that may be known again; 0 of any other."""
        self._length_name = raw[at][0] if usual else b""
        self._same = (message.method, message.path, message.version, raw[:at], raw[at + 1 :])

    def is_same(self, message: RawRequestMessage) -> bool:
        raw, at = message.raw_headers, self._at
        return (
            0 < self._count == len(raw)
            and raw[at][0] == self._length_name
            and (message.method, message.path, message.version, raw[:at], raw[at + 1 :]) == self._same
        )

    def remember(self, head: bytes) -> None:
        """Take the bytes this very head was read from."""
        if not self._count:
            return
        at, lines = self._at, head.split(b"\r\n")
        length, line = self.message.raw_headers[at][1], lines[at + 1]
        if length.isdigit() and line.endswith(length):
            self._before = b"\r\n".join([*lines[: at + 1], line[: -len(length)]])
            self._after = b"\r\n" + b"\r\n".join(lines[at + 2 :])

    @property
    def told_by_bytes(self) -> bool:
        """Whether `body_of` may know it again."""
        return bool(self._before)

    @property
    def but_length(self) -> bytes:
        """Its bytes, without those of the length."""
        return self._before + self._after

    def body_of(self, data: bytes) -> bytes | None:
        """The body, when `data` is this head and the whole of a body, and nothing else."""
        before = self._before
        if not before or not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + LONGEST_LENGTH)
        length = data[start:end]
        if end < 0 or not length.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        return body if len(body) == int(length) else None


class KnownHeads:
    """The heads with which connections have begun, for those that come: clients of one kind and key all send the same.

    So a burst of connections costs no parsing, and what is known of their head takes its memory once.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, known: KnownHead) -> None:
        if known.told_by_bytes and not known.large:
            if len(self._known) >= MOST_HEADS:
                del self._known[next(iter(self._known))]
            self._known[known.but_length] = known

    def find(self, data: bytes) -> KnownHead | None:
        """The one that `data` begins with, whatever its body."""
        length = _LENGTH.search(data) if self._known else None
        if length is None:
            return None
        end = data.find(b"\r\n\r\n", length.end() - 2) + 4
        return self._known.get(data[: length.start(1)] + data[length.end(1) : end])

    def clear(self) -> None:
        self._known.clear()


class Incoming(HttpRequest):
    """A request of a connection; its body is read within the limits of `[server]`."""

    __slots__ = ("_answer", "_body", "_connection", "_known", "_length", "_message", "_payload", "_server")

    def __init__(
        self,
        connection: Connection,
        known: KnownHead,
        message: RawRequestMessage | None,
        payload: StreamReader,
        body: bytes | None,
        answer: Answer,
        server: ServerConfig,
    ) -> None:
        """`message` is None for a request known by its bytes, all of whose body has come."""
        headers = None if message is None else message.headers
        super().__init__(known.message.method, known.path, known.query, headers, connection.remote, known.memory)
        self._connection = connection
        self._known = known
        self._message = message or known.message
        self._payload = payload
        self._body = body
        self._length = 0 if body is None else len(body)
        self._answer = answer
        self._server = server

    def _read_headers(self) -> CIMultiDictProxy[str]:
        headers = self._known.message.headers.copy()
        headers["Content-Length"] = str(self._length)
        return CIMultiDictProxy(headers)

    def body_now(self) -> bytes | None:
        """It is handed out once: who asks parses it, and a request that takes minutes need not hold both."""
        body, payload = self._body, self._payload
        if body is None:
            if not self._known.plain or not payload.is_eof() or payload.total_bytes > self._server.max_body_bytes:
                return None
            body = payload.read_nowait(-1)
        elif len(body) > self._server.max_body_bytes:
            self._answer.close_after()
            raise _too_large(self._server.max_body_bytes)
        self._body = None
        return body

    async def body(self) -> bytes:
        if self._body is not None:
            return self._body
        try:
            return await read_body(self._message, self._payload, self._connection.transport, self._server)
        except MuxxError:
            self._answer.close_after()  # the rest is not read
            raise


def receive(
    connection: Connection,
    message: RawRequestMessage | KnownHead,
    payload: StreamReader | bytes,
    answer: Answer,
    server: ServerConfig,
) -> Incoming:
    """The request behind a head. One like the connection's last is not checked again."""
    if isinstance(message, KnownHead):
        return Incoming(connection, message, None, EMPTY_PAYLOAD, cast(bytes, payload), answer, server)
    reader = cast("StreamReader", payload)
    known = connection.known
    if known is None or not known.is_same(message):
        connection.known = None
        try:
            known = connection.known = _another(connection, message, reader, begins=known is None)
        except MuxxError:
            answer.close_after()  # where the next request would begin is not to be guessed
            raise
        if known.large:
            answer.close_after()
    return Incoming(connection, known, message, reader, None, answer, server)


def _another(connection: Connection, message: RawRequestMessage, payload: StreamReader, *, begins: bool) -> KnownHead:
    """A head that is not the connection's last one. What it `begins` with, others may have begun with meanwhile."""
    if connection.followed is not message:  # with requests in a row, the next one's head may have been read already
        return KnownHead(message, payload)
    head, connection.followed, connection.head = connection.head, None, b""
    known = connection.heads.find(head) if begins else None
    if known is None:
        known = KnownHead(message, payload)
        known.remember(head)
        if begins:
            connection.heads.add(known)
    return known


def check_framing(message: RawRequestMessage, payload: StreamReader) -> None:
    """Refuse versions, transfer codings, bodies and Host values that no honest client sends."""
    if message.version != HttpVersion11 and message.version != HttpVersion10:
        raise MuxxError("Only HTTP/1.1 and HTTP/1.0 are served.", status=505, code="http_version_not_supported")
    headers = message.headers
    coding = headers.get("Transfer-Encoding")
    if coding is not None:
        if message.version == HttpVersion10:
            raise InvalidRequest("HTTP/1.0 knows no Transfer-Encoding.", code="malformed_http")
        if coding.lower() != "chunked":
            raise MuxxError("Only the chunked transfer coding is understood.", status=501, code="not_implemented")
    if message.method in BODILESS and not payload.at_eof():
        raise InvalidRequest(f"{message.method} takes no body here.", code="malformed_http")
    host = headers.get("Host")
    if host is not None and not valid_host(host):
        raise InvalidRequest("The Host header is not a host name.", code="invalid_host")


@lru_cache(maxsize=256)
def valid_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and int(found.group(1) or 0) <= 65535


def raw_target(message: RawRequestMessage) -> str:
    """Path and query exactly as they stood in the request line; of an absolute-form target only when it names the Host."""
    target = message.path
    if target.startswith("/"):
        return target
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            authority, slash, rest = target[len(scheme) :].partition("/")
            if authority != message.headers.get("Host"):
                raise InvalidRequest("The request target names another host than the Host header.", code="invalid_host")
            return slash + rest
    raise NotFound()


async def read_body(message: RawRequestMessage, payload: StreamReader, transport: Any, server: ServerConfig) -> bytes:
    """Read a request body: one step when it has come with its head, else piece by piece under two time limits."""
    headers = message.headers
    if not _says_only(headers, "Content-Encoding", "identity"):
        raise InvalidRequest("Send the body without Content-Encoding.", status=415, code="unsupported_content_encoding")
    length = headers.get("Content-Length")
    if length is not None and int(length) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    if "Expect" in headers:
        _continue(message, payload, transport)
    if payload.is_eof():
        data = payload.read_nowait(-1)
    else:
        data = await _read_slowly(payload, server.max_body_bytes, server.body_idle_timeout_s, server.body_timeout_s)
    if len(data) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    return data


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes. Send less, or raise [server] max_body_bytes.")


def _says_only(headers: CIMultiDictProxy[str], name: str, word: str) -> bool:
    """Whether every line of a header says this and nothing else, or there is none."""
    return all(line.strip().lower() == word for line in headers.getall(name, ()))


def _continue(message: RawRequestMessage, payload: StreamReader, transport: Any) -> None:
    """Answer an Expect header, only once the request is one we want to read. A client of HTTP/1.0 would take that for the answer
    to its request."""
    if not _says_only(message.headers, "Expect", "100-continue"):
        raise InvalidRequest("Only `Expect: 100-continue` is understood.", status=417, code="expectation_failed")
    if transport is not None and message.version != HttpVersion10 and not payload.is_eof():
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _read_slowly(payload: StreamReader, most: int, idle: float, whole: float) -> bytes:
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

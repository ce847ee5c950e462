"""A request as it comes off the wire: its framing checked, its target taken raw, its body read within limits.

aiohttp's parser is lenient where a gateway must be strict; what it lets in and a strict server does not is refused here.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from .errors import InvalidRequest, NotFound, RequestTimeout, RequestTooLarge

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

    from .config import ServerConfig

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


def check_framing(message: RawRequestMessage, payload: StreamReader) -> None:
    """Refuse versions, transfer codings, bodies and Host values that no honest client sends."""
    if message.version != HttpVersion11 and message.version != HttpVersion10:
        raise InvalidRequest("Only HTTP/1.1 and HTTP/1.0 are served.", status=505, code="http_version_not_supported")
    headers = message.headers
    coding = headers.get("Transfer-Encoding")
    if coding is not None:
        if message.version == HttpVersion10:
            raise InvalidRequest("HTTP/1.0 knows no Transfer-Encoding.", code="malformed_http")
        if coding.lower() != "chunked":
            raise InvalidRequest("Only the chunked transfer coding is understood.", status=501, code="not_implemented")
    if message.method in ("GET", "HEAD", "DELETE") and not payload.at_eof():
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
    coding = headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise InvalidRequest("Send the body without Content-Encoding.", status=415, code="unsupported_content_encoding")
    length = headers.get("Content-Length")
    if length is not None and int(length) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    expect = headers.get("Expect")
    if expect is not None:
        _continue(expect, payload, transport)
    if payload.is_eof():
        data = payload.read_nowait(-1)
    else:
        data = await _read_slowly(payload, server.max_body_bytes, server.body_idle_timeout_s, server.body_timeout_s)
    if len(data) > server.max_body_bytes:
        raise _too_large(server.max_body_bytes)
    return data


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes. Send less, or raise [server] max_body_bytes.")


def _continue(expect: str, payload: StreamReader, transport: Any) -> None:
    """Answer an Expect header, only once the request is one we want to read."""
    if expect.strip().lower() != "100-continue":
        raise InvalidRequest("Only `Expect: 100-continue` is understood.", status=417, code="expectation_failed")
    if transport is not None and not payload.is_eof():
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

"""`upstream.c` in Python, for machines without a C compiler: the same arguments, the same bytes, slower.

With a certificate and its key as two arguments more it speaks TLS.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Any

MARK = b"#" * 16
STAMP = b"@" * 16
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PACE = re.compile(rb"pace-(\d+)")


def read_pieces(path: str) -> list[bytes]:
    data, at, found = Path(path).read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


class Upstream(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._received = b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._streaming is not None:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._streaming is None:
            self._answer_next()

    def _answer_next(self) -> None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if separator and len(rest) >= size:
            self._received = rest[size:]
            self._answer(rest[:size])

    def _answer(self, body: bytes) -> None:
        number = body.partition(b"Call ")[2][:16]
        if b'"stream":true' not in body:
            self._transport.write(self._pieces[0].replace(MARK, number))
            return
        pace = _PACE.search(body)
        self._streaming = asyncio.create_task(self._stream(number, int(pace[1]) / 1000 if pace else 0.0))

    async def _stream(self, number: bytes, seconds: float) -> None:
        for piece in self._pieces[1:]:
            self._transport.write(piece.replace(MARK, number).replace(STAMP, b"%016d" % (time.monotonic_ns() // 1000)))
            await asyncio.sleep(seconds)
        self._streaming = None
        self._answer_next()


async def main(path: str, *certificate: str) -> None:
    pieces, tls = read_pieces(path), None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate)
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(pieces), "127.0.0.1", 0, backlog=4096, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop as loop
    except ImportError:
        import asyncio as loop  # type: ignore[no-redef]
    loop.run(main(*sys.argv[1:]))

"""Just enough HTTP/1.1 to read what well-behaved peers send, shared by the scripted upstream and the raw client.

Deliberately not aiohttp's parser: the kit must be able to disagree with the code under test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

Headers = list[tuple[str, str]]
"""Header fields in the order and spelling of the wire, decoded as latin-1."""


class Source(Protocol):
    """Where bytes come from; `asyncio.StreamReader` is one. Both methods raise `asyncio.IncompleteReadError` at the end."""

    async def readuntil(self, separator: bytes) -> bytes: ...
    async def readexactly(self, n: int) -> bytes: ...


def parse_head(raw: bytes) -> tuple[str, Headers]:
    """Split a head into its first line and its headers."""
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, [(name, value.strip()) for name, _, value in pairs]


def header(headers: Headers, name: str) -> str | None:
    """The first header of this name, in any spelling."""
    return next((value for field, value in headers if field.lower() == name.lower()), None)


def is_chunked(headers: Headers) -> bool:
    return (header(headers, "transfer-encoding") or "").lower() == "chunked"


async def chunks(source: Source) -> AsyncIterator[bytes]:
    """The data of each HTTP chunk, as it was cut on the wire. Returns only after the last chunk and its trailers."""
    while size := int((await source.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield (await source.readexactly(size + 2))[:-2]
    while await source.readuntil(b"\r\n") != b"\r\n":
        pass


async def read_request_body(source: Source, headers: Headers) -> bytes:
    if is_chunked(headers):
        return b"".join([piece async for piece in chunks(source)])
    return await source.readexactly(int(header(headers, "content-length") or 0))

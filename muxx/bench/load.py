"""Load from this process: connections that ask, judge the answer, and ask again, until the time is over."""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, repeat
from typing import Any, NamedTuple

import orjson

from .children import CannotMeasure
from .said import CALL, MARK, TEXT, template, word_of

PATIENCE_SECONDS = 20.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-muxx-request-id: *([!-~]+)", re.IGNORECASE)
_HIT = re.compile(rb"\r\nx-muxx-cache: *HIT", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_ALL_SAID = TEXT.encode()


class Called(NamedTuple):
    """Whom to call: the upstream itself, or the gateway in front of it."""

    name: str
    port: int
    model: str
    key: str
    user: str = ""


class Streamed(NamedTuple):
    """A stream as it arrived."""

    call: str
    words: list[int]
    """When each had come, in monotonic nanoseconds."""


@dataclass
class Stretch:
    """A stretch of load of one kind, and what came of it."""

    template: bytes
    numbers: Iterator[int]
    ends: int
    """When no more is asked, in monotonic nanoseconds."""
    streams: bool = False
    latencies: list[int] = field(default_factory=list)
    """Nanoseconds from question to whole answer, of each."""
    ids: list[str] = field(default_factory=list)
    """The gateway's, of each answer."""
    hits: int = 0
    """Answers from the cache."""
    changed: int = 0
    """Answers with another text than the upstream's."""
    streamed: list[Streamed] = field(default_factory=list)
    seconds: float = 0.0
    """To the last answer."""
    error: str | None = None

    @property
    def answers(self) -> int:
        return len(self.latencies)


class Asking(asyncio.Protocol):
    """One connection of a stretch."""

    def __init__(self, stretch: Stretch) -> None:
        self._stretch = stretch
        self.transport: asyncio.Transport | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("a connection ended before its answer had come")

    def ask(self) -> None:
        """The next question."""
        assert self.transport is not None
        self._call = word_of(next(self._stretch.numbers))
        request = self._stretch.template.replace(MARK, self._call)
        self._received = b""
        self._arrivals: list[tuple[int, int]] = []
        """Of each piece: how much had come with it, and when."""
        self._head_end = -1
        self._whole = 0
        """How long the answer is; 0: until its last chunk."""
        self._asked = time.monotonic_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        received = self._received = self._received + data if self._received else data
        self._arrivals.append((len(received), now))
        if self._head_end < 0 and not self._read_head():
            return
        if received.endswith(_LAST_CHUNK) if self._whole == 0 else len(received) >= self._whole:
            self._answered(now)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head_end = end
        length = None if _CHUNKED.search(self._received, 0, end) else _LENGTH.search(self._received, 0, end)
        self._whole = end + 4 + int(length[1]) if length else 0
        return True

    def _answered(self, now: int) -> None:
        stretch, received = self._stretch, self._received
        stretch.latencies.append(now - self._asked)
        error = self._wrong()
        if error is not None:
            self._end(error)
            return
        if (found := _REQUEST_ID.search(received, 0, self._head_end)) is not None:
            stretch.ids.append(found[1].decode())
        stretch.hits += _HIT.search(received, 0, self._head_end) is not None
        if stretch.streams:
            stretch.streamed.append(Streamed(self._call.decode(), heard(received[self._head_end + 4 :], self._body_arrivals())))
        elif self._call not in received or _ALL_SAID not in received:
            stretch.changed += 1
        if now < stretch.ends:
            self.ask()
        else:
            self._end(None)

    def _body_arrivals(self) -> list[tuple[int, int]]:
        return [(length - self._head_end - 4, at) for length, at in self._arrivals]

    def _wrong(self) -> str | None:
        """What is wrong with the answer, if anything is. A cached answer may be another call's."""
        received = self._received
        if received[9:12] != b"200":
            return f"was answered {received[9:12].decode(errors='replace')}: {_message(received[self._head_end + 4 :])}"
        if self._stretch.streams and b"data: [DONE]" not in received[-100:]:
            return f"was answered by a stream that broke off: {received[-300:].decode(errors='replace')}"
        other = CALL.search(received)
        if other is not None and other[0] != self._call:
            return "was answered with the answer of another call"
        return None

    def _end(self, error: str | None) -> None:
        if error is not None and self._stretch.error is None and not self.over.done():
            self._stretch.error = error
            self._stretch.ends = 0
        if not self.over.done():
            self.over.set_result(None)
        self.leave()

    def leave(self) -> None:
        """Close the connection, where there is one."""
        if self.transport is not None:
            self.transport.close()


def _itself(connection: Asking) -> Asking:
    return connection


def _nothing() -> None:
    pass


def heard(body: bytes, arrivals: list[tuple[int, int]]) -> list[int]:
    """When each word of a streamed answer had come. `body` in chunks; `arrivals`: (how many bytes of it had come, when)."""
    lengths = [length for length, _ in arrivals]
    at, events, ends = 0, b"", list[tuple[int, int]]()
    while size := int(body[at : (line := body.index(b"\r\n", at))], 16):
        events += body[line + 2 : line + 2 + size]
        at = line + 4 + size
        ends.append((len(events), at))
    text, words, place = "", list[int](), 0
    for event in events.split(b"\n\n")[:-1]:
        place += len(event) + 2
        text += _text(event)
        _, arrived = ends[bisect_left(ends, (place, 0))]
        when = arrivals[min(bisect_left(lengths, arrived), len(arrivals) - 1)][1]
        words += repeat(when, len(text.split()) - len(words))
    return words


def _text(event: bytes) -> str:
    """What an event says; nothing, where it is another kind of one."""
    for line in event.split(b"\n"):
        if line.startswith(b"data: {"):
            choices = orjson.loads(line[6:]).get("choices")
            return str(choices[0]["delta"].get("content") or "") if choices else ""
    return ""


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return body[:200].decode(errors="replace")


class Load:
    """Sends load. No number is used twice, except for the one question that is asked again and again."""

    def __init__(self) -> None:
        self._numbers = count(1)

    async def plain(
        self, called: Called, connections: int, seconds: float, *, same: bool = False, connected: Callable[[], None] = _nothing
    ) -> Stretch:
        """Calls answered in one piece, on so many connections at once. `same`: all of them ask the one question. `connected` is
        called when the connections are there and nothing has been asked yet."""
        numbers = repeat(0) if same else self._numbers
        return await self._send(called, connections, seconds, Stretch(self._template(called), numbers, 0), connected)

    async def streams(self, called: Called, connections: int, words: int) -> Stretch:
        """One stream of so many words on each connection."""
        stretch = Stretch(self._template(called, words), self._numbers, 0, streams=True)
        return await self._send(called, connections, 0.0, stretch, _nothing)

    @staticmethod
    def _template(called: Called, words: int = 0) -> bytes:
        return template(f"127.0.0.1:{called.port}", called.model, called.key, words=words, user=called.user)

    async def _send(
        self, called: Called, connections: int, seconds: float, stretch: Stretch, connected: Callable[[], None]
    ) -> Stretch:
        loop = asyncio.get_running_loop()
        asking = [Asking(stretch) for _ in range(connections)]
        try:
            async with asyncio.timeout(seconds + PATIENCE_SECONDS):
                for connection in asking:
                    await loop.create_connection(partial(_itself, connection), "127.0.0.1", called.port)
                connected()
                started = time.monotonic_ns()
                stretch.ends = started + int(seconds * 1e9)
                for connection in asking:
                    connection.ask()
                for connection in asking:
                    await connection.over
                stretch.seconds = (time.monotonic_ns() - started) / 1e9
        except TimeoutError:
            stretch.error = stretch.error or f"was not answered within {PATIENCE_SECONDS:g} s"
        except OSError as error:
            stretch.error = f"failed: {error}"
        finally:
            for connection in asking:
                connection.leave()
        if stretch.error is not None:
            raise CannotMeasure(f"a call of the {called.name} {stretch.error}")
        return stretch


async def sent_words(port: int) -> dict[str, list[int]]:
    """When the upstream has sent each word of the streams since it was asked last, by the stream's call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    writer.write(b"GET /sent HTTP/1.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    writer.close()
    await writer.wait_closed()
    sent: dict[str, Any] = orjson.loads(body)
    return sent

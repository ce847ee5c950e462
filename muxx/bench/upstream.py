"""The provider that is called: it answers chat completions from memory, as fast as it can, and notes when each word left.

`python -m muxx.bench.upstream` reads a line, prints the free port of 127.0.0.1 it listens on, and ends when its stdin does. A
stream has as many events with a word as the request's `max_tokens` says. `GET /sent` tells, and forgets, when the words of each
stream were sent: in monotonic nanoseconds, which are the same for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any

import orjson

from ..loop import run
from .said import CALL, MARK, MODEL, PACE_SECONDS, TEXT, words

BACKLOG = 1024
USAGE = {"prompt_tokens": 210, "completion_tokens": 32, "total_tokens": 242}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def _answer(kind: str, choices: list[Any], usage: Any) -> bytes:
    named = {"id": f"chatcmpl-{MARK.decode()}", "object": kind, "created": 1_790_000_000, "model": MODEL}
    return orjson.dumps({**named, "choices": choices, "usage": usage})


def _whole(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _said(text: str, finish: str | None = None) -> bytes:
    delta = {"role": "assistant", "content": text} if finish is None else {}
    return _event(_answer("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}], None))


_MESSAGE = {"role": "assistant", "content": f"{MARK.decode()} {TEXT}"}
PLAIN = _whole("200 OK", _answer("chat.completion", [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}], USAGE))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = _said("", "stop") + _event(_answer("chat.completion.chunk", [], USAGE)) + _event(b"[DONE]") + b"0\r\n\r\n"
UNKNOWN = _whole("404 Not Found", b'{"error":{"message":"muxx bench answers chat completions only","code":"not_found"}}')


class Answering(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    def __init__(self, sent: dict[str, list[int]]) -> None:
        self._sent = sent
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if separator and len(rest) >= size:
            self._received = rest[size:]
            self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        call = CALL.search(body)
        if head.startswith(b"GET /sent "):
            self.transport.write(_whole("200 OK", orjson.dumps(self._sent)))
            self._sent.clear()
        elif call is None or not head.startswith(b"POST /v1/chat/completions "):
            self.transport.write(UNKNOWN)
        elif b'"stream":true' in body:
            self.transport.write(HEAD)
            left = words(int(orjson.loads(body)["max_tokens"]))
            self._say(call[0], [call[0].decode(), *left], self._sent.setdefault(call[0].decode(), []))
        else:
            self.transport.write(PLAIN.replace(MARK, call[0]))

    def _say(self, call: bytes, left: list[str], sent: list[int]) -> None:
        """The next word, and the others after it."""
        self._timer = None
        if not left:
            self.transport.write(END.replace(MARK, call))
            return
        event = _said(left[0]).replace(MARK, call)
        sent.append(time.monotonic_ns())
        self.transport.write(event)
        self._timer = asyncio.get_running_loop().call_later(PACE_SECONDS, self._say, call, left[1:], sent)


async def main() -> None:
    loop = asyncio.get_running_loop()
    orphaned = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), orphaned.set)
    sent: dict[str, list[int]] = {}
    server = await loop.create_server(lambda: Answering(sent), "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.buffer.write(orjson.dumps({"port": server.sockets[0].getsockname()[1]}) + b"\n")
    sys.stdout.flush()
    await orphaned.wait()


if __name__ == "__main__":
    sys.stdin.buffer.readline()  # the order, which says nothing to an upstream
    run(main())

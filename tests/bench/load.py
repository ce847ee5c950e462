"""`load.c` in Python, for machines without a C compiler: the same arguments, the same judgement of answers, slower."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field

MARK = b"#" * 16
PATIENCE_SECONDS = 15.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class WrongAnswer(Exception):
    """What came is not the answer to what was asked."""


@dataclass
class Run:
    """What all connections share."""

    template: bytes
    number: int
    step: int
    events: int
    ends: float
    sent: int = 0
    last: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def next(self) -> tuple[bytes, bytes]:
        """The next request and its number in sixteen digits."""
        digits = b"%016x" % (self.number + self.step * self.sent)
        self.sent += 1
        return self.template.replace(MARK, digits, 1), digits


async def client(port: int, run: Run) -> None:
    """One connection: ask, judge the answer, ask again, until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    while not run.last or run.last < run.ends:
        request, number = run.next()
        started = time.monotonic()
        writer.write(request)
        judge(await read_answer(reader), number, run.events)
        run.last = time.monotonic()
        run.latencies.append(run.last - started)
    writer.close()
    await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """One body, to its end by its framing."""
    head = await _head(reader)
    if not _CHUNKED.search(head):
        length = _LENGTH.search(head)
        if length is None:
            raise WrongAnswer("the answer has neither a length nor chunks")
        return await reader.readexactly(int(length[1]))
    body = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(body)


async def stream_head(reader: asyncio.StreamReader) -> None:
    """Read up to the first chunk of a stream."""
    head = await _head(reader)
    if not _CHUNKED.search(head):
        raise WrongAnswer(f"this is no stream: {head!r}")


async def _head(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:12] != b"200":
        raise WrongAnswer(f"the status is not 200: {head!r}")
    return head


def judge(body: bytes, number: bytes, events: int) -> None:
    if number not in body:
        raise WrongAnswer("this is another request's answer")
    if not events:
        if not body.endswith(b"}"):
            raise WrongAnswer("the answer is not whole")
    elif not body.endswith(b"\n\ndata: [DONE]\n\n"):
        raise WrongAnswer("the stream does not end with [DONE]")
    elif (b"\n\n" + body).count(b"\n\ndata: ") != events:
        raise WrongAnswer("the stream has another number of events")


async def main(port: int, connections: int, seconds: float, first: int, step: int, events: int) -> None:
    started = time.monotonic()
    run = Run(sys.stdin.buffer.read(), first, step, events, started + seconds)
    async with asyncio.timeout(seconds + PATIENCE_SECONDS), asyncio.TaskGroup() as clients:
        for _ in range(connections):
            clients.create_task(client(port, run))
    ordered = sorted(run.latencies)
    answers = len(ordered)
    result = {
        "answers": answers, "events": answers * events, "seconds": run.last - started,
        "p50_us": round(ordered[answers // 2] * 1e6), "p99_us": round(ordered[answers * 99 // 100] * 1e6),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        import uvloop as loop
    except ImportError:
        import asyncio as loop  # type: ignore[no-redef]
    loop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:7])))

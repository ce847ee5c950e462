"""`slow.c` in Python, for machines without a C compiler: the same arguments, the same judgement of streams, slower."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field

from load import MARK, WrongAnswer, stream_head  # its neighbour: both are started as scripts

ON_TIME_US = 20_000
PATIENCE_SECONDS = 30.0
MOST_ERRORS = 100
_STAMP = re.compile(rb"t=(\d{16});")


@dataclass
class Run:
    """What all connections share. Moments are in seconds of the monotonic clock."""

    port: int
    template: bytes
    number: int
    stamps: int
    ending: bytes
    begins: float
    ends: float
    asked: int = 0
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)

    def next(self) -> tuple[bytes, bytes]:
        """The next request and its number in sixteen digits."""
        digits = b"%016x" % (self.number + self.asked)
        self.asked += 1
        return self.template.replace(MARK, digits, 1), digits

    def failed(self, error: Exception) -> None:
        self.errors.append(str(error))
        if len(self.errors) > MOST_ERRORS:
            raise SystemExit(f"too many errors; the first: {self.errors[0]}")

    def arrived(self, data: bytes) -> int:
        """Take note of the stamps in a piece of a stream; how many there are."""
        at = time.monotonic()
        sent = [int(digits) for digits in _STAMP.findall(data)]
        if self.begins <= at < self.ends:
            self.delays += [max(0, int(at * 1e6) - moment) for moment in sent]
        return len(sent)


async def client(run: Run, starts: float) -> None:
    """One connection after the other: ask, read the stream, ask again, until the time is over."""
    await asyncio.sleep(starts - time.monotonic())
    while time.monotonic() < run.ends:
        try:
            await _streams(run)
        except (OSError, EOFError, WrongAnswer, ValueError) as error:
            run.failed(error)


async def _streams(run: Run) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
    try:
        while True:
            request, number = run.next()
            writer.write(request)
            await _read_stream(reader, run, number)
            run.answers += 1
            if time.monotonic() >= run.ends:
                return
    finally:
        writer.close()


async def _read_stream(reader: asyncio.StreamReader, run: Run, number: bytes) -> None:
    await stream_head(reader)
    stamps, own, last = 0, False, b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data = last + (await reader.readexactly(size + 2))[:-2]
        whole, _, last = data.rpartition(b"\n")
        stamps += run.arrived(whole)
        own = own or number in whole
        if whole.strip():
            ending = whole.strip().rpartition(b"\n")[2]
    await reader.readexactly(2)
    if stamps != run.stamps or not own or last.strip() or not ending.startswith(run.ending):
        raise WrongAnswer("the stream is not whole, or another's")


async def main(port: int, streams: int, seconds: float, first: int, stamps: int, ramp_ms: int, ending: str) -> None:
    begun = time.monotonic()
    begins = begun + ramp_ms / 1000
    run = Run(port, sys.stdin.buffer.read(), first, stamps, ending.encode(), begins, begins + seconds)
    async with asyncio.timeout(ramp_ms / 1000 + seconds + PATIENCE_SECONDS), asyncio.TaskGroup() as clients:
        for place in range(streams):
            clients.create_task(client(run, begun + ramp_ms / 1000 * place / streams))
    ordered = sorted(run.delays) or [0]
    result = {
        "asked": run.asked, "answers": run.answers, "errors": len(run.errors), "first_error": "".join(run.errors[:1]),
        "events": len(run.delays), "on_time": sum(delay < ON_TIME_US for delay in run.delays), "seconds": seconds,
        "p50_us": ordered[len(ordered) // 2], "p99_us": ordered[len(ordered) * 99 // 100], "most_us": ordered[-1],
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        import uvloop as loop
    except ImportError:
        import asyncio as loop  # type: ignore[no-redef]
    loop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:7]), sys.argv[7]))

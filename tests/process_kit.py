"""What the tests of whole gateway processes share: counted traffic, streams held open, what /proc and the files say."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from muxx.segments import read_segment, segments
from muxx.testing import (
    DONE,
    GatewayProcess,
    RawClient,
    RawResponse,
    RecordedRequest,
    Script,
    ScriptedUpstream,
    chat,
    chat_body,
    event,
    eventually,
    pause,
    sse,
    wait,
)
from muxx.testing.running import Reachable
from muxx.testing.settings import merged
from muxx_std.keys import format

BROKEN = (OSError, asyncio.IncompleteReadError)
"""How a connection ends when its process is killed."""

AT_A_TIME = 50
"""Connections of `at_once`."""

HOLD = "hold"
"""A prompt that `Upstream` answers with one event, and the rest when `release` is set."""


class WholeGateway(GatewayProcess):
    """A gateway that is ready when all its workers are there; for its users it is so with the first."""

    workers = 1

    async def ready(self, within: float = 20.0) -> None:
        await super().ready(within)
        await eventually(lambda: len(workers_of(self)) >= self.workers, within)


def gateway_process(
    directory: Path, upstream: ScriptedUpstream, config: Mapping[str, Any] | None = None, *, workers: int = 1, **environment: str
) -> GatewayProcess:
    """A gateway to start. Its key comes from the environment, which saves each test the command that makes one."""
    key = format.generate("live")
    settings = merged({"server": {"workers": workers}}, config or {})
    process = WholeGateway(directory, upstream.base_url, settings, environment={"MUXX_BOOTSTRAP_KEY": key, **environment})
    process.key = key
    process.workers = workers
    return process


class Upstream(ScriptedUpstream):
    """Answers every chat, a little slowly, so that there is always something in flight; `HOLD` waits for `release`."""

    def __init__(self, gap: float = 0.004) -> None:
        super().__init__()
        self.gap = gap
        self.release = asyncio.Event()
        self.choose = self._answer

    def _answer(self, request: RecordedRequest) -> Script:
        asked = request.json()
        text = "One two three four five."
        if not asked.get("stream"):
            return [pause(self.gap), *chat(text)(request)]
        pieces = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in text.split()]
        pieces += [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), DONE]
        steps = sse(chunks=pieces, gap=self.gap)
        if asked["messages"][0]["content"] == HOLD:
            steps.insert(2, wait(self.release))
        return steps


class OpenStream:
    """A stream whose first event has come and whose rest is held back by the upstream."""

    def __init__(self, client: RawClient, head: RawResponse) -> None:
        self.client = client
        self.head = head

    async def rest(self) -> RawResponse:
        """Read to the end, whatever it is."""
        try:
            async for piece in self.client.body(self.head):
                self.head.body += piece
            self.head.complete = True
        except BROKEN:
            pass
        return self.head


@asynccontextmanager
async def open_stream(gateway: Reachable, key: str | None = None) -> AsyncIterator[OpenStream]:
    async with await gateway.connect() as client:
        await client.post_chat(key or gateway.key, chat_body(HOLD, stream=True))
        head = await client.read_head()
        assert head.status == 200
        yield OpenStream(client, head)


class Traffic:
    """Clients that ask again and again, streamed and plain in turn, each on fresh connections, and note what they got whole.

    Leaving the block lets the requests under way end. A connection that breaks ends its client, unless `persistent`.
    """

    def __init__(self, gateway: Reachable, clients: int = 4, *, persistent: bool = False) -> None:
        self._gateway = gateway
        self._clients = clients
        self._persistent = persistent
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: list[str] = []
        """Ids of the answers that came whole: `[DONE]` of a stream, every byte of a plain one."""
        self.streamed: set[str] = set()
        self.others: list[RawResponse] = []
        """Answers that were refusals, or broke off."""
        self.seconds: list[float] = []
        self.broken = 0

    async def _client(self, streamed: bool) -> None:
        while not self._stopped:
            try:
                await self._ask(streamed)
            except BROKEN:
                self.broken += 1
                if not self._persistent:
                    return
                await asyncio.sleep(0.02)
            streamed = not streamed

    async def _ask(self, streamed: bool) -> None:
        started = time.monotonic()
        response = await self._gateway.chat("Count to five.", stream=streamed)
        if response.status == 200 and (response.done if streamed else response.complete):
            assert response.request_id is not None
            self.seconds.append(time.monotonic() - started)
            self.acknowledged.append(response.request_id)
            if streamed:
                self.streamed.add(response.request_id)
        else:
            self.others.append(response)

    async def answered(self, count: int, within: float = 20.0) -> None:
        """Wait until so many more answers have come whole."""
        wanted = len(self.acknowledged) + count
        await eventually(lambda: len(self.acknowledged) >= wanted, within)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client(bool(number % 2))) for number in range(self._clients)]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


# ── what the files say ──────────────────────────────────────────────────────────────────────────────────────────────────────


def logs_file(directory: Path) -> Path:
    return directory / "muxx-logs.db"


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask a database beside whoever has it open."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def rows(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Every stored row: id to (status, ended_by, error_code, position). That no id is stored twice is checked on the way."""
    found = query(logs_file(directory), "SELECT request_id, status, ended_by, error_code, position FROM generations")
    by_id = {row[0]: row[1:] for row in found}
    assert len(by_id) == len(found)
    return by_id


def all_in_order(directory: Path) -> bool:
    """SQLite finds nothing wrong with either file."""
    return all(query(path, "PRAGMA integrity_check") == [("ok",)] for path in (directory / "muxx.db", logs_file(directory)))


def open_requests(directory: Path) -> set[str]:
    """Ids that have a trace and no row, in the files of a gateway that does not run."""
    traced = {row[0] for row in query(logs_file(directory), "SELECT request_id FROM open_requests")}
    ended = set(rows(directory))
    for segment in segments(directory / "muxx.db.journal"):
        offset, end = -1, 0
        while end > offset:
            offset = end
            lines, end = read_segment(segment.path, offset)
            traced |= {line.request_id for line in lines if line.kind == "trace"}
            ended |= {line.request_id for line in lines if line.kind != "trace"}
    return traced - ended


def stderr_lines(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """What the gateway logged; each line has to be a JSON object."""
    return [orjson.loads(line) for line in gateway.stderr.split("\n") if line]


def messages(gateway: GatewayProcess) -> str:
    return "\n".join(line["message"] for line in stderr_lines(gateway))


# ── what /proc says ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def at_once(gateway: GatewayProcess, count: int, **members: Any) -> list[RawResponse]:
    """So many requests over many connections that are all open before the first is sent; those that broke are left out."""
    clients = [await gateway.connect() for _ in range(AT_A_TIME)]
    barrier = asyncio.Barrier(AT_A_TIME)

    async def ask(client: RawClient) -> list[RawResponse]:
        answers = []
        async with client:
            await barrier.wait()
            try:
                for _ in range(count // AT_A_TIME):
                    await client.post_chat(gateway.key, chat_body("Count to five.", **members))
                    answers.append(await client.read_response())
            except BROKEN:
                pass
        return answers

    return [answer for answers in await asyncio.gather(*map(ask, clients)) for answer in answers]


def children(pid: int) -> list[int]:
    """The living children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
    return sorted(found)


def open_files(pid: int) -> list[str]:
    found = []
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
            except OSError:
                continue
    except OSError:
        pass
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def recorder_of(gateway: GatewayProcess) -> int | None:
    """The supervisor's child that holds the recorder's lock."""
    for pid in children(gateway.process.pid):
        if any(name.endswith("/recorder.lock") for name in open_files(pid)):
            return pid
    return None


def keeper_of(gateway: GatewayProcess) -> int | None:
    """The supervisor's child that does what is to be done once on a host."""
    for pid in children(gateway.process.pid):
        if any(".journal/keeper" in name for name in open_files(pid)):
            return pid
    return None


def peak(pid: int | str = "self") -> int:
    """The most memory a process has had since `forget_peak`, in bytes."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024


def forget_peak(pid: int | str = "self") -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def workers_of(gateway: GatewayProcess) -> list[int]:
    """The supervisor's children that have a worker's journal open."""
    return [pid for pid in children(gateway.process.pid) if any(".journal/worker" in name for name in open_files(pid))]


def connections_of(pid: int, port: int) -> int:
    """Established connections to our port that this process serves."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == "01" and int(local.rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{rest[5]}]")
    return sum(name in inodes for name in open_files(pid))

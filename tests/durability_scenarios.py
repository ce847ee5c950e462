"""What is done to a gateway to make it lose rows, at any size: `tests/faults` runs it small, `tests/soak` in full."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from process_kit import Traffic, Upstream, all_in_order, gateway_process, logs_file, open_requests, open_stream, query, rows

from muxx.config import Config
from muxx.errors import StartError
from muxx.host import Host
from muxx.journal import Journal
from muxx.testing import GatewayProcess, RawResponse, eventually
from muxx_std.keys import format
from muxx_std.keys.store import KeyStore, new_row

ACKNOWLEDGED = 20
"""Whole answers the clients have got in each round, at least."""

DIED = (500, "muxx", "process_died")


async def _rows_at_rest(directory: Path) -> dict[str, Any]:
    """The rows, when no more have come for a while: those that nobody waits for come too."""
    found: dict[str, Any] = {}
    while found != (found := rows(directory)):
        await asyncio.sleep(0.5)
    return found


async def kill_again_and_again(directory: Path, *, workers: int, rounds: int, seed: int) -> None:
    """`kill -9` of the process group under load: every answered request keeps its row, every other one is closed once."""
    draw = random.Random(seed)
    acknowledged: set[str] = set()
    died: set[str] = set()
    async with Upstream() as upstream, gateway_process(directory, upstream, workers=workers) as gateway:
        for _ in range(rounds):
            traffic, held = await _until_killed(gateway, draw)
            lost = open_requests(directory)
            assert held in lost, "what was in flight at the kill left no trace"
            acknowledged.update(traffic.acknowledged)
            died |= lost
            await gateway.start()
            await _readable(gateway, traffic.acknowledged)
            await eventually(lambda lost=lost: lost <= set(rows(directory)), 10.0)
            assert not lost & set(traffic.acknowledged)
            assert all_in_order(directory)
        settled = await _rows_at_rest(directory)
        await gateway.restart()
        await asyncio.sleep(0.2)
        assert rows(directory) == settled, "a restart without traffic changes no row"
    assert {settled[request_id][0] for request_id in acknowledged} == {200}
    assert {settled[request_id][:3] for request_id in died} <= {DIED}
    assert {request_id for request_id, row in settled.items() if row[2] == "process_died"} == died


async def _until_killed(gateway: GatewayProcess, draw: random.Random) -> tuple[Traffic, str]:
    """The traffic until a kill, and the id of a stream that was surely in flight then."""
    async with open_stream(gateway) as held, Traffic(gateway, clients=6) as traffic:
        await traffic.answered(ACKNOWLEDGED)
        await asyncio.sleep(draw.uniform(0.0, 0.1))
        await gateway.kill()
    assert traffic.others == [] or all(not answer.complete for answer in traffic.others)
    assert 0 < len(traffic.streamed) < len(traffic.acknowledged)
    assert held.head.request_id is not None
    return traffic, held.head.request_id


async def _readable(gateway: GatewayProcess, request_ids: list[str]) -> None:
    """Each has its row, with the status its client saw, at once."""
    for request_id in request_ids:
        answer = await gateway.get(f"/v1/logs/{request_id}")
        assert answer.status == 200, (request_id, answer.text)
        assert answer.json()["status"] == 200, answer.text


async def lock_the_database(directory: Path, *, seconds: float, workers: int) -> None:
    """Another process holds the write locks under load: no request waits, each row is readable, none is lost or doubled."""
    async with Upstream() as upstream, gateway_process(directory, upstream, workers=workers) as gateway:
        async with Traffic(gateway) as before:
            await before.answered(100)
        await eventually(lambda: set(before.acknowledged) <= set(rows(directory)))
        with locked(directory / "muxx.db"), locked(logs_file(directory)):
            async with Traffic(gateway) as during:
                await asyncio.sleep(seconds)
                await _readable(gateway, during.acknowledged[:20])
            assert not set(during.acknowledged) & set(rows(directory)), "the lock locked nothing"
            assert (await gateway.get("/healthz")).status == 200
            await _readable(gateway, during.acknowledged[-20:])
        await eventually(lambda: set(during.acknowledged) <= set(rows(directory)), 10.0)
    assert during.others == []
    assert during.broken == 0
    assert statistics.median(during.seconds) <= 10 * statistics.median(before.seconds)
    assert max(during.seconds) <= 10 * max(before.seconds) + 1.0
    assert len(rows(directory)) == len(before.acknowledged) + len(during.acknowledged)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else writes to the database meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def corrupted(path: Path, way: str, draw: random.Random) -> None:
    """Damage a database file as disks and people do."""
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    if way == "header":
        position = draw.randrange(16)
        data[position] ^= 0xFF
    elif way == "page":
        start = draw.randrange(1, len(data) // page) * page
        data[start : start + page] = bytes(byte ^ 0xFF for byte in data[start : start + page])
    elif way == "first page":
        data[100:page] = bytes(byte ^ 0xFF for byte in data[100:page])
    elif way == "truncated":
        del data[draw.randrange(1, len(data) - page) :]
    else:
        assert way == "empty"
        data.clear()
    path.write_bytes(data)


WAYS = ("header", "page", "first page", "truncated", "empty")


async def reload_under_load(directory: Path, *, reloads: int, workers: int) -> None:
    """Good and broken files in turn under load: no request notices, and each good file counts."""
    async with Upstream() as upstream, gateway_process(directory, upstream, workers=workers) as gateway:
        good = gateway.config_path.read_text()
        async with Traffic(gateway) as traffic:
            for number in range(reloads):
                refused = gateway.stderr.count("reload refused")
                gateway.config_path.write_text(good[: len(good) // 2])
                gateway.reload()
                await eventually(lambda refused=refused: gateway.stderr.count("reload refused") > refused)
                gateway.config_path.write_text(good + f'\n[[models]]\nname = "made-{number}"\ntargets = ["openai/gpt-4o"]\n')
                gateway.reload()
                await _routable(gateway, f"made-{number}")
            await traffic.answered(1)
        await eventually(lambda: set(traffic.acknowledged) <= set(rows(directory)))
    assert traffic.others == []
    assert traffic.broken == 0
    assert gateway.stderr.count("reload refused") == reloads


async def _routable(gateway: GatewayProcess, model: str, within: float = 10.0) -> None:
    """Wait until every worker serves the model: so many fresh connections in a row meet each of them."""
    deadline, answers = time.monotonic() + within, 0
    while answers < 16:
        served = (await gateway.chat(model=model)).status == 200
        answers = answers + 1 if served else 0
        assert time.monotonic() < deadline, f"{model} is still unknown to a worker"
        if not served:
            await asyncio.sleep(0.02)


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, or a skipped test where mounting one is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def fill_the_disk(directory: Path, *, times: int, workers: int) -> None:
    """Under load: full, refused with `log_unavailable`, room again, answered again; what was acknowledged on the way is there."""
    async with Upstream() as upstream, gateway_process(directory, upstream, workers=workers) as gateway:
        async with Traffic(gateway, persistent=True) as traffic:
            for _ in range(times):
                await traffic.answered(ACKNOWLEDGED)
                await eventually(lambda: (directory / "muxx.db.journal" / "ballast").exists(), 20.0)
                traffic.others.clear()
                await _fill_until(directory, lambda: len(traffic.others) >= ACKNOWLEDGED)
                refusals = list(traffic.others)
                assert {code_of(answer) for answer in refusals} == {"log_unavailable"}
                assert {answer.status for answer in refusals} <= {200, 503}
                assert not (directory / "muxx.db.journal" / "ballast").exists(), "the reserve was not used"
                (directory / "filler").unlink()
                freed = time.monotonic()
                await traffic.answered(ACKNOWLEDGED, 10.0)
                assert time.monotonic() - freed < 10.0
        await eventually(lambda: set(traffic.acknowledged) <= set(rows(directory)), 20.0)
        stored = rows(directory)
        assert {stored[request_id][0] for request_id in traffic.acknowledged} == {200}
        await gateway.ready(10.0)
        assert all_in_order(directory)
    assert traffic.broken == 0


def code_of(answer: RawResponse) -> str | None:
    """The error's code, of a refusal or of a stream that ended in an error event."""
    error = answer.events[-1]["error"] if answer.status == 200 else answer.error
    code: str | None = error["code"]
    return code


async def _fill_until(directory: Path, enough: Callable[[], bool], within: float = 30.0) -> None:
    """Take what space there is, and what becomes free, until enough requests were refused."""
    deadline = time.monotonic() + within
    with (directory / "filler").open("ab", buffering=0) as filler:
        while not enough():
            assert time.monotonic() < deadline, "the disk is full and no request was refused"
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                await asyncio.sleep(0.02)


async def start_after_a_crash(directory: Path, *, stored: int, opened: int, within: float) -> None:
    """So many rows, and so many requests that a dead writer left open: ready in time, and each open request closed once."""
    async with Upstream() as upstream:
        gateway = gateway_process(directory, upstream, workers=2)
        async with gateway:
            answer = await gateway.chat()
            await eventually(lambda: answer.request_id in rows(directory))
        [template] = query(logs_file(directory), "SELECT * FROM generations")
        with closing(sqlite3.connect(logs_file(directory))) as connection, connection:
            marks = ", ".join("?" for _ in template)
            values = ((number, f"req_{number:026d}", *template[2:]) for number in range(2, stored + 2))
            connection.executemany(f"INSERT INTO generations VALUES ({marks})", values)
        journal = Journal(directory / "muxx.db.journal", "worker0", segment_seconds=0.0)
        for number in range(opened):
            journal.trace({"request_id": f"req_open{number:022d}", "started_at": 1.5, "status": 0, "project": "default"})
            if number % 1000 == 0:
                journal.rotate_if_due()
        journal.close()
        started = time.monotonic()
        await gateway.start(within=10 * within)
        assert time.monotonic() - started <= within
        try:
            await eventually(lambda: len(rows(directory)) == 1 + stored + opened, 30.0)
            await asyncio.sleep(0.2)
            closed = [row[:3] for request_id, row in rows(directory).items() if request_id.startswith("req_open")]
            assert closed == [DIED] * opened
        finally:
            await gateway.kill()


async def with_keys(directory: Path) -> bytes:
    """The bytes of a database with a hundred keys."""
    directory.mkdir(exist_ok=True)
    async with Host.open(Config.model_validate({"database": {"path": str(directory / "original.db")}})) as host:
        store = await KeyStore.prepared(host)
        for _ in range(100):
            await store.add(new_row(format.generate("live"), b"pepper", project="default"))
    return (directory / "original.db").read_bytes()


async def refuse_damaged_copies(directory: Path, *, copies: int, seed: int) -> None:
    """Each copy is refused with exit code 3 and one line, and left as it is."""
    draw = random.Random(seed)
    original = await with_keys(directory)
    for number in range(copies):
        place = directory / f"copy{number}"
        place.mkdir()
        path, way = place / "muxx.db", WAYS[number % len(WAYS)]
        path.write_bytes(original)
        corrupted(path, way, draw)
        damaged = path.read_bytes()
        config = Config.model_validate({"database": {"path": str(path)}, "server": {"secret": "s"}})
        with pytest.raises(StartError) as refusal:
            await Host.open(config)
        assert refusal.value.exit_code == 3
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)
        assert path.read_bytes() == damaged, way

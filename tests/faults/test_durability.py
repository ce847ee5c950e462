"""FAULTS L01-L07, L10, Y03: what is acknowledged is recorded, whatever happens to the process, the database or the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from carrying_kit import row_of_user
from durability_scenarios import (
    corrupted,
    fill_the_disk,
    kill_again_and_again,
    lock_the_database,
    locked,
    refuse_damaged_copies,
    small_disk,
    start_after_a_crash,
    with_keys,
)
from process_kit import Upstream, all_in_order, gateway_process, logs_file, messages, query, rows

from muxx.sqlite import Connection
from muxx.testing import (
    GatewayProcess,
    RunningGateway,
    ScriptedUpstream,
    chat,
    chat_body,
    clean_environment,
    eventually,
    get,
    hold,
    pause,
    request_body,
    request_target,
)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


@pytest.mark.parametrize("workers", [1, 2])
async def test_L01_kill_9_under_load_loses_no_acknowledged_row(tmp_path: Path, workers: int) -> None:
    await kill_again_and_again(tmp_path, workers=workers, rounds=2, seed=workers)


# ── the disk ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("megabytes", [6, 8])  # half of which is the file of counters
async def test_L02_a_full_disk_refuses_requests_and_loses_no_row(tmp_path: Path, megabytes: int) -> None:
    with small_disk(tmp_path / "disk", megabytes) as disk:
        await fill_the_disk(disk, times=1, workers=2)


async def test_L02_a_disk_too_small_to_start_on_is_told_with_what_it_lacks(tmp_path: Path, upstream: Upstream) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        gateway = gateway_process(disk, upstream)
        with pytest.raises(AssertionError):
            await gateway.start()
        assert gateway.process.returncode == 3
        said = r"no room for the counters of [a-z.]+, \d+ KiB: No space left on device\. Make room there\."
        assert re.search(said, messages(gateway))


class FullDisk:
    """While `full`, no byte can be added to the journal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._write = os.writev
        monkeypatch.setattr(os, "writev", self.write)

    def write(self, fd: int, pieces: Sequence[bytes]) -> int:
        if self.full and os.readlink(f"/proc/self/fd/{fd}").endswith(".seg"):
            raise OSError(errno.ENOSPC, "no space left on device")
        return self._write(fd, pieces)


async def test_L02_what_cannot_be_recorded_is_not_acknowledged(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full before the call: 503, and nothing is sent. Full before the end: the answer ends in an error. Room again: as before."""
    disk = FullDisk(monkeypatch)
    disk.full = True
    refused = await muxx_gateway.chat()
    assert (refused.status, refused.error["code"], refused.header("x-should-retry")) == (503, "log_unavailable", "true")
    assert scripted_upstream.requests == []
    assert (await muxx_gateway.get("/readyz")).status == 503

    disk.full = False
    await _ready_again(muxx_gateway)
    for streamed in (False, True):
        async with await muxx_gateway.connect() as client:
            scripted_upstream.choose = lambda request: [pause(0.1), *chat()(request)]
            seen = len(scripted_upstream.requests)
            await client.post_chat(muxx_gateway.key, chat_body(stream=streamed))
            await scripted_upstream.request(seen + 1)
            disk.full = True
            answer = await client.read_response()
        assert not answer.done
        error = answer.events[-1]["error"] if streamed else answer.error
        assert (answer.status, error["code"]) == (200 if streamed else 503, "log_unavailable")
        disk.full = False
        await _ready_again(muxx_gateway)
    answer = await muxx_gateway.chat()
    assert (await muxx_gateway.get_row(answer.request_id))["status"] == 200


async def _ready_again(gateway: RunningGateway) -> None:
    for _ in range(500):
        if (await gateway.get("/readyz")).status == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("readiness did not come back")


# ── the database ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_L04_a_locked_database_delays_no_request_and_loses_no_row(tmp_path: Path) -> None:
    await lock_the_database(tmp_path, seconds=2.0, workers=2)


async def test_L05_no_damaged_copy_is_opened_or_changed(tmp_path: Path) -> None:
    await refuse_damaged_copies(tmp_path, copies=25, seed=5)


async def test_L05_a_damaged_database_stops_the_start_with_one_line(tmp_path: Path) -> None:
    original = await with_keys(tmp_path)

    def start(way: str) -> tuple[int, str, bool]:
        directory = tmp_path / way
        directory.mkdir()
        path = directory / "muxx.db"
        path.write_bytes(original)
        corrupted(path, way, random.Random(7))
        damaged = path.read_bytes()
        code, said = refused(directory, secret="s")
        return code, said, path.read_bytes() == damaged

    ways = ("header", "page")
    starts = await asyncio.gather(*(asyncio.to_thread(start, way) for way in ways))
    for way, (code, said, unchanged) in zip(ways, starts, strict=True):
        lines = [line for line in said.splitlines() if "created" not in line]
        assert (code, len(lines), unchanged) == (3, 1, True), (way, said)
        assert "muxx.db: " in lines[0]


async def test_L05_a_new_log_is_begun_only_where_that_is_asked_for_and_the_old_one_kept(
    tmp_path: Path, upstream: Upstream
) -> None:
    """However it is lost, requests are served again, and what there was of the log is beside the new one as it was."""
    logs = logs_file(tmp_path)

    def stored(request_id: str | None) -> bool:
        return request_id in rows(tmp_path)

    gateway = GatewayProcess(tmp_path, upstream.base_url, arguments=("--new-log",))
    for content in (None, b"no database any more", b""):
        if logs.exists():
            logs.unlink()
            if content:
                logs.write_bytes(content)
            code, said = outcome(gateway.config_path)
            assert (code, "muxx serve --new-log" in said) == (3, True), said
            assert (logs.read_bytes() if logs.exists() else b"") == content
        async with gateway:
            answer = await gateway.chat()
            assert (await gateway.get_row(answer.request_id))["status"] == 200
            await eventually(partial(stored, answer.request_id), 10.0)
    [aside] = tmp_path.glob("muxx-logs.2*Z.db")
    assert aside.read_bytes() == b"no database any more"


def outcome(config: Path) -> tuple[int, str]:
    """Exit code and output of `muxx serve` where it should not come up."""
    command = [sys.executable, "-m", "muxx", "serve", "--config", str(config)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def refused(directory: Path, **server: str) -> tuple[int, str]:
    """The outcome with these settings."""
    settings = "".join(f", {name} = {value!r}" for name, value in server.items())
    (directory / "muxx.toml").write_text(f"server = {{port = 0, workers = 2{settings}}}\ndatabase = {{path = 'muxx.db'}}\n")
    return outcome(directory / "muxx.toml")


@pytest.mark.parametrize("suffix", [".secret", ".lock", ".shared", ".journal"])
def test_L05_a_file_beside_the_database_that_cannot_be_used_stops_the_start_with_one_line(suffix: str, tmp_path: Path) -> None:
    """As where it is another user's; root may read those too, so here something else is in its place."""
    path = tmp_path / f"muxx.db{suffix}"
    if suffix == ".journal":
        path.write_bytes(b"")
    else:
        path.mkdir()
    code, said = refused(tmp_path)
    lines = [line for line in said.splitlines() if "created" not in line]
    assert (code, len(lines)) == (3, 1), said
    assert str(path) in lines[0]


async def test_L05_the_counters_file_that_is_deleted_while_muxx_runs_is_told_of_and_made_anew_by_a_restart(
    tmp_path: Path, upstream: Upstream
) -> None:
    gateway = GatewayProcess(tmp_path, upstream.base_url)
    async with gateway:
        (tmp_path / "muxx.db.shared").unlink()
        await eventually(lambda: "muxx.db.shared: was deleted while muxx runs" in gateway.stderr)
        with pytest.raises(AssertionError, match=r"exited with 3: .*Restart muxx"):
            await gateway.run("keys", "list")
        assert (await gateway.chat()).status == 200
    async with gateway:
        await gateway.run("keys", "list")
        assert (await gateway.chat()).status == 200


async def test_L07_a_cancelled_write_is_whole_or_not_there_and_leaves_no_transaction_open(muxx_gateway: RunningGateway) -> None:
    db = muxx_gateway.gateway.db

    async def table(connection: Connection) -> None:
        await connection.execute("CREATE TABLE pairs (number INTEGER, half INTEGER)")

    async def pair(connection: Connection, number: int) -> None:
        await connection.execute("INSERT INTO pairs VALUES (?, 1)", (number,))
        await connection.execute("INSERT INTO pairs VALUES (?, 2)", (number,))

    await db.write(table)
    tasks = []
    for number in range(200):
        task = asyncio.create_task(db.write(lambda connection, number=number: pair(connection, number)))
        for _ in range(number % 20):
            await asyncio.sleep(0)
        task.cancel()
        tasks.append(task)
    await asyncio.gather(*tasks, return_exceptions=True)
    await db.write(lambda connection: pair(connection, 1000))
    found = [row[0] for row in await db.read("SELECT count(*) FROM pairs GROUP BY number")]
    assert set(found) == {2}
    assert len(found) > 1, "every write was cancelled before it began: nothing was proved"
    with locked(muxx_gateway.directory / "muxx.db"):
        assert query(muxx_gateway.directory / "muxx.db", "SELECT max(number) FROM pairs") == [(1000,)]


async def test_L07_clients_that_leave_at_any_moment_leave_one_row_each(
    muxx_gateway: RunningGateway, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.choose = lambda request: [pause(0.002), *chat()(request)]

    async def leave(number: int) -> None:
        async with await muxx_gateway.connect() as client:
            await client.post_chat(muxx_gateway.key, chat_body(stream=bool(number % 2)))
            await asyncio.sleep(number / 100 * 0.03)
            client.reset()

    for start in range(0, 100, 10):
        await asyncio.gather(*map(leave, range(start, start + 10)))
    await eventually(lambda: len(rows(muxx_gateway.directory)) >= len(scripted_upstream.requests) > 0)
    assert {row[0] for row in rows(muxx_gateway.directory).values()} <= {200, 499}
    assert (await muxx_gateway.chat()).status == 200
    assert all_in_order(muxx_gateway.directory)


async def test_L10_ids_of_clients_never_become_the_key(muxx_gateway: RunningGateway) -> None:
    mine = "req_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    headers = dict.fromkeys(("x-request-id", "X-Muxx-Request-Id", "request-id", "idempotency-key"), mine)
    answers: list[Any] = []
    for _ in range(10):
        answers += await asyncio.gather(*(muxx_gateway.chat(headers=headers) for _ in range(10)))
    ids = {answer.request_id for answer in answers}
    assert len(ids) == 100
    assert mine not in ids
    await eventually(lambda: ids <= set(rows(muxx_gateway.directory)))
    assert (await get(muxx_gateway.base_url, f"/v1/logs/{mine}", muxx_gateway.key)).status == 404


async def test_Y03_a_start_after_a_crash_closes_each_open_request_once(tmp_path: Path) -> None:
    await start_after_a_crash(tmp_path, stored=10_000, opened=100, within=15.0)


async def test_L01_a_count_of_tokens_whose_process_was_killed_costs_nothing(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script([hold()])
    async with gateway_process(tmp_path, upstream) as gateway:
        async with await gateway.connect() as client:
            fields = {"Authorization": f"Bearer {gateway.key}", "X-Muxx-User-Id": "counts"}
            body = orjson.dumps(request_body("count_tokens"))
            await client.request("POST", request_target("count_tokens"), fields, body)
            await upstream.request()
            await gateway.kill()
        await gateway.start()
        row = await row_of_user(gateway, "counts")
        assert (row["phase"], row["attempts"]) == ("head", 1)
        assert (row["usage_source"], row["input_tokens"], row["cost_usd"]) == ("none", 0, "0")

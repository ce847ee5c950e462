"""FAULTS Y*, A08, G02: the supervisor and its children start, die, drain and reload as an operating system makes them."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import orjson
import pytest
from durability_scenarios import reload_under_load
from process_kit import (
    BROKEN,
    Traffic,
    Upstream,
    alive,
    all_in_order,
    children,
    connections_of,
    gateway_process,
    keeper_of,
    messages,
    open_stream,
    recorder_of,
    rows,
    workers_of,
)

from muxx.errors import StartError
from muxx.testing import GatewayProcess, RawClient, eventually, get, unused_port
from muxx.testing.settings import clean_environment
from muxx.worker import listen

OTHER_WORKER_CONNECTIONS = 64
"""So many connections meet both of two workers, but for one time in 2^63."""


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def connections_to_both_workers(gateway: GatewayProcess) -> AsyncIterator[list[RawClient]]:
    """Kept-alive connections, each of which has carried a request; /proc says that every worker serves some."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await gateway.connect()) for _ in range(OTHER_WORKER_CONNECTIONS)]
        assert await statuses(clients, gateway.key) == {200}
        port = int(gateway.base_url.rpartition(":")[2])
        served = [connections_of(pid, port) for pid in workers_of(gateway)]
        assert len(served) == 2
        assert all(served)
        yield clients


async def statuses(clients: list[RawClient], key: str) -> set[int]:
    """What the next request on each of the connections is answered with."""

    async def models(client: RawClient) -> int:
        await client.request("GET", "/v1/models", {"Authorization": f"Bearer {key}"})
        return (await client.read_response()).status

    return set(await asyncio.gather(*map(models, clients)))


async def test_A08_both_workers_obey_the_command_line_on_the_very_next_request(tmp_path: Path, upstream: Upstream) -> None:
    """Created, rotated with and without an overlap, revoked: each time many connections to either worker are asked at once."""
    async with gateway_process(tmp_path, upstream, workers=2) as gateway, connections_to_both_workers(gateway) as clients:
        made = orjson.loads(await gateway.run("keys", "create", "--json"))
        assert await statuses(clients, made["key"]) == {200}, "a new key works at once"
        heir = orjson.loads(await gateway.run("keys", "rotate", made["id"], "--overlap", "1h", "--json"))
        assert await statuses(clients, made["key"]) == {200}, "during the overlap both keys work"
        assert await statuses(clients, heir["key"]) == {200}
        async with open_stream(gateway, made["key"]) as stream:
            await gateway.run("keys", "revoke", made["id"])
            assert await statuses(clients, made["key"]) == {401}, "a revoked key is refused at once, by both"
            assert await statuses(clients, heir["key"]) == {200}, "other keys are not touched"
            upstream.release.set()
            answer = await stream.rest()
        assert answer.done, "a stream that ran when its key was revoked finishes"
        assert (await gateway.get_row(answer.request_id))["status"] == 200
        last = orjson.loads(await gateway.run("keys", "rotate", heir["id"], "--overlap", "0s", "--json"))
        assert await statuses(clients, heir["key"]) == {401}, "without an overlap the new key alone works"
        assert await statuses(clients, last["key"]) == {200}


# ── children that die ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_killed_worker_keeper_or_recorder_is_replaced_and_nothing_is_lost(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream, workers=2) as gateway:
        async with Traffic(gateway, persistent=True) as traffic:
            for victim_of in (lambda: workers_of(gateway)[0], lambda: keeper_of(gateway), lambda: recorder_of(gateway)):
                await traffic.answered(20)
                await _killed_and_replaced(gateway, victim_of())
        await traffic_is_served_by_two(gateway)
        await eventually(lambda: set(traffic.acknowledged) <= set(rows(tmp_path)))
        stored = rows(tmp_path)
        assert {stored[request_id][0] for request_id in traffic.acknowledged} == {200}
        assert {row[:3] for row in stored.values()} <= {(200, None, None), (500, "muxx", "process_died")}
        assert all_in_order(tmp_path)
        assert messages(gateway).count("starting it again") == 3


def with_plugin(directory: Path, upstream: Upstream, source: str, workers: int = 1, **environment: str) -> GatewayProcess:
    """A gateway to start, with a plugin of one file."""
    plugins = directory / "plugins"
    plugins.mkdir()
    (plugins / "own.py").write_text(source)
    return gateway_process(directory, upstream, workers=workers, MUXX_PLUGINS_DIR=str(plugins), **environment)


KEEPING = """
import os

import muxx


class Keeping:
    @muxx.hookimpl
    async def lifespan(self, gateway):
        async def once():
            note("once")

        async def everywhere():
            note("everywhere")

        def note(word):
            with open(os.environ["NOTES"], "a") as file:
                file.write(f"{word} {os.getpid()}\\n")

        gateway.every(0.02, once, name="once", once_per_host=True)
        gateway.every(0.02, everywhere, name="everywhere")
        yield
"""


async def test_what_is_done_once_on_a_host_is_done_by_the_keeper_which_stands_back(tmp_path: Path, upstream: Upstream) -> None:
    notes = tmp_path / "notes.txt"
    async with with_plugin(tmp_path, upstream, KEEPING, workers=2, NOTES=str(notes)) as gateway:
        await eventually(lambda: notes.exists() and len(set(notes.read_text().splitlines())) == 3)
        await asyncio.sleep(0.2)
        keeper, workers = keeper_of(gateway), workers_of(gateway)
        assert keeper is not None
        assert set(notes.read_text().splitlines()) == {f"once {keeper}", *(f"everywhere {worker}" for worker in workers)}
        assert os.getpriority(os.PRIO_PROCESS, keeper) > os.getpriority(os.PRIO_PROCESS, workers[0])


FAILING_KEEPER = """
import os
import sqlite3

import muxx


class FailingKeeper:
    @muxx.hookimpl
    async def lifespan(self, gateway):
        if gateway.worker < 0 and not os.path.exists(os.environ["FAILED"]):
            open(os.environ["FAILED"], "w").close()
            raise sqlite3.OperationalError("database or disk is full")
        yield
"""


async def test_a_keeper_that_cannot_start_beside_workers_that_serve_is_started_again(tmp_path: Path, upstream: Upstream) -> None:
    failed = tmp_path / "failed"
    async with with_plugin(tmp_path, upstream, FAILING_KEEPER, FAILED=str(failed)) as gateway:
        await eventually(lambda: "keeper ended" in messages(gateway))
        assert failed.exists()
        assert (await gateway.chat()).status == 200
        await eventually(lambda: keeper_of(gateway) is not None)


async def test_the_log_is_read_in_processes_of_the_workers(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream) as gateway:
        [worker] = workers_of(gateway)
        assert (await gateway.chat()).status == 200
        assert children(worker) == []
        assert (await gateway.get("/v1/logs")).status == 200
        [scanner] = children(worker)
        os.kill(scanner, signal.SIGKILL)
        await eventually(lambda: not alive(scanner))
        answers = [(await gateway.get("/v1/logs")).status for _ in range(2)]
        assert answers[-1] == 200
        os.kill(worker, signal.SIGKILL)
        await eventually(lambda: not any(map(alive, children(worker))))


async def _killed_and_replaced(gateway: GatewayProcess, victim: int | None) -> None:
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: not alive(victim))
    await eventually(lambda: len(workers_of(gateway)) == 2 and keeper_of(gateway) and recorder_of(gateway), 10.0)


async def traffic_is_served_by_two(gateway: GatewayProcess) -> None:
    async with connections_to_both_workers(gateway):
        pass


EXITS = """
import os
import muxx

class Exits:
    @muxx.hookimpl
    def pre_request(self, exchange):
        if exchange.request.user_id == "exit":
            os._exit(3)
"""


async def test_a_worker_that_has_served_and_ends_with_the_code_of_a_failed_start_is_replaced(
    tmp_path: Path, upstream: Upstream
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "exits.py").write_text(EXITS)
    gateway = gateway_process(tmp_path, upstream, MUXX_PLUGINS_DIR=str(plugins))
    await gateway.start()
    try:
        with pytest.raises(BROKEN):
            await gateway.chat(headers={"X-Muxx-User-Id": "exit"})
        assert (await gateway.chat()).status == 200
        assert "worker 0 ended (exit code 3); starting it again" in messages(gateway)
    finally:
        await gateway.kill()


async def test_a_worker_that_dies_again_and_again_is_started_later_and_later(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream, workers=2) as gateway:
        spared, gaps = workers_of(gateway)[1], []
        for _ in range(3):
            known = set(children(gateway.process.pid))
            os.kill(next(pid for pid in workers_of(gateway) if pid != spared), signal.SIGKILL)
            killed = time.monotonic()
            await eventually(lambda known=known: set(children(gateway.process.pid)) - known, 10.0)
            gaps.append(time.monotonic() - killed)
            await eventually(lambda: len(workers_of(gateway)) == 2)
        assert gaps[0] >= 0.15
        assert gaps[1] >= 0.35
        assert gaps[2] >= 0.75
        assert alive(spared)


async def test_children_end_when_their_supervisor_is_killed(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream, {"server": {"shutdown_grace_s": 0.2}}, workers=2) as gateway:
        async with open_stream(gateway):
            family = children(gateway.process.pid)
            assert len(family) == 4
            gateway.process.kill()
            await gateway.wait()
            await eventually(lambda: not any(map(alive, family)))
        await gateway.start()
        assert (await gateway.chat()).status == 200


async def test_orphans_leave_the_address_at_once_and_the_database_with_their_last_request(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with gateway_process(tmp_path, upstream, workers=2) as gateway, open_stream(gateway) as stream:
        gateway.process.kill()
        await gateway.wait()
        async with asyncio.timeout(5.0):
            while not await refused(gateway):
                await asyncio.sleep(0.01)
        second = await asyncio.to_thread(serve, tmp_path)
        assert (second.returncode, "another instance" in second.stderr) == (3, True), "the stream's worker is still the owner"
        upstream.release.set()
        answer = await stream.rest()
        assert answer.done
        await gateway.start()
        assert (await gateway.get_row(answer.request_id))["status"] == 200
        assert (await gateway.chat()).status == 200


# ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def refused(gateway: GatewayProcess) -> bool:
    """A new connection is turned away: at once, not after waiting in a queue nobody serves."""
    try:
        async with await gateway.connect():
            return False
    except ConnectionRefusedError:
        return True


async def test_Y01_sigterm_lets_streams_finish_and_refuses_new_connections(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream, workers=2) as gateway, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(open_stream(gateway)) for _ in range(12)]
        idle = await stack.enter_async_context(await gateway.connect())
        await idle.request("GET", "/readyz")
        assert (await idle.read_response()).status == 200
        gateway.terminate()
        await asyncio.sleep(0.3)
        assert [await refused(gateway) for _ in range(8)] == [True] * 8
        await idle.request("GET", "/readyz")
        assert (await idle.read_response()).status == 503
        upstream.release.set()
        answers = await asyncio.gather(*(stream.rest() for stream in streams))
        assert all(answer.done and answer.complete for answer in answers)
        assert await gateway.wait(10.0) == 0
        stored = rows(tmp_path)
        assert [stored[str(answer.request_id)][0] for answer in answers] == [200] * len(answers)


async def test_Y01_streams_that_outlast_the_grace_end_with_an_error_event_and_a_row(tmp_path: Path, upstream: Upstream) -> None:
    config = {"server": {"shutdown_grace_s": 0.3}}
    async with gateway_process(tmp_path, upstream, config, workers=2) as gateway, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(open_stream(gateway)) for _ in range(6)]
        gateway.terminate()
        answers = await asyncio.gather(*(stream.rest() for stream in streams))
        assert await gateway.wait(10.0) == 0
        stored = rows(tmp_path)
        for answer in answers:
            assert answer.complete
            assert not answer.done
            assert answer.events[-1]["error"]["code"] == "shutting_down"
            assert stored[str(answer.request_id)][:3] == (200, "muxx", "shutting_down")


@pytest.mark.parametrize(("workers", "second"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
async def test_Y02_a_second_signal_ends_the_grace(
    tmp_path: Path, upstream: Upstream, workers: int, second: signal.Signals
) -> None:
    async with gateway_process(tmp_path, upstream, workers=workers) as gateway, open_stream(gateway) as stream:
        gateway.terminate()
        await asyncio.sleep(0.2)
        hurried = time.monotonic()
        gateway.signal(second)
        answer = await stream.rest()
        assert await gateway.wait(20.0) == 0
        assert time.monotonic() - hurried < 20.0
        assert answer.events[-1]["error"]["code"] == "shutting_down"
        assert rows(tmp_path)[str(answer.request_id)][:3] == (200, "muxx", "shutting_down")


async def test_Y02_signals_up_to_its_very_end_do_not_change_its_exit_code(tmp_path: Path, upstream: Upstream) -> None:
    """Python takes its handlers away some time before it ends, when everything has been stored already."""
    async with gateway_process(tmp_path, upstream) as gateway:
        while gateway.process.poll() is None:
            gateway.terminate()
            await asyncio.sleep(0.005)
        assert gateway.process.returncode == 0


async def test_signals_on_which_others_reopen_their_logs_do_nothing(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream) as gateway:
        before = children(gateway.process.pid)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            for pid in (gateway.process.pid, *before):
                os.kill(pid, number)
        assert (await gateway.chat()).status == 200
        assert children(gateway.process.pid) == before


async def test_Y02_a_signal_during_the_start_ends_it(tmp_path: Path, upstream: Upstream) -> None:
    gateway = gateway_process(tmp_path, upstream, workers=2)
    for delay in (0.3, 1.0):
        start = asyncio.create_task(gateway.start())
        await asyncio.sleep(delay)
        gateway.terminate()
        assert await gateway.wait(20.0) in (0, -signal.SIGTERM)
        with suppress(AssertionError):  # it did not become ready, or it did just before
            await start
    async with gateway:
        assert (await gateway.chat()).status == 200
        assert all_in_order(tmp_path)


# ── the start ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def serve(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`muxx serve` where it should not come up: its exit code and output."""
    return muxx(directory, "serve", *arguments)


def muxx(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "muxx", *arguments, "--config", str(directory / "muxx.toml")]
    return subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False)


async def test_Y04_what_is_taken_is_refused_with_one_line_and_its_owner_is_unharmed(tmp_path: Path, upstream: Upstream) -> None:
    """The port is taken (4), the database has an owner (3), the database cannot be made (3)."""
    neighbour = tmp_path / "neighbour"
    nowhere = tmp_path / "nowhere"
    async with gateway_process(tmp_path, upstream, workers=2) as gateway:
        port = gateway.base_url.rpartition(":")[2]
        for directory, path in ((neighbour, "muxx.db"), (nowhere, "missing/muxx.db")):
            directory.mkdir()
            (directory / "muxx.toml").write_text(f'server = {{workers = 2}}\ndatabase = {{path = "{path}"}}\n')
        attempts = await asyncio.gather(
            asyncio.to_thread(serve, neighbour, "--port", port),
            asyncio.to_thread(serve, tmp_path, "--port", str(unused_port())),
            asyncio.to_thread(serve, nowhere, "--port", str(unused_port())),
        )
        assert [attempt.returncode for attempt in attempts] == [4, 3, 3]
        for attempt, words in zip(attempts, ("cannot listen on", "another instance", "missing/muxx.db"), strict=True):
            assert attempt.stdout == ""
            assert attempt.stderr.count("\n") == 1, attempt.stderr
            assert words in attempt.stderr
        answers = [await gateway.chat() for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        for answer in answers:
            await gateway.get_row(answer.request_id)
        assert all_in_order(tmp_path)


async def test_Y04_a_database_is_one_however_it_is_reached(tmp_path: Path, upstream: Upstream) -> None:
    """Through a link to the file or to its folder: no second instance beside the first, and commands see what it sees."""
    home, folder, other = tmp_path / "home", tmp_path / "folder", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    folder.symlink_to("home")
    async with gateway_process(home, upstream) as gateway:
        (other / "linked.db").symlink_to(home / "muxx.db")
        for directory, path in ((folder, folder / "muxx.db"), (other, "linked.db")):
            (directory / "muxx.toml").write_text(f'database = {{path = "{path}"}}\n')
            second = await asyncio.to_thread(serve, directory, "--port", str(unused_port()))
            assert (second.returncode, "another instance" in second.stderr) == (3, True), second.stderr
        command = [sys.executable, "-m", "muxx", "keys", "create", "--json", "--config", other / "muxx.toml"]
        made = orjson.loads(await asyncio.to_thread(subprocess.check_output, command, env=clean_environment()))
        assert (await get(gateway.base_url, "/v1/models", made["key"])).status == 200
    assert [entry.name for entry in sorted(other.iterdir())] == ["linked.db", "muxx.toml"]


async def test_Y04_a_database_that_is_locked_stops_a_start_and_a_command_with_3(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream):
        pass
    commands = ("serve", "--port", str(unused_port())), ("keys", "create")
    with closing(sqlite3.connect(tmp_path / "muxx.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = await asyncio.gather(*(asyncio.to_thread(muxx, tmp_path, *command) for command in commands))
    for attempt in done:
        assert (attempt.returncode, attempt.stdout, attempt.stderr.count("\n")) == (3, "", 1), attempt.stderr
        assert "database is locked" in attempt.stderr


COUNT_LOOKUPS = """
import os
from importlib import metadata

look = metadata.distribution

def counted(name):
    if name == "muxx":
        with open("looked", "a") as file:
            print(os.getpid(), file=file)
    return look(name)

metadata.distribution = counted
"""


async def test_a_start_looks_for_plugins_once_and_a_reload_once_in_each_process(tmp_path: Path, upstream: Upstream) -> None:
    """To look through every installed package takes its time, so the children inherit what their supervisor found."""
    (tmp_path / "sitecustomize.py").write_text(COUNT_LOOKUPS)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    async with gateway_process(tmp_path, upstream, workers=2, PYTHONPATH=path) as gateway:
        looked = tmp_path / "looked"
        supervisor, workers = gateway.process.pid, workers_of(gateway)
        await eventually(lambda: recorder_of(gateway) is not None and keeper_of(gateway) is not None)
        keeper = keeper_of(gateway)
        assert looked.read_text().split() == [str(supervisor)]
        gateway.reload()
        await eventually(lambda: messages(gateway).count("configuration reloaded") == 3)
        assert sorted(looked.read_text().split()) == sorted(map(str, (supervisor, supervisor, keeper, *workers)))


async def test_the_first_start_prints_one_key_and_the_line_that_uses_it(tmp_path: Path, upstream: Upstream) -> None:
    gateway = gateway_process(tmp_path, upstream, workers=2, MUXX_BOOTSTRAP_KEY="")
    started = time.monotonic()
    async with gateway:
        assert time.monotonic() - started < 10.0, "ready within a second, times ten"
        printed = [word for word in gateway.stdout.replace("'", " ").split() if word.startswith("muxx_sk_")]
        assert len(set(printed)) == 1
        assert gateway.stdout.count("shown only this once") == 1
        curl = gateway.stdout[gateway.stdout.index("curl ") :]
        said = await asyncio.to_thread(subprocess.check_output, ["sh", "-c", curl], text=True, timeout=30)
        assert "Hello!" in said
        shown = gateway.stdout
        await gateway.restart()
        assert gateway.stdout == shown
        for path in ("/healthz", "/readyz"):  # Y05: no key needed, nothing said
            answer = await get(gateway.base_url, path)
            assert (answer.status, answer.json()) == (200, {"status": "ok"})
            assert answer.header("server") is None


async def test_a_first_key_that_cannot_be_shown_stops_no_start_and_another_is_easily_made(
    tmp_path: Path, upstream: Upstream
) -> None:
    (tmp_path / "stdout.log").symlink_to("/dev/full")
    async with gateway_process(tmp_path, upstream, MUXX_BOOTSTRAP_KEY="") as gateway:
        assert "the first key could not be shown: No space left on device" in messages(gateway)
        gateway.key = orjson.loads(await gateway.run("keys", "create", "--json"))["key"]
        assert (await gateway.chat()).status == 200
        gateway.terminate()
        assert await gateway.wait() == 0
    assert "Traceback" not in gateway.stderr


# ── reload ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_G02_reloads_under_load_are_noticed_by_no_request(tmp_path: Path) -> None:
    await reload_under_load(tmp_path, reloads=1, workers=2)


async def test_G02_a_running_stream_outlives_a_reload(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream, workers=2) as gateway, open_stream(gateway) as stream:
        good = gateway.config_path.read_text()
        gateway.config_path.write_text(good + '\n[[models]]\nname = "new"\ntargets = ["nobody/gpt-4o"]\n')
        gateway.reload()
        await eventually(lambda: messages(gateway).count("reload refused") >= 1)
        await asyncio.sleep(0.5)
        assert len(children(gateway.process.pid)) == 4, "a file no child could start with reaches none of them"
        gateway.config_path.write_text(good + '\n[[models]]\nname = "new"\ntargets = ["openai/gpt-4o"]\n')
        gateway.reload()
        await eventually(lambda: messages(gateway).count("configuration reloaded") == 3)
        assert (await gateway.chat(model="new")).status == 200
        upstream.release.set()
        answer = await stream.rest()
        assert answer.done
        assert (await gateway.get_row(answer.request_id))["status"] == 200
        assert messages(gateway).count("reload refused") == 1, "one broken file, one line"


def test_Y01_who_reads_that_muxx_listens_may_stop_it_at_once(tmp_path: Path) -> None:
    """The line comes before those are there who hear the signal."""
    config = tmp_path / "muxx.toml"
    config.write_text(f"[server]\nport = {unused_port()}\n[providers.mock]\n")
    for _ in range(3):
        command = [sys.executable, "-m", "muxx", "serve", "--config", config]
        with subprocess.Popen(
            command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as serving:
            assert serving.stderr is not None
            while "muxx listens" not in (line := serving.stderr.readline()):
                assert line
            serving.send_signal(signal.SIGTERM)
            said = serving.stderr.read()
            assert (serving.wait(30), "Traceback" in said) == (0, False), said


async def test_G02_what_only_a_start_changes_stays_for_children_that_start_later(tmp_path: Path, upstream: Upstream) -> None:
    """The database and the secret are those of the start, whatever a reload reads and whoever dies after it."""
    async with gateway_process(tmp_path, upstream) as gateway:
        file = tmp_path / "muxx.toml"
        changed = file.read_text().replace('"path" = "muxx.db"', '"path" = "other.db"')
        assert changed != file.read_text()
        file.write_text(changed)
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "takes effect at the next start" in messages(gateway))
        await _killed_and_replaced_alone(gateway, workers_of(gateway)[0])
        response = await gateway.chat()
        assert response.status == 200
        await eventually(lambda: response.request_id in rows(tmp_path))
        assert not (tmp_path / "other.db").exists()


async def _killed_and_replaced_alone(gateway: GatewayProcess, victim: int) -> None:
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: victim not in workers_of(gateway) and len(workers_of(gateway)) == 1, 10.0)


async def test_L04_a_worker_starts_though_the_log_is_locked(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream) as gateway:
        assert (await gateway.chat()).status == 200
        with closing(sqlite3.connect(tmp_path / "muxx-logs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await _killed_and_replaced_alone(gateway, workers_of(gateway)[0])
            response = await gateway.chat()
            assert response.status == 200
            assert "cannot start" not in messages(gateway)
        await eventually(lambda: response.request_id in rows(tmp_path), 15.0)


async def test_G02_a_file_with_which_nobody_could_call_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway_process(tmp_path, upstream) as gateway:
        file = tmp_path / "muxx.toml"
        file.write_text(file.read_text() + '\n[plugins]\nonly = ["cache", "logs"]\n')
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "reload refused" in messages(gateway))
        response = await gateway.chat()
        assert response.status == 200
        await eventually(lambda: response.request_id in rows(tmp_path))


CHANGED_MEANWHILE = """
from pathlib import Path

import muxx


class Meddler:
    @muxx.hookimpl
    def register_providers(self, gateway):
        Path("muxx.toml").write_text("broken")
        Path("word").write_text("broken too")
        Path("plugins/meddler.py").write_text("broken as well")
        return []
"""


async def test_G02_all_processes_take_what_the_supervisor_read(tmp_path: Path, upstream: Upstream) -> None:
    """A file that changes while a reload runs is not taken by some, and refused by others."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    async with gateway_process(tmp_path, upstream, workers=2, MUXX_PLUGINS_DIR=str(folder)) as gateway:
        good = gateway.config_path.read_text()
        gateway.config_path.write_text(good + '\n[[models]]\nname = "${file:word}"\ntargets = ["openai/gpt-4o"]\n')
        (tmp_path / "word").write_text("new")
        (folder / "meddler.py").write_text(CHANGED_MEANWHILE)
        gateway.reload()
        await eventually(lambda: messages(gateway).count("configuration reloaded") == 3)
        assert gateway.config_path.read_text() == "broken"
        assert {(await gateway.chat(model="new")).status for _ in range(OTHER_WORKER_CONNECTIONS)} == {200}
        assert "reload refused" not in messages(gateway)


FAILS_IN_ONE = """
import asyncio
import os

import muxx


class Failing:
    class Config(muxx.PluginConfig):
        how: str = "not"

    def __init__(self, config):
        self.how = config.how

    @muxx.hookimpl
    async def lifespan(self, gateway):
        if gateway.worker == 1 and self.how == "raise":
            raise RuntimeError("no service there")
        if gateway.worker == 1 and self.how == "die":
            os.kill(os.getpid(), 9)
        if gateway.worker == 1 and self.how == "hang":
            gateway.log.info("it hangs")
            await asyncio.sleep(3600)
        gateway.log.info("%s begins", self.how)
        yield
        gateway.log.info("%s ends", self.how)
"""


@asynccontextmanager
async def failing_in_one(directory: Path, upstream: Upstream) -> AsyncIterator[GatewayProcess]:
    """A gateway of two workers, with a plugin that may fail in the second."""
    folder = directory / "plugins"
    folder.mkdir()
    (folder / "failing.py").write_text(FAILS_IN_ONE)
    async with gateway_process(directory, upstream, workers=2, MUXX_PLUGINS_DIR=str(folder)) as gateway:
        yield gateway


def reload_with(gateway: GatewayProcess, how: str, base: str) -> None:
    """Reload a file that has one more model, and tells the plugin how to fail."""
    told = base.replace('"plugins" = {', f'"plugins" = {{"failing" = {{"how" = "{how}"}}, ')
    assert told != base
    gateway.config_path.write_text(told + f'\n[[models]]\nname = "{how}"\ntargets = ["openai/gpt-4o"]\n')
    gateway.reload()


async def answers_of_both(gateway: GatewayProcess, model: str) -> set[int]:
    return {(await gateway.chat(model=model)).status for _ in range(OTHER_WORKER_CONNECTIONS)}


@pytest.mark.parametrize(("how", "why"), [("raise", "no service there"), ("die", "worker 1 ended meanwhile")])
async def test_G02_where_one_worker_cannot_change_none_does(tmp_path: Path, upstream: Upstream, how: str, why: str) -> None:
    async with failing_in_one(tmp_path, upstream) as gateway:
        base = gateway.config_path.read_text()
        reload_with(gateway, how, base)
        await eventually(lambda: "reload refused" in messages(gateway))
        await eventually(lambda: messages(gateway).count(f"{how} ends") == messages(gateway).count(f"{how} begins"))
        refusals = [line for line in messages(gateway).split("\n") if "reload refused" in line]
        assert len(refusals) == 1
        assert "worker 1" in refusals[0]
        assert why in refusals[0]
        await eventually(lambda: len(workers_of(gateway)) == 2)
        assert await answers_of_both(gateway, how) == {404}
        reload_with(gateway, "not", base)
        await eventually(lambda: messages(gateway).count("configuration reloaded") == 3)
        assert await answers_of_both(gateway, "not") == {200}


async def test_G02_a_reload_that_hangs_makes_way_for_the_next(tmp_path: Path, upstream: Upstream) -> None:
    async with failing_in_one(tmp_path, upstream) as gateway:
        base = gateway.config_path.read_text()
        reload_with(gateway, "hang", base)
        await eventually(lambda: "it hangs" in messages(gateway))
        assert await answers_of_both(gateway, "hang") == {404}
        reload_with(gateway, "not", base)
        await eventually(lambda: messages(gateway).count("configuration reloaded") == 3)
        assert await answers_of_both(gateway, "not") == {200}
        reload_with(gateway, "hang", base)
        await eventually(lambda: messages(gateway).count("it hangs") == 2)
        gateway.terminate()
        assert await gateway.wait(10.0) == 0


async def test_G02_a_broken_file_puts_an_end_to_a_reload_that_hangs(tmp_path: Path, upstream: Upstream) -> None:
    """What was made ready for it in the other processes ends."""
    async with failing_in_one(tmp_path, upstream) as gateway:
        reload_with(gateway, "hang", gateway.config_path.read_text())
        await eventually(lambda: messages(gateway).count("hang begins") == 2 and "it hangs" in messages(gateway))
        gateway.config_path.write_text("broken")
        gateway.reload()
        await eventually(lambda: messages(gateway).count("hang ends") == 2)
        await eventually(lambda: messages(gateway).count("reload refused") == 1)
        assert "configuration reloaded" not in messages(gateway)
        gateway.terminate()
        assert await gateway.wait(10.0) == 0


async def test_G02_a_worker_that_starts_during_a_reload_is_part_of_it(tmp_path: Path, upstream: Upstream) -> None:
    async with failing_in_one(tmp_path, upstream) as gateway:
        os.kill(workers_of(gateway)[0], signal.SIGKILL)  # after so short a life it stays away for a moment
        await eventually(lambda: len(workers_of(gateway)) == 1)
        reload_with(gateway, "not", gateway.config_path.read_text())
        await eventually(lambda: len(workers_of(gateway)) == 2)
        await eventually(lambda: messages(gateway).count("configuration reloaded") >= 2)
        assert await answers_of_both(gateway, "not") == {200}


def test_Y04_an_address_is_taken_before_anybody_else_may_bind_it() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_code == 4

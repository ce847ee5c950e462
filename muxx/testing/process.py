"""A gateway in processes of its own, to be killed, drained and started again as an operating system would."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from .client import get
from .running import Reachable
from .settings import clean_environment, gateway_config, write_config
from .upstream import unused_port
from .waiting import eventually


class GatewayProcess(Reachable):
    """`python -m muxx serve` on a directory, in a process group of its own.

    It may be started as often as it has stopped; address, key and database stay the same. Leaving the `async with` kills whatever
    still runs. Its environment holds no provider key, proxy or setting of muxx but those in `environment`.
    """

    def __init__(
        self,
        directory: Path,
        upstream_url: str,
        config: Mapping[str, Any] | None = None,
        *,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = unused_port()
        self.directory = directory
        self.config_path = write_config(directory, gateway_config(upstream_url, config or {}, port=port))
        self.base_url = f"http://127.0.0.1:{port}"
        self.key = ""
        self._arguments = arguments
        self._environment = clean_environment() | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the gateway was never started"
        return self._process

    @property
    def stdout(self) -> str:
        """All it has printed to stdout, over all its starts."""
        return (self.directory / "stdout.log").read_text()

    @property
    def stderr(self) -> str:
        """All it has printed to stderr, over all its starts."""
        return (self.directory / "stderr.log").read_text()

    async def start(self, within: float = 20.0) -> None:
        """Start it and return when it is ready. The first start makes a key."""
        if not self.key:
            self.key = orjson.loads(await self.run("keys", "create", "--json"))["key"]
        self._spawn()
        await self.ready(within)

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "muxx", "serve", "--config", str(self.config_path), *self._arguments]
        with (self.directory / "stdout.log").open("ab") as out, (self.directory / "stderr.log").open("ab") as err:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                cwd=self.directory,
                start_new_session=True,
            )

    async def run(self, *arguments: str) -> str:
        """Run another muxx command on the same configuration; its stdout. A failure raises with its stderr."""
        command = [sys.executable, "-m", "muxx", *arguments, "--config", str(self.config_path)]
        done = await asyncio.to_thread(
            subprocess.run, command, env=self._environment, cwd=self.directory, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise AssertionError(f"muxx {' '.join(arguments)} exited with {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode()

    async def ready(self, within: float = 20.0) -> None:
        """Wait until `/readyz` says so; fail with its stderr when it exits instead."""
        deadline = time.monotonic() + within
        while not await self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"muxx serve did not become ready (exit code {self.process.poll()}): {self.stderr}")
            await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            return (await get(self.base_url, "/readyz", within=5.0)).status == 200
        except (OSError, asyncio.IncompleteReadError):
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started, as a service manager does; it passes it on to its workers."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def reload(self) -> None:
        self.signal(signal.SIGHUP)

    async def wait(self, within: float = 40.0) -> int:
        """Wait for its end; its exit code."""
        await eventually(lambda: self.process.poll() is not None, within)
        return int(self.process.returncode)

    async def kill(self) -> None:
        """`kill -9` of the whole group at once, and wait until none of it is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.wait(10.0)
        with suppress(AssertionError):
            await eventually(self._group_is_gone, 1.0)

    def _group_is_gone(self) -> bool:
        """Where nobody reaps orphans their group stays on, dead: on Linux /proc says so, elsewhere the caller waits in vain."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        states = _states_in_group(self.process.pid)
        return bool(states) and states <= {"Z", "X"}

    async def restart(self) -> None:
        """Kill what still runs, and start again on the same directory."""
        await self.kill()
        await self.start()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()

    async def _stop(self) -> None:
        if self._process is not None:
            await self.kill()


def _states_in_group(group: int) -> set[str]:
    states = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group:
                states.add(state)
    return states

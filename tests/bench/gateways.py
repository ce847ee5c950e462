"""The two that are compared, as processes on a core of their own, and the upstream they share."""

from __future__ import annotations

import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from muxx.testing import clean_environment, unused_port
from muxx_std.keys.format import generate

from .machine import cpu_seconds, on_core
from .tools import HERE, BenchError

START_SECONDS = 20.0
STORE_SECONDS = 30.0
"""How long the recorder may take to store what a round left in the journal."""

CONFIG = """
[server]
port = {port}

[providers.bench]
format = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "sk-upstream"
prices = "openai"
"""
"""All else is as muxx ships: keys, prices, logs and recording with content are on."""


class Server:
    """A process that serves on `port`. It leads a process group of its own, and leaving the `with` kills all of it."""

    name = ""
    key = "sk-client"

    def __init__(self, directory: Path, core: int) -> None:
        self.port = 0
        self.sent = 0
        """Requests it was sent so far, all of them answered."""
        self._core = core
        self._errors = directory / f"{self.name}.stderr"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "used outside its `with`"
        return self._process.pid

    def spawn(self, command: list[str], environment: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        with on_core(self._core), self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=clean_environment() | dict(environment),
                start_new_session=True,
            )
        return self._process

    def printed_port(self, command: list[str]) -> int:
        """Start a server that prints its port when it listens."""
        process = self.spawn(command)
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], START_SECONDS)[0]:
            raise BenchError(f"{self.name} did not start in {START_SECONDS:g} s")
        return int(process.stdout.readline() or self.fail("did not start"))

    def fail(self, what: str) -> str:
        raise BenchError(f"{self.name} {what}:\n{self._errors.read_text(errors='replace')[-2000:]}")

    def cpu(self) -> float:
        """Seconds of CPU its processes have used."""
        return cpu_seconds(self.pid)

    def freeze(self) -> None:
        """Stop it dead while another one is measured: not even its timers run."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def settle(self) -> None:
        """Return when all work for the requests sent so far is done."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self) -> None:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Upstream(Server):
    """The provider both gateways call."""

    name = "upstream"

    def __init__(self, directory: Path, core: int, command: list[str], pieces: bytes) -> None:
        super().__init__(directory, core)
        self._pieces = directory / "pieces"
        self._pieces.write_bytes(pieces)
        self._command = command

    def start(self) -> None:
        self.port = self.printed_port([*self._command, str(self._pieces)])


class PassThrough(Server):
    """Bare aiohttp."""

    name = "pass-through"

    def __init__(self, directory: Path, core: int, loop: str, upstream_port: int) -> None:
        super().__init__(directory, core)
        self._command = [sys.executable, str(HERE / "passthrough.py"), str(upstream_port), loop]

    def start(self) -> None:
        self.port = self.printed_port(self._command)


class Muxx(Server):
    """muxx as it ships, on an empty database."""

    name = "muxx"

    def __init__(self, directory: Path, core: int, loop: str, upstream_port: int) -> None:
        super().__init__(directory, core)
        self.port = unused_port()
        self._config = directory / "muxx.toml"
        self._config.write_text(CONFIG.format(port=self.port, upstream=upstream_port))
        self._rows = directory / "muxx-logs.db"
        self._command = [sys.executable, str(HERE / "serve.py"), loop, "--config", str(self._config)]

    def start(self) -> None:
        self.key = generate("live")
        process = self.spawn(self._command, {"MUXX_BOOTSTRAP_KEY": self.key})
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.fail("did not start")
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as client:
                client.sendall(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                return client.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def rows(self) -> int:
        """Rows in the log database."""
        with closing(sqlite3.connect(f"file:{self._rows}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM generations").fetchone()[0])

    def settle(self) -> None:
        """Every request has its row: the recorder's work belongs to the requests that made it."""
        deadline = time.monotonic() + STORE_SECONDS
        while (rows := self.rows()) != self.sent:
            if rows > self.sent or time.monotonic() > deadline:
                raise BenchError(f"muxx was sent {self.sent} requests and has {rows} rows")
            time.sleep(0.02)


IDLE_PLUGIN = """
import muxx


class Idle:
    @muxx.hookimpl
    def pre_request(self, exchange: muxx.Exchange) -> None:
        exchange.skip_chunks("idle")

    @muxx.hookimpl
    def on_chunk(self, chunk: muxx.Chunk) -> None:
        raise AssertionError("it has opted out")
"""


class MuxxWithIdlePlugin(Muxx):
    """muxx with a plugin that would see every chunk, and takes itself off every exchange."""

    name = "idle plugin"

    def __init__(self, directory: Path, core: int, loop: str, upstream_port: int) -> None:
        own = directory / "idle"
        own.mkdir()
        super().__init__(own, core, loop, upstream_port)
        plugins = own / "plugins"
        plugins.mkdir()
        (plugins / "idle.py").write_text(IDLE_PLUGIN)
        self._command += ["--plugins-dir", str(plugins)]

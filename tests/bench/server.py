"""A server that is measured, as a process on cores of its own, and the upstream all of them call."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from muxx.testing import clean_environment

from .machine import cpu_seconds, on_core
from .payloads import MODEL, pieces
from .tools import BenchError

START_SECONDS = 60.0


class Server:
    """A process that serves on `port`. It leads a process group of its own, and leaving the `with` kills all of it."""

    name = ""
    key = "sk-client"
    model = MODEL
    ours = True
    """Whether it has to work."""

    def __init__(self, directory: Path, *cores: int) -> None:
        """What it writes goes below `directory`; it and its children run on `cores` alone."""
        self.port = 0
        self.sent = 0
        """Requests it was sent so far, all of them answered."""
        self._cores = cores
        self._errors = directory / f"{self.name}.stderr"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "used outside its `with`"
        return self._process.pid

    def spawn(
        self, command: list[str], environment: Mapping[str, str] = {}, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start it. What it prints goes to the file of its errors, if not to `stdout`: nobody reads a pipe while it is measured. It
        keeps the bytecode that it compiles, as gateways do that are started more than once."""
        environment = clean_environment() | dict(environment)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with on_core(*self._cores), self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors if stdout is None else stdout,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        return self._process

    def printed_port(self, command: list[str], environment: Mapping[str, str] = {}) -> int:
        """Start a server that prints its port when it listens."""
        process = self.spawn(command, environment, subprocess.PIPE)
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], START_SECONDS)[0]:
            raise BenchError(f"{self.name} did not start in {START_SECONDS:g} s")
        return int(process.stdout.readline() or self.fail("did not start"))

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when what was spawned is `ready`."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.fail("did not start")
            time.sleep(0.01)

    def answers(self, path: str) -> bool:
        """Whether a GET is answered with 200 by now."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
                return client.recv(64)[9:12] == b"200"
        except OSError:
            return False

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5.0).close()
        except OSError:
            return False
        return True

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

    def recount(self) -> None:
        """After errors nobody knows how many requests arrived: begin to count anew."""

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
    """The provider all gateways call."""

    name = "direct"

    def __init__(self, directory: Path, core: int, command: list[str]) -> None:
        super().__init__(directory, core)
        self._pieces = directory / "pieces"
        self._pieces.write_bytes(pieces())
        self._command = command

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.port = self.printed_port([*self._command, str(self._pieces)])

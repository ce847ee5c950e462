"""The processes of a benchmark, each with a line of JSON on its stdin to begin with, and one on its stdout when it is ready."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from ..errors import StartError

START_SECONDS = 30.0
STOP_SECONDS = 5.0
SAID_CHARACTERS = 1000
LEFT_OUT = frozenset({"MUXX_BOOTSTRAP_KEY"})
"""Variables that mean the operator's database and no other."""


class CannotMeasure(StartError):
    """There are no figures; says why, and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 1)


class Child:
    """`python -m MODULE`, with what it starts, in a process group of its own. It ends with its `with`, and with this process.

    `said` is what it said when it was ready.
    """

    def __init__(self, name: str, module: str, order: Mapping[str, Any], directory: Path) -> None:
        self.name = name
        self._command = [sys.executable, "-m", module]
        self._order = orjson.dumps(order) + b"\n"
        self._errors = directory / f"{module}.stderr"
        self.said: Mapping[str, Any] = {}

    @property
    def group(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603  (this interpreter, on a module of ours)
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        try:
            self.said = self._ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _ready(self) -> Mapping[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(self._order)
            stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it said last is read below
        deadline, line = time.monotonic() + START_SECONDS, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise self.failed("did not start")
            line += piece
        said: Mapping[str, Any] = orjson.loads(line)
        return said

    def check(self) -> None:
        """Raise `CannotMeasure` where it has ended."""
        if self._process.poll() is not None:
            raise self.failed("ended")

    def failed(self, what: str) -> CannotMeasure:
        """What happened to it, with its last words."""
        return CannotMeasure(f"the {self.name} {what}. {last_words(self._errors.read_text(errors='replace'))}".rstrip())

    def _stop(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdout.close()
        try:
            stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()


def last_words(text: str) -> str:
    """What a log says of an error: its errors' messages, or else its end."""
    lines = text.splitlines()
    errors = [message for message in map(_error_in, lines) if message]
    return " ".join(errors or lines)[-SAID_CHARACTERS:]


def _error_in(line: str) -> str | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return entry["message"] if isinstance(entry, dict) and entry.get("level") == "error" else None

"""The upstream and the load generators: compiled from C where there is a compiler, else their twins in Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = ("upstream", "load", "slow")
ANSWER_SECONDS = 120.0
"""Beyond its own time: how long a run of the load generator may take before it counts as stuck."""


class BenchError(Exception):
    """The figures would be worth nothing: an answer was wrong, a row is missing, a process died."""


@dataclass(frozen=True)
class Tools:
    """How to start them."""

    commands: dict[str, list[str]]
    """Of each of `PROGRAMS`."""
    language: str

    @property
    def upstream(self) -> list[str]:
        return self.commands["upstream"]

    @property
    def upstream_in_python(self) -> list[str]:
        """It alone can speak TLS."""
        return _interpreted("upstream")

    def run_load(
        self, request: bytes, *, port: int, connections: int, seconds: float, first: int, step: int, events: int
    ) -> dict[str, Any]:
        """Send load for `seconds`; what came of it. Any wrong answer raises."""
        return _ran(self.commands["load"], request, seconds, port, connections, seconds, first, step, events)

    def run_streams(
        self, request: bytes, *, port: int, streams: int, seconds: float, first: int, stamps: int, ramp_s: float, ending: str,
        stream_s: float,
    ) -> dict[str, Any]:  # fmt: skip
        """Keep so many streams running for `seconds` after their start within `ramp_s`; what came of it, errors counted.

        `stream_s` is how long a stream takes, for the last ones are read to their end."""
        longest = seconds + ramp_s + stream_s
        return _ran(self.commands["slow"], request, longest, port, streams, seconds, first, stamps, round(ramp_s * 1000), ending)


def _ran(command: list[str], request: bytes, seconds: float, *arguments: object) -> dict[str, Any]:
    allowed = seconds + ANSWER_SECONDS
    try:
        done = subprocess.run([*command, *map(str, arguments)], input=request, capture_output=True, timeout=allowed, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"the load generator was still waiting for answers after {allowed:.0f} s") from error
    if done.returncode:
        raise BenchError(f"the load generator stopped: {done.stderr.decode(errors='replace')[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def built(directory: Path) -> Tools:
    """All of them, ready to run; compiled into `directory`."""
    compiler = shutil.which("cc")
    if compiler is None:
        return Tools({name: _interpreted(name) for name in PROGRAMS}, "Python")
    return Tools({name: _compiled(name, compiler, directory) for name in PROGRAMS}, "C")


def _interpreted(name: str) -> list[str]:
    return [sys.executable, str(HERE / f"{name}.py")]


def _compiled(name: str, compiler: str, directory: Path) -> list[str]:
    program = directory / name
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(HERE / f"{name}.c")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{name}.c does not compile:\n{done.stderr}")
    return [str(program)]

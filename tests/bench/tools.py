"""The upstream and the load generator: compiled from C where there is a compiler, else their twins in Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ANSWER_SECONDS = 60.0
"""Beyond its own time: how long a run of the load generator may take before it counts as stuck."""


class BenchError(Exception):
    """The figures would be worth nothing: an answer was wrong, a row is missing, a process died."""


@dataclass(frozen=True)
class Tools:
    """How to start the two."""

    upstream: list[str]
    load: list[str]
    language: str

    def run_load(
        self, request: bytes, *, port: int, connections: int, seconds: float, first: int, step: int, events: int
    ) -> dict[str, Any]:
        """Send load for `seconds`; what came of it. Any wrong answer raises."""
        arguments = [str(value) for value in (port, connections, seconds, first, step, events)]
        done = subprocess.run(
            [*self.load, *arguments], input=request, capture_output=True, timeout=seconds + ANSWER_SECONDS, check=False
        )
        if done.returncode:
            raise BenchError(f"the load generator stopped: {done.stderr.decode(errors='replace')[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def built(directory: Path) -> Tools:
    """The two, ready to run; compiled into `directory`."""
    compiler = shutil.which("cc")
    if compiler is None:
        return Tools(_interpreted("upstream"), _interpreted("load"), "Python")
    return Tools(_compiled("upstream", compiler, directory), _compiled("load", compiler, directory), "C")


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

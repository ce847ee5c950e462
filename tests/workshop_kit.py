"""An empty folder, and beside it what a package index would have given: what the tests of new plugins work in."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from docs_kit import ROOT

from muxx.testing import clean_environment, unused_port

BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)
TOOLS = ("mypy", "muxx", "pytest", "ruff")

FEW_WAYS_PLUGIN = "few_ways"
_FEW_WAYS = """
def pytest_sessionstart():
    from muxx.testing import conformance
    conformance.Conformance.ways = conformance.FEW_WAYS
"""


def put_few_ways(directory: Path) -> None:
    """A plugin for a pytest that finds modules there: the conformance suite goes a few ways only.

    What is tested is that it runs. In `test_conformance.py` it goes all of them.
    """
    (directory / f"{FEW_WAYS_PLUGIN}.py").write_text(_FEW_WAYS)


class Workshop:
    """Scripts run in `folder`, which is empty at first.

    Nothing is fetched: muxx, setuptools and the tools of this test's environment are visible to every Python there, as if they
    had been installed. What a script installs goes into the environment that it made itself. Port 8080 is a free one, and the
    conformance suite goes a few ways.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "folder"
        self.folder.mkdir()
        self._port = str(unused_port())
        self._bin = directory / "bin"
        self._bin.mkdir()
        self._script("python3", f'exec {BASE_PYTHON} "$@"')
        for tool in TOOLS:
            self._script(tool, f'exec python -P -m {tool} "$@"')  # by the Python of the environment that is active
        beside = directory / "beside"
        beside.mkdir()
        put_few_ways(beside)
        visible = (sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "plugins"), str(beside))
        self.environment = clean_environment() | {
            "HOME": str(directory),
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(visible),
            "PYTEST_ADDOPTS": f"-p {FEW_WAYS_PLUGIN}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that there shall be none
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _script(self, name: str, line: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run(self, script: str, within: float = 200.0) -> str:
        """Run a bash script here and give what it printed; fails where a command fails. Ends what it left running."""
        moved = re.sub(r"\b8080\b", self._port, script)
        with tempfile.TemporaryFile("w+") as shown:  # a pipe would stay open for as long as a server that was left running
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", moved],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(within)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_group(process.pid)
            shown.seek(0)
            text = shown.read()
        assert code == 0, text
        return text


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def written(path: str, text: str) -> str:
    """A line of a script that writes a file, as an editor would."""
    return f"printf %s {shlex.quote(text)} > {shlex.quote(path)}\n"

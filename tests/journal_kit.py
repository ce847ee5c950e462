"""What the tests of the journal, the recorder and the host share: rows, hosts, and processes that are killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from muxx.config import Config
from muxx.db import Connection
from muxx.host import Host
from muxx.plugins import Step
from muxx.row import Record

LOG = logging.getLogger("tests.recorder")


SENT = b'{"messages":["' + b"x" * 700 + b'"]}'
DELIVERED = b'{"choices":[]}'


def row(request_id: str, **changes: Any) -> dict[str, Any]:
    """A record of about 1 KB."""
    return {
        "request_id": request_id, "started_at": 1.5, "duration_ms": 12.0, "status": 200, "ended_by": None, "phase": None,
        "usage_source": "provider", "cost_pico": 37_500, "error_code": None, "attributes": {"pad": "x" * 700}, **changes,
    }  # fmt: skip


def trace(request_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": request_id, "started_at": 1.5, "provider": "openai", "model": "gpt-4o", "phase": "head",
        "attempts": 1, "input_tokens": 11, "usage_source": "estimated", **changes,
    }  # fmt: skip


def as_chain(*hooks: Any) -> tuple[Step, ...]:
    """Functions as the `record` hooks of so many plugins."""
    return tuple(Step(f"plugin-{number}", hook, False) for number, hook in enumerate(hooks))


def config_in(directory: Path, **server: Any) -> Config:
    return Config.model_validate({"database": {"path": str(directory / "muxx.db")}, "server": server})


class Ledger:
    """A `record` hook that keeps rows in a table of its own, and counts what it was handed."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seen: list[str] = []

    async def record(self, gateway: Any, db: Connection, records: list[Record]) -> None:
        self.batches.append(len(records))
        self.seen += [record["request_id"] for record in records]
        await db.execute("CREATE TABLE IF NOT EXISTS ledger (id TEXT PRIMARY KEY, status INTEGER, ended_by TEXT, error TEXT)")
        rows = [(r["request_id"], r["status"], r["ended_by"], r["error_code"]) for r in records]
        await db.executemany("REPLACE INTO ledger VALUES (?, ?, ?, ?)", rows)


async def stored(host: Host) -> dict[str, int]:
    """Status of each stored row, by id."""
    if not await host.db.read_logs("SELECT 1 FROM sqlite_master WHERE name = 'ledger'"):
        return {}
    return {r["id"]: r["status"] for r in await host.db.read_logs("SELECT id, status FROM ledger")}


def spawn(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a Python script in a process of its own, with this repository on its path."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, "-c", script, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def kill(process: subprocess.Popen[str]) -> str:
    """`kill -9` and what the process had said until then."""
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    said = process.stdout.read()  # not communicate(), which would pass over what readline() has buffered
    process.communicate()
    return said

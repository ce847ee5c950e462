"""muxx as it ships, and as it is set up in other ways, each on an empty database of its own."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from muxx.testing import unused_port
from muxx_std.keys.format import generate

from .server import Server
from .tools import HERE, BenchError

STORE_SECONDS = 60.0
"""How long the recorder may take to store what a round left in the journal."""
JOURNAL_SECONDS = 1.5
"""Without rows that could be counted: until the journal's last segment has been rotated, read and left behind."""

CONFIG = """
[server]
port = {port}
{server}

[providers.bench]
format = "openai"
base_url = "{upstream}/v1"
api_key = "sk-upstream"
prices = "openai"
{more}
"""
"""All else is as muxx ships: keys, prices, logs and recording with content are on."""


class Muxx(Server):
    """muxx as it ships. `more` is added to its configuration, `server_lines` to the section of that name."""

    name = "muxx"
    more = ""
    server_lines = ""
    plugin = ""
    """The source of a plugin of one file, which then stands in its folder of plugins, under the name `own`."""

    def __init__(
        self, directory: Path, core: int, *other_cores: int, loop: str, upstream: str, environment: Mapping[str, str] = {}
    ) -> None:
        self.directory = directory / self.name.replace(" ", "-")
        self.directory.mkdir(exist_ok=True)
        super().__init__(self.directory, core, *other_cores)
        self.port = unused_port()
        self.key = generate("live")
        self.logs = self.directory / "muxx-logs.db"
        self._environment = environment
        config = self.directory / "muxx.toml"
        config.write_text(CONFIG.format(port=self.port, upstream=upstream, server=self.server_lines, more=self.more))
        self._command = [sys.executable, str(HERE / "serve.py"), loop, "--config", str(config)]
        if self.plugin:
            plugins = self.directory / "plugins"
            plugins.mkdir()
            (plugins / "own.py").write_text(self.plugin)
            self._command += ["--plugins-dir", str(plugins)]

    def start(self) -> None:
        self.spawn(self._command, {"MUXX_BOOTSTRAP_KEY": self.key, **self._environment})
        self.wait_until(lambda: self.answers("/readyz"))

    def rows(self) -> int:
        """Rows in the log database."""
        with closing(sqlite3.connect(f"file:{self.logs}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM generations").fetchone()[0])

    def settle(self) -> None:
        """Every request has its row: the recorder's work belongs to the requests that made it."""
        deadline = time.monotonic() + STORE_SECONDS
        while (rows := self.rows()) != self.sent:
            if rows > self.sent or time.monotonic() > deadline:
                raise BenchError(f"{self.name} was sent {self.sent} requests and has {rows} rows")
            time.sleep(0.02)

    def recount(self) -> None:
        time.sleep(JOURNAL_SECONDS)
        self.sent = self.rows()


class Unrecorded(Muxx):
    """muxx that keeps nothing of a request: without the plugins that store and add up rows.

    The kernel's journal is not to be switched off: what a request would cost if its process died is known from it.
    """

    name = "muxx, no recording"
    more = """
[plugins]
only = ["alerts", "cache", "keys", "limits", "mock", "pricing", "projects", "spend_caps"]

[project]
store_content = false
"""

    def settle(self) -> None:
        time.sleep(JOURNAL_SECONDS)


class WithIdlePlugin(Muxx):
    """muxx with a plugin that would see every chunk, and takes itself off every exchange."""

    name = "idle plugin"
    plugin = """
import muxx


class Idle:
    @muxx.hookimpl
    def pre_request(self, exchange: muxx.Exchange) -> None:
        exchange.skip_chunks("own")

    @muxx.hookimpl
    def on_chunk(self, chunk: muxx.Chunk) -> None:
        raise AssertionError("it has opted out")
"""


class WithReadingPlugin(Muxx):
    """muxx with a plugin that reads the text of every chunk, and changes none."""

    name = "muxx, reading plugin"
    plugin = """
import muxx


class Reading:
    def __init__(self) -> None:
        self.characters = 0

    @muxx.hookimpl
    def on_chunk(self, chunk: muxx.Chunk) -> None:
        self.characters += len(chunk.text)
"""

"""A benchmark from its start to its end: a folder for it, an upstream, a gateway, the rounds, and what they ran on."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import Config
from ..db import logs_path
from ..journal import Durability
from ..loop import run
from ..processes import cpu_quota
from ..version import __version__
from . import machine
from .children import CannotMeasure, Child
from .gateway import Order
from .measuring import Figures, Measuring, Told

SPACE_PER_SECOND = 40 * 1024 * 1024
"""Of load: rows of what a fast machine can ask, with their content and the journal."""


@dataclass(frozen=True)
class Circumstances:
    """What bears on the figures."""

    version: str
    python: str
    config: str | None
    """The file; None: built-in defaults."""
    plugins: list[str]
    uvloop: bool
    durability: Durability
    sync_ms: float
    """Until a block is on the disk."""
    elsewhere: str | None
    """The folder that was used, where the database's own cannot be."""
    most_calls: int
    """At a time, in a worker."""
    files: int
    """That a process may have open."""
    cores: int
    """This process may run on."""
    quota: float | None
    """How many cores' time the control groups give it."""
    throttled_s: float
    """For how long they have held it back meanwhile."""
    workers: int
    """As configured; one was measured."""
    debugging: list[str]
    proxied: bool


def measured(config: Config, seconds: float, told: Told) -> tuple[Figures, Circumstances]:
    """Measure for about so many seconds in all. `CannotMeasure` says why there are no figures."""
    started = time.monotonic() - time.process_time()  # what this process has taken so far to start
    with _sigterm_unwinds(), _folder(config) as (folder, elsewhere):
        _check_space(folder, seconds)
        sync_ms, throttled = machine.sync_ms(folder), machine.throttled()
        with Child("upstream", "muxx.bench.upstream", {}, folder) as upstream:
            database = folder / "muxx.db"
            with Child("gateway", "muxx.bench.gateway", asdict(_order(config, database, upstream)), folder) as gateway:
                told("the gateway has started", 0.0)
                measuring = Measuring(upstream, gateway, logs_path(database), _user(config), told)
                figures = run(measuring.figures(started, seconds))
        said, throttled = gateway.said, machine.throttled() - throttled
    return figures, Circumstances(
        version=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        config=None if config.path is None else str(config.path),
        plugins=said["plugins"],
        uvloop=said["uvloop"],
        durability=config.database.durability,
        sync_ms=sync_ms,
        elsewhere=elsewhere,
        most_calls=said["most_calls"],
        files=said["files"],
        cores=len(os.sched_getaffinity(0)),
        quota=cpu_quota(),
        throttled_s=throttled,
        workers=config.server.workers,
        debugging=machine.debugging(),
        proxied=said["proxied"],
    )


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM clears processes and files away, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder(config: Config) -> Iterator[tuple[Path, str | None]]:
    """A folder on the disk that the database is on, or would be; else any, and where that is. It goes with all that is in it."""
    own, elsewhere = config.database.path.parent, None
    try:
        made = tempfile.TemporaryDirectory(prefix="muxx-bench-", dir=own, ignore_cleanup_errors=True)
    except OSError:
        made = tempfile.TemporaryDirectory(prefix="muxx-bench-", ignore_cleanup_errors=True)
        elsewhere = tempfile.gettempdir()
    with made as name:
        yield Path(name), elsewhere


def _check_space(folder: Path, seconds: float) -> None:
    needed, free = SPACE_PER_SECOND * seconds, shutil.disk_usage(folder).free
    if free < needed:
        mib = 1024 * 1024
        raise CannotMeasure(
            f"{folder.parent} has {free // mib:,} MiB free, and rows of {seconds:g} s may take {needed / mib:,.0f} MiB. "
            "Make room, or measure for a shorter time with --seconds."
        )


def _order(config: Config, database: Path, upstream: Child) -> Order:
    return Order(
        config=None if config.path is None else str(config.path),
        plugins_dir=None if config.plugins_dir is None else str(config.plugins_dir),
        database=str(database),
        upstream=f"http://127.0.0.1:{upstream.said['port']}/v1",
    )


def _user(config: Config) -> str:
    """Where users have limits of their own, somebody has to be one."""
    limits = config.project.limits
    return "muxx-bench" if limits.user_rpm or limits.user_tpm or limits.user_rpd else ""

"""`muxx serve`: one process that does everything, or a supervisor with N workers and one recorder.

The supervisor binds every socket, makes the first key, holds the lock beside the database, and forks. It runs no event loop: it waits for
signals and for children. A child that dies is started again with backoff; connections waiting on its socket wait for its
successor, for the socket is the supervisor's. A supervisor that dies takes its children with it: they hold a pipe it never writes to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

from .chains import describe_crash
from .config import Config, ConfigError, load_config
from .errors import StartError
from .gateway import Gateway
from .host import Host
from .journal import Journal
from .plugins import config_classes, discover
from .stderr import log_to_stderr
from .worker import BACKLOG, Worker, freeze, listen, plugin_set, prepare, recorder_of

log = logging.getLogger("muxx")

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 30.0
HEALTHY_SECONDS = 10.0
"""A child that lived this long is started again at once."""

STOP_SECONDS = 10.0
"""What a child gets beyond the grace for streams before it is killed."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def serve(config: Config, *, mock: bool = False) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code; what stops the start is raised as `StartError`."""
    log_to_stderr()
    listeners = _listeners(config)
    key = _run(_prepare(config))
    for listener in listeners:
        listener.listen(BACKLOG)  # from here on connections wait for the first worker instead of being refused
    _announce(config, listeners[0], key, mock)
    if config.server.workers == 1:
        _run(_serve_alone(config, listeners[0], mock))
        return 0
    return Supervisor(config, listeners, mock).run()


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _listeners(config: Config) -> list[socket.socket]:
    """One socket per worker. The first bind is without SO_REUSEPORT, so that an address in use is found out."""
    server = config.server
    first = listen(server.host, server.port)
    if server.workers == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()
    return [listen(server.host, port, share=True) for _ in range(server.workers)]


async def _prepare(config: Config) -> str | None:
    async with Host.open(config) as host:
        host.lock_instance()
        return await prepare(host, plugin_set(config))


def _announce(config: Config, listener: socket.socket, key: str | None, mock: bool) -> None:
    """Where muxx listens, and, once in the life of a database, its first key with the line that uses it."""
    host, port = listener.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if mock:
        print("=" * 78, file=sys.stderr)  # noqa: T201
        print("MOCK MODE: every model is answered by the mock provider. Nothing is sent anywhere.", file=sys.stderr)  # noqa: T201
        print("=" * 78, file=sys.stderr)  # noqa: T201
    if key is not None:
        model = "gpt-4o" if mock else "mock"
        print(  # noqa: T201
            f"Your first key, shown only this once:\n\n    {key}\n\nTry it:\n\n"
            f"    curl {base}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
            f'-d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'\n',
            flush=True,
        )
    if host in ("0.0.0.0", "::"):  # noqa: S104
        log.warning("listening on every interface: put TLS and a firewall in front of it")
    workers = config.server.workers
    log.info("muxx listens on %s with %d worker%s", base, workers, "" if workers == 1 else "s")


async def _serve_alone(config: Config, listener: socket.socket, mock: bool) -> None:
    async with Host.open(config) as host:
        host.lock_instance()
        worker = Worker(config, host, mock=mock)
        await worker.start(listener)
        await _until_stopped(worker)


async def _until_stopped(worker: Worker, parent: int | None = None) -> None:
    """Serve until a signal, or the supervisor's end, says stop; a second signal cuts the grace short."""
    freeze()
    loop = asyncio.get_running_loop()
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.append(asyncio.ensure_future(worker.reload())))
    reloads: list[asyncio.Future[bool]] = []
    if parent is not None:
        loop.add_reader(parent, _orphaned, loop, parent, stop)
    await stopping.wait()
    ending = asyncio.create_task(worker.stop())
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait((ending, hurried), return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        worker.hurry()
    hurried.cancel()
    await ending


def _orphaned(loop: asyncio.AbstractEventLoop, pipe: int, stop: Callable[[], None]) -> None:
    loop.remove_reader(pipe)
    stop()


async def _serve_as_worker(config: Config, listener: socket.socket, mock: bool, index: int, parent: int) -> None:
    async with Host.open(config) as host:
        worker = Worker(config, host, mock=mock, index=index, records=False)
        await worker.start(listener)
        await _until_stopped(worker, parent)


async def _record(config: Config, mock: bool, parent: int) -> None:
    """The recorder's process: rows from the journal to the database until told to stop, then all that is left."""
    async with Host.open(config) as host:
        journal = Journal(host.paths.journal, "recorder", durability=config.database.durability)
        gateway = Gateway(host, config, plugin_set(config), journal, mock=mock, worker=-1)
        recorder = recorder_of(host, gateway)
        freeze()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, recorder.stop)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides when the rows are all there
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        loop.add_reader(parent, _orphaned, loop, parent, recorder.stop)
        await recorder.run()
        journal.close()


class Child:
    """A process the supervisor keeps alive."""

    def __init__(self, name: str, body: Callable[[int], Awaitable[None]]) -> None:
        self.name = name
        self.body = body
        self.pid = 0
        self.started = 0.0
        self.due: float | None = 0.0
        """When to start it (monotonic); None while it runs."""
        self.backoff = FIRST_BACKOFF

    def ended(self, now: float, in_order: bool) -> None:
        """Plan the next start: at once after a healthy life or an ordered end, later and later after short ones."""
        self.pid = 0
        if in_order or now - self.started >= HEALTHY_SECONDS:
            self.backoff = FIRST_BACKOFF
            self.due = now
        else:
            self.due = now + self.backoff
            self.backoff = min(LONGEST_BACKOFF, self.backoff * 2)


class Supervisor:
    """Keeps N workers and one recorder alive; stops the workers first and the recorder last, so that it stores every row."""

    def __init__(self, config: Config, listeners: list[socket.socket], mock: bool) -> None:
        self._config = config
        self._mock = mock
        self._listeners = listeners
        self._alive, self._parent_end = os.pipe()
        self.workers = [Child(f"worker {i}", self._worker_body(i)) for i in range(len(listeners))]
        self.recorder = Child("recorder", lambda parent: _record(self._config, self._mock, parent))
        self._stopping = False
        self._deadline = float("inf")
        self._exit_code = 0

    def _worker_body(self, index: int) -> Callable[[int], Awaitable[None]]:
        return lambda parent: _serve_as_worker(self._config, self._listeners[index], self._mock, index, parent)

    def run(self) -> int:
        """Supervise until told to stop and every child has ended."""
        self._lock()
        wakeup, wakeup_end = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_end.setblocking(False)
        signal.set_wakeup_fd(wakeup_end.fileno())
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        while True:
            self._start_due()
            if self._finished():
                return self._exit_code
            select.select([wakeup], [], [], self._patience())
            for arrived in _taken(wakeup):
                self._signalled(arrived)
            self._reap()

    def _lock(self) -> None:
        """Own the database for as long as this process lives."""

        async def lock() -> Host:
            host = await Host.open(self._config)
            host.lock_instance()
            await host.db.close()
            return host

        self._host = asyncio.run(lock())

    @property
    def _children(self) -> list[Child]:
        return [*self.workers, self.recorder]

    def _patience(self) -> float:
        now = time.monotonic()
        due = [child.due for child in self._children if child.due is not None and not self._stopping]
        return max(0.01, min(1.0, min(due, default=now + 1.0) - now))

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            wanted = not self._stopping or (child is self.recorder and self._workers_run())
            if child.due is not None and now >= child.due and wanted:
                self._fork(child)
        if self._stopping:
            self._press(now)

    def _workers_run(self) -> bool:
        return any(worker.pid for worker in self.workers)

    def _press(self, now: float) -> None:
        """While stopping: the recorder's turn comes when the workers are gone; who is far too late is killed."""
        if not self._workers_run() and self.recorder.pid and self._deadline != 0.0:
            os.kill(self.recorder.pid, signal.SIGTERM)
            self._deadline = 0.0
        if now > self._deadline > 0.0:
            for worker in self.workers:
                if worker.pid:
                    os.kill(worker.pid, signal.SIGKILL)

    def _finished(self) -> bool:
        return self._stopping and not any(child.pid for child in self._children)

    def _fork(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(child)
        child.pid, child.started, child.due = pid, time.monotonic(), None

    def _become(self, child: Child) -> NoReturn:
        """In the child: run its body and nothing of the supervisor's."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.close(self._parent_end)
            _run(_awaited(child.body(self._alive)))
            code = 0
        except StartError as error:
            log.error("%s cannot start: %s", child.name, error)
            code = error.exit_code
        except BaseException as error:
            log.error("%s failed: %s", child.name, describe_crash(error))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            child.ended(time.monotonic(), in_order=code == 0)
            if self._stopping or code == 0:
                continue
            log.error("%s ended (%s); starting it again", child.name, f"signal {-code}" if code < 0 else f"exit code {code}")
            if code in (2, 3, 4):
                self._exit_code = code
                self._stop()

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGHUP and not self._stopping:
            self._reload()

    def _stop(self) -> None:
        """The first time: let streams finish. The second time the workers hurry."""
        self._stopping = True
        self._deadline = min(self._deadline, time.monotonic() + self._config.server.shutdown_grace_s + STOP_SECONDS)
        for worker in self.workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGTERM)

    def _reload(self) -> None:
        """Check the file here, once; only a good one reaches the children."""
        try:
            self._config = load_config(self._config.path, config_classes(discover()))
        except ConfigError as error:
            log.error("reload refused, the old configuration stays: %s", error)
            return
        for worker in self.workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGHUP)
        if self.recorder.pid:
            os.kill(self.recorder.pid, signal.SIGTERM)  # it stores what there is, ends, and starts with the new settings


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _taken(wakeup: socket.socket) -> bytes:
    try:
        return wakeup.recv(4096)
    except BlockingIOError:
        return b""

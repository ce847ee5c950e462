"""`muxx serve`: N workers, a recorder and a keeper under a supervisor, each a process.

The recorder is a process even beside a single worker: as a thread it would take the interpreter's lock at every system call of
the worker's, which halves what a core serves. The supervisor binds every socket, so that connections waiting on a dead worker's
wait for its successor, makes the first key, and holds the lock beside the database.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TextIO

import aiohttp
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from .agreement import CHANGE_OVER, MAKE_READY, READY, REFUSED, Change, Channel, Message
from .checking import build_checked, load_checked
from .config import Config
from .crashes import describe_crash
from .db import begin_log_anew
from .discovery import Found
from .errors import StartError
from .gateway import Gateway
from .host import Host, Paths, locked
from .journal import Journal
from .loop import run
from .memory import give_large_back
from .plugins import PluginSet, build
from .secret import SHORT_SECRET, configured
from .server import allow_files, most_calls
from .shared import Shared
from .sources import Sources
from .sqlite import BACKGROUND
from .stderr import logging_to_stderr
from .supervisor import Child, Lifeline, Supervisor, hear_signals
from .watchdog import watch
from .worker import Duties, Worker, freeze, listen, prepare, recorder_of, with_what_stays

OLDEST_AIOHTTP = (3, 14, 5)
"""As in setup.cfg; an environment can be put together past that."""

log = logging.getLogger("muxx")

NO_WORKER = -1
"""The index of a process that serves nobody."""
STOP_SECONDS = 10.0
"""What a worker gets beyond the grace for streams before it is killed."""


def serve(config: Config, found: Sequence[Found], *, mock: bool = False, new_log: bool = False) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code; what stops the start is raised as `StartError`.

    `new_log` is for a log database that is missing or damaged: see `muxx.db.begin_log_anew`.

    `found` are the installed plugins, as `config` was checked against them. Nothing looks for them again until a reload does.
    """
    out = sys.stdout
    with logging_to_stderr():
        _check_surroundings()
        give_large_back()
        plugins = build_checked(found, config)
        listeners = _listeners(config)  # from here on connections wait for the first worker instead of being refused
        if new_log:
            run(_log_begun_anew(config))
        host, key = run(_owned(config, plugins))
        try:
            announce = partial(_announce, config, listeners[0], key, mock, out)  # who reads it may send a signal
            return Instance(config, found, mock, listeners, host.shared).supervise(announce)
        finally:
            asyncio.run(host.close())


def _check_surroundings() -> None:
    """Refuse what would come up and then serve badly."""
    if tuple(map(int, re.findall(r"\d+", aiohttp.__version__)[:3])) < OLDEST_AIOHTTP:
        oldest = ".".join(map(str, OLDEST_AIOHTTP))
        raise StartError(f"aiohttp {aiohttp.__version__} lets in what a gateway must refuse. Install {oldest} or newer.", 1)
    if HttpRequestParser is HttpRequestParserPy:
        text = "aiohttp came without its C parser, and its Python one lets in what a gateway must refuse. Install a wheel."
        raise StartError(text, 1)
    allow_files()
    if most_calls() < 1:
        text = "a process may open too few files here to carry a single call. Raise the hard limit: LimitNOFILE, `ulimit -Hn`."
        raise StartError(text, 1)


class Instance:
    """One `muxx serve`, and what its children start with: a socket each, and the configuration with the plugins found, which a
    reload replaces.

    A listening socket is held by the supervisor and its own worker alone, so that it is closed when both have closed it.
    """

    def __init__(
        self, config: Config, found: Sequence[Found], mock: bool, listeners: list[socket.socket], shared: Shared
    ) -> None:
        self._config = config
        self._found = found
        self._mock = mock
        self._listeners = listeners
        self._shared = shared
        """Told of every reload, by what became of it: `reloads.done` or `reloads.refused`."""

    def supervise(self, announce: Callable[[], None]) -> int:
        """Keep the children alive, until told to stop. They inherit every module, so that starting one imports nothing."""
        workers = [self._worker(i, listener) for i, listener in enumerate(self._listeners)]
        keeper = Child("keeper", self._keep, vital=False)  # it begins beside workers that serve already
        recorder = Child("recorder", self._record)
        server = self._config.server
        supervisor = Supervisor(
            [*workers, keeper],
            recorder,
            patience=server.shutdown_grace_s + STOP_SECONDS,
            hung_after=server.hung_worker_s,
            reload=self._reload,
            on_start=announce,
            on_stop=self._close_listeners,
        )
        gc.freeze()  # a child's collector would walk, and so copy, all that the children share
        gc.enable()
        return supervisor.run()

    def _worker(self, index: int, listener: socket.socket) -> Child:
        def serve(lifeline: Lifeline) -> None:
            self._close_listeners(but=listener)
            duties = Duties(f"worker{index}", keeps=False, records=False)
            run(_serve(self._config, self._found, listener, self._mock, index, duties, lifeline))

        return Child(f"worker {index}", serve)

    def _keep(self, lifeline: Lifeline) -> None:
        """It gets out of the way of those who answer."""
        self._close_listeners()
        os.nice(BACKGROUND)
        duties = Duties("keeper", serves=False, records=False)
        run(_serve(self._config, self._found, None, self._mock, NO_WORKER, duties, lifeline))

    def _record(self, lifeline: Lifeline) -> None:
        self._close_listeners()
        run(_record(self._config, self._found, self._mock, lifeline))

    def _close_listeners(self, but: socket.socket | None = None) -> None:
        for listener in self._listeners:
            if listener is not but:
                listener.close()

    def _reload(self) -> Change | None:
        """Read the file, and those of plugins, once and here; what nobody could start with reaches no child."""
        sources = Sources()
        try:
            found, config = load_checked(self._config.path, self._config.plugins_dir, sources)
            build_checked(found, config)
        except StartError as error:
            self._refused(str(error))
            return None
        return Change(sources.to_hand_over(), partial(self._take, config, found), self._refused)

    def _take(self, config: Config, found: Sequence[Found]) -> None:
        self._config, self._found = with_what_stays(self._config, config), found
        self._shared.bump("reloads.done")

    def _refused(self, reason: str) -> None:
        log.error("reload refused, the old configuration stays: %s", reason)
        self._shared.bump("reloads.refused")


def _listeners(config: Config) -> list[socket.socket]:
    """One socket per worker. The first bind is without SO_REUSEPORT, so that an address in use is found out."""
    server = config.server
    first = listen(server.host, server.port)
    if server.workers == 1:
        return [first]
    port = first.getsockname()[1]
    first.close()
    return [listen(server.host, port, share=True) for _ in range(server.workers)]


async def _log_begun_anew(config: Config) -> None:
    paths = Paths.beside(config.database.path)
    lock = locked(paths)
    try:
        await begin_log_anew(paths.database)
    finally:
        os.close(lock)


async def _owned(config: Config, plugins: PluginSet) -> tuple[Host, str | None]:
    """The host with the lock beside the database, brought up to date and its database closed again; the first key, if new.

    Children inherit the lock, so it ends with the last of them. No connection to SQLite may be open in a fork.
    """
    host = await Host.open(config)
    try:
        host.lock_instance()
        Journal(host.paths.journal, "supervisor").close()  # where no child could write one, one line says so before any is made
        key = await prepare(host, plugins)
        await host.db.close()
    except BaseException:
        await host.close()
        raise
    return host, key


def _announce(config: Config, listener: socket.socket, key: str | None, mock: bool, out: TextIO) -> None:
    """Where muxx listens, and, once in the life of a database, its first key with the line that uses it."""
    host, port = listener.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if mock:
        line = "=" * 78
        for text in (line, "MOCK MODE: every model is answered by the mock provider. Nothing is sent anywhere.", line):
            log.warning(text)
    if key is not None:
        _show_first_key(base, key, "gpt-4o" if mock else "mock", out)
    if host in ("0.0.0.0", "::"):
        log.warning("listening on every interface: put TLS and a firewall in front of it")
    if 0 < len(configured(config) or b"") < SHORT_SECRET:
        text = "a secret of fewer than %d bytes can be guessed by whoever has a copy of the database: set a longer one, %s"
        log.warning(text, SHORT_SECRET, "as `openssl rand -base64 32` prints it, with `muxx secret rotate`")
    workers = config.server.workers
    log.info("muxx listens on %s with %d worker%s", base, workers, "" if workers == 1 else "s")


def _show_first_key(base: str, key: str, model: str, out: TextIO) -> None:
    """With a line that uses it. Where nobody can read it, muxx serves all the same: another key is easily made."""
    try:
        print(
            f"Your first key, shown only this once:\n\n    {key}\n\nTry it:\n\n"
            f"    curl {base}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
            f'-d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'\n',
            file=out,
            flush=True,
        )
    except OSError as error:
        text = "the first key could not be shown: %s. Make another one: muxx keys create"
        log.error(text, error.strerror)
        with open(os.devnull, "w") as nowhere:  # what is left of it would be printed again at the end, and fail again
            os.dup2(nowhere.fileno(), out.fileno())


async def _serve(
    config: Config,
    found: Sequence[Found],
    listener: socket.socket | None,
    mock: bool,
    index: int,
    duties: Duties,
    lifeline: Lifeline,
) -> None:
    """A worker's or the keeper's process, until a signal or the supervisor's end says stop."""
    async with Host.open(config, scans_apart=duties.serves) as host:
        worker = Worker(config, build(found, config), host, mock=mock, index=index, duties=duties)
        await worker.start(listener)
        freeze()
        if duties.serves:  # the keeper stands back: on a busy machine it is silent for long, and nobody's fault
            watch(lifeline.pulse)
        await _told_to_stop(worker, lifeline.channel)


class Changing:
    """What a worker makes of what its supervisor tells it, as `muxx.agreement` has it."""

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self._worker = worker
        self._channel = channel
        self._readying: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def obey(self, message: Message) -> None:
        if message.word == CHANGE_OVER:
            self._worker.change_over()
            return
        self.end()
        self._worker.let_go()
        if message.word == MAKE_READY:
            self._readying = asyncio.create_task(self._make_ready(message), name="reload")

    def end(self) -> None:
        """No more getting ready."""
        if self._readying is not None:
            self._readying.cancel()

    async def _make_ready(self, message: Message) -> None:
        async with self._one_at_a_time:  # what was cancelled ends what it had begun first
            try:
                if not message.data:
                    raise StartError("it has no free file descriptor to be told by")
                await self._worker.make_ready(Sources.handed(message.data))
            except StartError as error:
                self._channel.send(REFUSED, message.number, str(error))
            except Exception as error:
                self._channel.send(REFUSED, message.number, describe_crash(error))
            else:
                self._channel.send(READY, message.number)


async def _told_to_stop(worker: Worker, channel: Channel) -> None:
    """Wait for the first word to stop, then stop; SIGINT or a second word cuts the grace short. Changes are made meanwhile."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    changing = Changing(worker, channel)

    def stop(hurry: bool = False) -> None:
        if hurry or stopping.is_set():
            worker.hurry()
        stopping.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop, True)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the supervisor reloads, and tells us of it
    hear_signals()
    loop.add_reader(channel.fileno(), _heard, loop, channel, changing.obey, stop)
    await stopping.wait()
    changing.end()
    await worker.stop()


def _heard(
    loop: asyncio.AbstractEventLoop, channel: Channel, obey: Callable[[Message], None], stop: Callable[[], None]
) -> None:
    message = channel.receive()
    if message is None:  # the supervisor has died
        loop.remove_reader(channel.fileno())
        stop()
    else:
        obey(message)


async def _record(config: Config, found: Sequence[Found], mock: bool, lifeline: Lifeline) -> None:
    """The recorder's process: rows from the journal to the database until told to stop, then all that is left."""
    async with Host.open(config) as host:
        journal = Journal(host.paths.journal, "recorder", durability=config.database.durability)
        plugins = build(found, config)
        gateway = Gateway(host, config, plugins, journal, mock=mock, worker=NO_WORKER, serves=False, keeps=False)
        await gateway.follow_projects()
        recorder = recorder_of(host, gateway)
        freeze()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, recorder.stop)
        for ignored in (signal.SIGINT, signal.SIGHUP):  # the supervisor decides when the rows are all there
            loop.add_signal_handler(ignored, lambda: None)
        hear_signals()
        loop.add_reader(lifeline.channel.fileno(), _heard, loop, lifeline.channel, lambda _: None, recorder.stop)
        watch(lifeline.pulse)
        try:
            await recorder.run()
        finally:
            journal.close()
            await gateway.stop()

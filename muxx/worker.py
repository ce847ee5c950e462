"""One serving process from the inside: host, journal, gateway, listening socket; its start, its reload and its end.

`muxx serve` runs these under the supervisor of `muxx.workers`; `serve_in_process` runs one in the caller's own loop. Nothing here
is global.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from . import recorder
from .accepting import BACKLOG, Accepting
from .chains import named_when_late
from .checking import Loaded, load_checked
from .config import Config
from .crashes import describe_crash
from .endpoints import refuse_reserved
from .errors import PluginLoadError, ShuttingDown, StartError
from .gateway import Gateway
from .host import LOST, Host
from .journal import Journal
from .plugins import PluginSet, build
from .recorder import Recorder
from .server import Service
from .sources import Sources
from .sqlite import needing_the_database

AFTER_ABORT_SECONDS = 2.0
"""How long ended streams get to write their rows and last bytes."""
HURRIED_SECONDS = 1.5
"""How long all that is left to do may take once it has to hurry: a little less than its supervisor waits."""
TOLD_EVERY_SECONDS = 60.0
CLOSING_SECONDS = 0.1
"""How long a connection whose exchange has ended may take to close."""

log = logging.getLogger("muxx")


async def prepare(host: Host, plugins: PluginSet) -> str | None:
    """Bring the database up to date and make sure there is a key. The first key's text, when this call made it; it is shown
    once."""
    await host.db.migrate(recorder.NAME, recorder.MIGRATIONS)
    for plugin in reversed(plugins.plugins):
        await host.db.migrate(plugin.name, getattr(plugin.instance, "migrations", ()))
    key: str | None = None
    for step in plugins.chain("first_key"):
        try:
            with named_when_late(step.plugin, "first_key"), needing_the_database():
                key = await step.call(host) or key
        except StartError:
            raise
        except (Exception, SystemExit) as error:
            text = f"its first_key failed ({describe_crash(error)}); upgrade it or switch it off"
            raise PluginLoadError(step.plugin, text) from error
    return key


def recorder_of(host: Host, gateway: Gateway) -> Recorder:
    """The recorder with this gateway's `record` hooks."""
    return Recorder(host, gateway.plugins.chain("record"), logging.getLogger("muxx.recorder"), gateway)


class RecorderThread:
    """The recorder in a thread and an event loop of its own: for a service embedded in another program's process."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._thread = threading.Thread(target=lambda: asyncio.run(recorder.run()), name="muxx-recorder")
        self._thread.start()

    async def stop(self) -> None:
        """Return when everything in the journal is stored, or cannot be for now."""
        self._recorder.stop()
        await asyncio.to_thread(self._thread.join)


class Duties(NamedTuple):
    """What a process does of the service. A process that is all of it, as an embedding one, does everything."""

    name: str = "worker0"
    """That of its journal."""
    serves: bool = True
    """Requests."""
    keeps: bool = True
    """What plugins want done in one process of the host."""
    records: bool = True
    """Rows from the journal into the database."""


ALL_DUTIES = Duties()


class Worker:
    """A process's share of the service. `start()`, then `stop()`; `reload()` between them as often as wanted.

    It starts with `plugins`, built for `config`; a reload looks for them anew.
    """

    def __init__(
        self,
        config: Config,
        plugins: PluginSet,
        host: Host,
        *,
        mock: bool = False,
        index: int = 0,
        duties: Duties = ALL_DUTIES,
    ) -> None:
        self.config = self._began = config
        self._plugins = plugins
        self.host = host
        self._mock = mock
        self._index = index
        self._duties = duties
        self._recorder: RecorderThread | None = None
        self._accepting: Accepting | None = None
        self._reloading = asyncio.Lock()
        self._hurried = asyncio.Event()
        self._over = asyncio.Event()
        """Nobody waits for exchanges any more."""
        self._latest = float("inf")
        """When it has to have ended (monotonic)."""
        self._gateways: set[Gateway] = set()
        """Every gateway that lives: the present one, one that is ready, and replaced ones that still carry exchanges."""
        self._ready: Gateway | None = None
        """One to change over to."""
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket | None) -> None:
        """Open the journal, start the gateway, then accept connections, where there is a socket to accept them from."""
        self.journal = Journal(self.host.paths.journal, self._duties.name, durability=self.config.database.durability)
        self.journal.gather()
        try:
            self.gateway = await self._new_gateway(self.config, self._plugins)
        except BaseException:
            self.journal.close()
            raise
        self.journal.outbox.running = self.gateway.calls
        if self._duties.records:
            self._recorder = RecorderThread(recorder_of(self.host, self.gateway))
        self.service = Service(self.gateway, lambda: self.journal.healthy)
        self._connections = self.service.server()
        if listener is not None:
            self._accepting = Accepting(listener, self._connections)
            await self._accepting.start()
        self._upkeep = asyncio.create_task(self._each_second(), name="journal")

    async def _new_gateway(self, config: Config, plugins: PluginSet) -> Gateway:
        gateway = Gateway(
            self.host,
            config,
            plugins,
            self.journal,
            mock=self._mock,
            worker=self._index,
            serves=self._duties.serves,
            keeps=self._duties.keeps,
        )
        refuse_reserved(gateway)
        await gateway.start()
        self._gateways.add(gateway)
        return gateway

    async def _each_second(self) -> None:
        told = float("-inf")
        while True:
            await asyncio.sleep(1.0)
            self.journal.rotate_if_due()
            if self._duties.keeps and self.host.shared.is_lost and time.monotonic() > told + TOLD_EVERY_SECONDS:
                told = time.monotonic()
                log.error(LOST.format(self.host.paths.shared))

    async def reload(self) -> bool:
        """Serve new requests by the file as it is now. A file that cannot be used changes nothing; the log says why."""
        async with self._reloading:
            try:
                await self.make_ready(Sources())
            except StartError as error:
                log.error("reload refused, the old configuration stays: %s", error)
                return False
            self.change_over()
            return True

    async def make_ready(self, sources: Sources) -> None:
        """Have a gateway ready for the configuration as `sources` have it, and let go of one that is. `StartError` where there
        can be none: what serves is not touched."""
        self.let_go()
        found, config = load_checked(self.config.path, self.config.plugins_dir, sources)
        self._ready = await self._new_gateway(config, build(found, config))

    def change_over(self) -> None:
        """Serve new requests by the gateway that is ready."""
        if self._ready is None:
            return
        old, self.gateway, self._ready = self.gateway, self._ready, None
        _warn_of_fixed(self._began, self.gateway.config)
        self.config = self.host.config = self.gateway.config  # what a project may set is judged by the file as it is now
        self.journal.outbox.running = self.gateway.calls
        self.service.use(self.gateway)
        self._retire(old)
        log.info("configuration reloaded")

    def let_go(self) -> None:
        """Do without the gateway that is ready, where there is one."""
        if self._ready is not None:
            self._retire(self._ready)
            self._ready = None

    def _retire(self, gateway: Gateway) -> None:
        retiring = asyncio.create_task(self._stop_when_idle(gateway))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _stop_when_idle(self, gateway: Gateway) -> None:
        """Stop a gateway that gets no more exchanges when its last one has ended, or is not waited for any more."""
        await _first(gateway.calls.idle(), self._over.wait())
        self._gateways.discard(gateway)
        await gateway.stop()

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let running exchanges finish for `grace` seconds, end the rest with `shutting_down`; no row is lost."""
        self.service.draining = True
        if self._accepting is not None:
            self._accepting.close()
        await self._quiet(self.config.server.shutdown_grace_s if grace is None else grace)
        for gateway in self._gateways:
            gateway.calls.abort_all(ShuttingDown())
        self._hurried.clear()
        await self._quiet(min(AFTER_ABORT_SECONDS, self._left()))
        self._upkeep.cancel()
        self._connections.pre_shutdown()
        await self._connections.shutdown(CLOSING_SECONDS)
        self._over.set()
        await self._in_time(asyncio.gather(*self._retiring, return_exceptions=True))
        for gateway in list(self._gateways):
            await self._in_time(gateway.stop())
        self.journal.close()
        if self._recorder is not None:
            await self._recorder.stop()

    def hurry(self) -> None:
        """Cut a running `stop()` short: no more grace, and soon no more patience with plugins."""
        self._hurried.set()
        self._latest = min(self._latest, time.monotonic() + HURRIED_SECONDS)

    def _left(self) -> float:
        return max(0.0, self._latest - time.monotonic())

    async def _in_time(self, work: Awaitable[Any]) -> None:
        """Wait for the end of a gateway, but give up what hangs in it when there is no more time."""
        ending = asyncio.ensure_future(work)
        if self._left() == float("inf"):
            await _first(asyncio.shield(ending), self._hurried.wait())
        if not ending.done():
            await asyncio.wait((ending,), timeout=self._left())
        ending.cancel()
        await asyncio.wait((ending,))
        if not ending.cancelled():
            ending.result()

    async def _quiet(self, seconds: float) -> None:
        """Wait until no exchange runs, but no longer than `seconds`, nor once it has to hurry."""
        await _first(asyncio.gather(*(gateway.calls.idle() for gateway in self._gateways)), self._hurried.wait(), seconds=seconds)


async def _first(*waits: Awaitable[Any], seconds: float | None = None) -> None:
    """Return when one of them is over, or so many seconds are; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


FIXED = ("host", "port", "workers", "secret", "hung_worker_s")
"""Settings of `[server]` that are read at a start only, as all of `[database]` is."""


def with_what_stays(old: Config, new: Config) -> Config:
    """A reloaded configuration, and what only a start changes as it was: for children that start later."""
    server = new.server.model_copy(update={name: getattr(old.server, name) for name in FIXED})
    return new.model_copy(update={"server": server, "database": old.database})


def _warn_of_fixed(old: Config, new: Config) -> None:
    for name in FIXED:
        if getattr(old.server, name) != getattr(new.server, name):
            log.warning("[server] %s takes effect at the next start", name)
    if old.database != new.database:
        log.warning("[database] takes effect at the next start")


_LISTEN_HINTS = {
    errno.EADDRINUSE: "Is another server running there?",
    errno.EADDRNOTAVAIL: "This machine has no such address: [server] host is one of its own, or 0.0.0.0 for all.",
    errno.EACCES: "Ports below 1024 may take a privilege: take another one, or give muxx CAP_NET_BIND_SERVICE.",
}


def listen(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A TCP socket that listens, for until then somebody else may bind the address too. Raises `StartError` with exit code 4 when
    that is taken or not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"[server] host {host!r} is no address to listen on: {error.strerror}", 4) from error
    except UnicodeError as error:
        raise StartError(f"[server] host {host!r} is no address to listen on: it is no name of a host", 4) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = _LISTEN_HINTS.get(error.errno or 0, "Take another address or port.")
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}. {hint}", 4) from error
    listener.setblocking(False)
    return listener


def freeze() -> None:
    """What start-up made lives as long as the process: keep the collector from walking it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Running:
    """A gateway serving in this process: `base_url`, `key` (the first key, when one was made), `gateway`, `worker`."""

    def __init__(self, worker: Worker, base_url: str, key: str | None) -> None:
        self.worker = worker
        self.base_url = base_url
        self.key = key

    @property
    def gateway(self) -> Gateway:
        return self.worker.gateway


@asynccontextmanager
async def serve_in_process(loaded: Loaded, *, mock: bool = False, grace: float = 1.0) -> AsyncIterator[Running]:
    """The service as `muxx serve` runs it, in the running event loop: for tests and for embedding."""
    config = loaded.config
    async with Host.open(config) as host:
        host.lock_instance()
        plugins = build(loaded.found, config)
        key = await prepare(host, plugins)
        worker = Worker(config, plugins, host, mock=mock)
        with listen(config.server.host, config.server.port) as listener:
            name: Any = listener.getsockname()
            await worker.start(listener)
            try:
                yield Running(worker, f"http://{name[0]}:{name[1]}", key)
            finally:
                await worker.stop(grace)

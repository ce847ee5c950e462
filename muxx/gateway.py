"""The gateway: builds and owns everything one configuration needs, and nothing global. Two of them live in one process.

A reload builds a second Gateway beside the first, on the same `Host` and journal; requests already running keep the one they
began with, and it stops when the last of them has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Any

from .brought import BroughtTransport
from .chains import first_price, is_plugins_own, is_unwanted, named_when_late, refuse_coroutine, run_isolated
from .complete import client_session
from .crashes import crash_of, describe_crash
from .driving import UNWIND_SECONDS
from .errors import PluginError, StartError
from .exchange import Exchange
from .flight import Flights
from .headers import sent_up
from .health import Health
from .ids import RequestIds
from .money import Cost, Usage
from .projects import REREAD_SECONDS, Projects
from .providers import provider_rows
from .registering import registered_providers, registered_routes
from .request import Request, Route
from .routing import RoutingTable
from .running import RunningCalls
from .sqlite import needing_the_database
from .strangers import Strangers
from .targets import Provider, Target
from .transport import Transport
from .unpriced import Unpriced
from .upstream import HttpTransports

if TYPE_CHECKING:
    import aiohttp

    from .config import Config
    from .db import Database
    from .host import Host
    from .journal import Journal
    from .plugins import PluginSet
    from .shared import Shared


class Chains:
    """The request hooks, compiled: one tuple of steps each, empty where no plugin has the hook."""

    __slots__ = ("authenticate", "on_chunk", "post_response", "pre_attempt", "pre_request", "price")

    def __init__(self, plugins: PluginSet) -> None:
        self.authenticate = plugins.chain("authenticate")
        self.pre_request = plugins.chain("pre_request")
        self.pre_attempt = plugins.chain("pre_attempt")
        self.on_chunk = plugins.chain("on_chunk")
        self.price = plugins.chain("price")
        self.post_response = plugins.chain("post_response")


class Gateway:
    """What plugins get as `gateway`. For them are `config`, `host`, `db`, `shared`, `projects`, `providers`, `plugins`, `calls`,
    `http`, `log` and `worker`; `plan()`, `price()`, `sent_up()`, `call()`, `spawn()` and `every()`. What else is public is the
    kernel's."""

    def __init__(
        self,
        host: Host,
        config: Config,
        plugins: PluginSet,
        journal: Journal,
        *,
        mock: bool = False,
        worker: int = 0,
        serves: bool = True,
        keeps: bool = True,
    ) -> None:
        """`worker` numbers the processes that serve, from 0; below that, this one serves nobody. `serves`: requests come here, so
        it has routes. `keeps`: what one process of the host has to do is done here."""
        plugins.require_authenticator()
        self.host = host
        self.config = config
        self.plugins = plugins
        self.journal = journal
        self.worker = worker
        self._serves = serves
        self._keeps = keeps
        self.log = logging.getLogger("muxx")
        self.ids = RequestIds()
        self.calls = RunningCalls()
        self.flights = Flights()
        self.strangers = Strangers(host.shared, config.server.unauthenticated_per_minute)
        self.unpriced = Unpriced(self.log)
        self.chain_seconds = config.server.chain_timeout_s
        self.syncs = config.database.durability == "power"
        """Whether a row is to be on the disk before its answer ends."""
        self.projects = Projects(config, host)
        self._http_transports = HttpTransports(config.server.transport, journal.outbox)
        self._transports: Mapping[str, Transport] = {}
        """Those plugins brought, by name."""
        self._picked: dict[str, Transport] = {}
        """The transport of each provider called so far, by the provider's name."""
        self.providers: Mapping[str, Provider] = provider_rows(config, self._registered_providers())
        self.health = Health(config.server.breaker_failures, config.server.breaker_open_s)
        self.routing = RoutingTable(config, self.providers, mock_everything=mock, first_byte=self.health.first_byte)
        registered = registered_routes(plugins, self) if serves else {}
        self.routes: tuple[Route, ...] = tuple(route for _, route in registered.values())
        self.plugin_of_route = {f"{route.method} {route.path}": plugin for plugin, route in registered.values()}
        self.chains = Chains(plugins)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._http: aiohttp.ClientSession | None = None
        self._life = AsyncExitStack()

    # What plugins and the pipeline ask of it.

    @property
    def db(self) -> Database:
        return self.host.db

    @property
    def shared(self) -> Shared:
        return self.host.shared

    @property
    def http(self) -> aiohttp.ClientSession:
        """A client session with the gateway's proxy settings, for plugins that call other services."""
        if self._http is None:
            self._http = client_session()
        return self._http

    def plan(self, model: str) -> tuple[Target, ...]:
        """The ordered targets of a model name; raises `ModelNotFound`."""
        return self.routing.plan(model)

    def price(self, target: Target, usage: Usage, at: float | None = None) -> Cost | None:
        """What `usage` costs at `target`, by the first plugin that knows; None when none does. `at` is when the request came
        (`exchange.timing.started_at`), for prices change; without it, now."""
        return first_price(self.chains.price, (target, usage, time.time() if at is None else at))

    def sent_up(self, request: Request, provider: Provider) -> Mapping[str, str]:
        """A client's headers that go up to this provider, by their lower-case names; no credential is among them."""
        return sent_up(provider, request)

    async def call(self, operation: str, body: Mapping[str, Any], *, parent: Exchange) -> dict[str, Any]:
        """A call of a plugin's own, e.g. of a moderation model: `operation` is the name of an endpoint, as rows have it ("chat",
        "messages"), `body` the request in that endpoint's format, the result the parsed answer, never streamed. It is made for
        `parent`'s caller, runs through every hook, is priced, and has its own row whose attributes name the parent. Raises the
        `MuxxError` it ended with. Hooks tell it by `exchange.parent`.
        """
        from .innercall import call

        return await call(self, operation, body, parent)

    def transport(self, provider: Provider) -> Transport:
        """Who carries calls to this provider."""
        picked = self._picked.get(provider.name)
        if picked is None:
            brought = self._transports.get(provider.transport)
            picked = self._picked[provider.name] = brought or self._http_transports.pick(provider)
        return picked

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run a coroutine as a task this gateway owns: its failure is logged, and stopping the gateway ends it."""
        if not iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, as `work()` gives one, not a {type(coroutine).__name__}")
        return self._begin(_never_exiting(coroutine), name)

    def _begin(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, PluginError) and error.__cause__ is not None:
                error = error.__cause__
            self.log.error("task %s failed: %s", task.get_name(), describe_crash(error))

    def every(self, seconds: float, function: Callable[[], Awaitable[None]], *, name: str, once_per_host: bool = False) -> None:
        """Call `function` again and again; a failure is logged and the next round runs. It runs in every worker; `once_per_host`:
        in one process only, which under `muxx serve` is none of them, so that no request waits for it."""
        if not (isinstance(seconds, int | float) and seconds > 0):
            raise ValueError(f"every() takes a number of seconds above 0, not {seconds!r}")
        if not callable(function):
            raise TypeError(f"every() takes an `async def` to call again and again, not a {type(function).__name__}")
        if self._keeps if once_per_host else self._serves:
            self._begin_repeating(seconds, function, name)

    def _begin_repeating(self, seconds: float, function: Callable[[], Awaitable[None]], name: str) -> None:
        self._begin(self._repeat(seconds, function, name), name)

    async def _repeat(self, seconds: float, function: Callable[[], Awaitable[None]], name: str) -> None:
        while not is_unwanted():
            await asyncio.sleep(seconds)
            try:
                round = function()
                if isawaitable(round):
                    await round
                else:
                    self.log.error("%s is a plain `def`, and every request waits for it; make it an `async def`", name)
            except BaseException as error:
                if not is_plugins_own(error):
                    raise
                self.log.error("%s failed: %s; it will run again in %g s", name, describe_crash(error), seconds)

    def after(self, exchange: Exchange) -> None:
        """Who asked to be told (`exchange.at_end`), then `post_response`: once per exchange, delaying nobody, behind its row. Not
        called where nobody wants it."""
        over = partial(self._over, exchange)
        self.journal.outbox.put(over, b"", over)

    def _over(self, exchange: Exchange, _: object) -> None:
        for tell in exchange.enders:
            try:
                if (result := tell(exchange)) is not None:
                    refuse_coroutine(result)
            except BaseException as error:  # nothing waits here, so not even a cancellation is anybody else's
                self.log.error("a plugin failed at the end of request %s: %s", exchange.id, crash_of(tell, error))
        if self.chains.post_response:
            steps = run_isolated(self.chains.post_response, (self, exchange), self.chain_seconds)
            self._begin(steps, "post_response")

    # Its life.

    async def start(self) -> None:
        """Bring plugins to life in order; a failure stops what had started and names the plugin."""
        self._begin(self.calls.tick(), "deadlines")
        try:
            self.strangers.open()
            await self.follow_projects()
            for step in self.plugins.chain("lifespan"):
                await self._enter(step.plugin, step.call(self))
        except BaseException:
            await self.stop()
            raise

    async def follow_projects(self) -> None:
        """Read the projects, and read them again now and then: also for a gateway that answers nobody, as the recorder's."""
        await self.projects.catch_up()
        self._begin_repeating(REREAD_SECONDS, self.projects.reread, "projects.reread")

    async def _enter(self, plugin: str, life: AsyncIterator[None]) -> None:
        try:
            with named_when_late(plugin, "lifespan"), needing_the_database():
                await anext(life)
        except StartError:
            raise
        except StopAsyncIteration:
            raise StartError(f"plugin {plugin!r} could not start: its lifespan ended before a `yield`", 1) from None
        except (Exception, SystemExit) as error:
            raise StartError(f"plugin {plugin!r} could not start: {describe_crash(error)}: {error}", 1) from error
        self._life.push_async_callback(self._leave, plugin, life)

    async def _leave(self, plugin: str, life: AsyncIterator[None]) -> None:
        try:
            with named_when_late(plugin, "lifespan"):
                await anext(life)
        except StopAsyncIteration:
            return
        except asyncio.CancelledError:
            self.log.error("plugin %s does not end its lifespan, and is given up", plugin)
            raise
        except (Exception, SystemExit) as error:
            self.log.error("plugin %s failed while stopping: %s", plugin, describe_crash(error))
            return
        self.log.error("plugin %s: its lifespan has more than one yield; the rest was not run", plugin)

    async def stop(self) -> None:
        """End owned tasks, then the plugins in reverse order, then the transports. Running exchanges must have ended."""
        self.journal.outbox.flush()
        await self.finish_tasks("post_response")
        await self._end_tasks()
        await self._life.aclose()
        await self._http_transports.close()
        for transport in self._transports.values():
            await transport.close()
        if self._http is not None:
            await self._http.close()

    async def _end_tasks(self) -> None:
        """Cancel what runs. What does not hear it is left: those who stop after it have something to write down."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=UNWIND_SECONDS)
        text = "task %s goes on although it was cancelled, and is left; let asyncio.CancelledError pass"
        for task in self._tasks:
            self.log.error(text, task.get_name())

    async def finish_tasks(self, name: str) -> None:
        """Wait for owned tasks of that name: what was begun for an exchange is done for it."""
        waiting = [task for task in self._tasks if task.get_name() == name]
        if waiting:
            await asyncio.wait(waiting, timeout=self.chain_seconds)

    # Start-up hooks.

    def _registered_providers(self) -> Mapping[str, Provider]:
        rows, brought, self.plugin_of_provider = registered_providers(self.plugins, self)
        self._transports = {name: BroughtTransport(plugin, name, transport) for name, (plugin, transport) in brought.items()}
        return rows


async def _never_exiting(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A plugin's task: what would end the process ends the task alone."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise PluginError() from error

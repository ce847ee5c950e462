"""The hooks: look up, share, store, and give again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field

from muxx import Exchange, Identity, MuxxError, PluginConfig, Project, Reply, Route, Target, WholeAnswer, hookimpl

from .directives import HEADER, Directives, parse
from .key import finish, prefix
from .memory import Entry, Memory
from .store import ANY_PURGE, MIGRATIONS, CacheStore, Figures, purge_names

if TYPE_CHECKING:
    import click

    from muxx import Gateway, Shared

UPKEEP_SECONDS = 5.0
"""How often a worker says how much it holds."""

SWEEP_EVERY = 12
"""Rounds of upkeep between two looks for answers whose time is over."""

SWEEP_KEYS = 500
"""Entries looked at in one go, so that no request waits for it."""


class CacheMiss(MuxxError):
    """504: the caller wanted a stored answer or none (`only-if-cached`)."""

    status = 504
    type = "invalid_request_error"
    code = "cache_miss"

    @classmethod
    def default_message(cls) -> str:
        return "There is no stored answer to this request. Leave out only-if-cached to have one made."


class CacheConfig(PluginConfig):
    max_bytes: int = Field(268_435_456, ge=1, le=2**53)
    """Bytes of answers each worker keeps in memory; the least recently used leave first."""
    max_entry_bytes: int = Field(4_194_304, ge=1, le=2**53)
    """Largest single answer that is kept."""
    ignore_headers: tuple[Annotated[str, Field(min_length=1), AfterValidator(str.lower)], ...] = ()
    """Headers sent up that make no request another one, e.g. ["traceparent"]."""


class Asked(NamedTuple):
    """What the cache knows of a head, kept with it: the requests of a connection mostly share theirs."""

    targets: tuple[Target, ...]
    identity: Identity | None
    project: Project | None
    """As it was set then."""
    purges: int
    """How often anything had been purged."""
    said: Directives
    usable: bool
    """The project has a cache, and neither the caller nor who pays forbids its use."""
    prefix: bytes


class Cache:
    """Exact, per project, in each worker's memory.

    Last in `pre_request`, so that a hit has passed every limit and guard, and its key holds what they made of the request. A
    purge is a number all workers see, and part of every key: what was stored before it can be found no more.
    """

    Config = CacheConfig
    migrations = MIGRATIONS

    def __init__(self, config: CacheConfig) -> None:
        self._max_entry_bytes = config.max_entry_bytes
        self._ignored = frozenset(config.ignore_headers)
        self._memory = Memory(config.max_bytes)
        self._max_bytes = config.max_bytes
        self._seen_purges: dict[str, tuple[int, ...]] = {}
        """How often each project had been purged at its last request that asked."""

    @hookimpl(trylast=True)
    def pre_request(self, gateway: Gateway, exchange: Exchange) -> Reply | None:
        """Answer from memory, or see that the answer is shared with those who ask the same meanwhile, and kept."""
        request, shared = exchange.request, gateway.shared
        purges = shared.version(ANY_PURGE)
        asked: Asked | None = request.memory.get(self)
        if (
            asked is None
            or asked.targets is not exchange.targets
            or asked.identity is not exchange.identity
            or asked.project is not exchange.project
            or asked.purges != purges
        ):
            asked = request.memory[self] = self._find_out(gateway, exchange, purges)
        said, project = asked.said, exchange.project
        key = finish(asked.prefix, request.body) if asked.usable else None
        if key is not None and not said.no_cache and (entry := self._memory.get(key)) is not None:
            reply = self._hit(exchange, entry, said.max_age)
            if reply is not None:
                return reply
        if said.only_if_cached:
            raise CacheMiss()
        if key is not None and project is not None:
            # Nothing of this may refer to the exchange: that would be a cycle, and all of it would wait for the collector.
            exchange.collect(partial(self._keep, shared, project, exchange.id, key, purges), self._max_entry_bytes)
            if not said.no_cache:
                exchange.cache = "miss"
                exchange.coalesce(key)
        return None

    def _hit(self, exchange: Exchange, entry: Entry, max_age: float | None) -> Reply | None:
        """The stored answer, if it is young enough for the project as it is set now, and for this caller."""
        age, project = time.monotonic() - entry.answer.at, exchange.project
        if project is None or age >= project.settings.cache_ttl or (max_age is not None and age > max_age):
            return None
        exchange.attributes["answer_of"] = entry.request_id
        return Reply(entry.answer)

    def _keep(self, shared: Shared, project: Project, request_id: str, key: bytes, purges: int, answer: WholeAnswer) -> None:
        """Store an answer, unless its provider forbids it or something was purged since it was asked for."""
        if answer.cache_control and "no-store" in answer.cache_control.lower():
            return
        if shared.version(ANY_PURGE) == purges:
            self._memory.put(key, Entry(answer, project.name, answer.at + project.settings.cache_ttl, request_id))

    def _find_out(self, gateway: Gateway, exchange: Exchange, purges: int) -> Asked:
        """What is to be known of a head; found out anew when anything it depends on has changed."""
        request, targets, identity = exchange.request, exchange.targets, exchange.identity
        forwards = any(target.provider.forward_client_credentials for target in targets)
        caller = () if identity is None else (identity.project, identity.environment)
        names = sorted({str(target) for target in targets})
        fields = [exchange.operation, self._purged(gateway, identity), *caller, str(len(names)), *names]
        for provider in sorted({target.provider for target in targets}, key=lambda provider: provider.name):
            for name, value in sorted(gateway.sent_up(request, provider).items()):
                if name not in self._ignored:
                    fields += (name, value)
        said, project = parse(request.headers.get(HEADER)), exchange.project
        has_cache = project is not None and project.settings.cache_enabled
        usable = has_cache and not said.no_store and not (forwards and request.brings_own_credential)
        return Asked(targets, identity, project, purges, said, usable, prefix(fields))

    def _purged(self, gateway: Gateway, identity: Identity | None) -> str:
        """How often all, and this project's part, has been purged, as every key says; what that has made impossible to find is
        let go of."""
        project = identity.project if identity is not None else ""
        count = tuple(gateway.shared.version(name) for name in purge_names(project))
        before = self._seen_purges.setdefault(project, count)
        if before != count:
            self._memory.drop(project)
            self._seen_purges[project] = count
        return f"{count[0]}.{count[1]}"

    @hookimpl
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        """Say now and then how much is held, and let go of what is too old."""
        store, rounds = CacheStore(gateway.db), 0

        async def upkeep() -> None:
            nonlocal rounds
            if rounds % SWEEP_EVERY == 0:
                await self._sweep()
            await store.report(gateway.worker, Figures(len(self._memory), self._memory.size, self._max_bytes))
            rounds += 1

        if gateway.worker >= 0:  # the keeper answers nobody, and holds nothing
            await upkeep()
        gateway.every(UPKEEP_SECONDS, upkeep, name="cache.upkeep")
        yield

    async def _sweep(self) -> None:
        keys = self._memory.keys()
        for start in range(0, len(keys), SWEEP_KEYS):
            self._memory.drop_expired(keys[start : start + SWEEP_KEYS], time.monotonic())
            await asyncio.sleep(0)

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        from .routes import ROUTES

        return ROUTES

    @hookimpl
    def register_commands(self, cli: click.Group) -> None:
        from .commands import cache

        cli.add_command(cache)

"""Everything that can be said of a plugin before anybody installs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muxx.errors import PermissionDenied
from muxx.exchange import Exchange
from muxx.hookspecs import hookimpl

from .advice import Finding, advice
from .played import refusal
from .stage import Stage, class_of, name_of
from .state import changed, shared_state
from .tables import log_tables
from .waiting import completed
from .watching import HookCall

SLOW_SECONDS = 0.05
"""A plain `def` hook that takes longer holds up everybody; the gateway's own log speaks up at five times that."""


class _RefusesAll:
    """Asked before the plugin, so that its later hooks meet an exchange its earlier ones never saw."""

    @hookimpl(tryfirst=True)
    def pre_request(self, exchange: Exchange) -> None:
        if exchange.request.headers.get("x-check") == "refuse":
            raise PermissionDenied()


def check_plugin(
    plugin: object, settings: Mapping[str, Any] | None = None, *, name: str | None = None, config: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Raise what muxx would refuse at a start, in its own words; return what else a reviewer would say.

    The plugin, a class or an instance, is read, built, and taken through a few exchanges on a `Stage`. Raises `PluginLoadError`,
    `ConfigError` or `StartError`. An empty list means that there is nothing to say.
    """
    return completed(_check(plugin, settings, name or name_of(plugin), config))


async def _check(
    plugin: object, settings: Mapping[str, Any] | None, name: str, config: Mapping[str, Any] | None
) -> list[Finding]:
    before = shared_state(class_of(plugin))
    async with Stage(plugin, settings, name=name, config=config, beside={"check": _RefusesAll}) as stage:
        _add_commands(stage)
        outcomes = [
            await stage.drive("Hello there, you."),
            await stage.drive("Hello there, you.", stream=True),
            await stage.drive(refusal(429)),
            await stage.drive(body=b"{"),
            await stage.drive(headers={"X-Check": "refuse"}),
            await stage.drive("Hello there, you.", stream=True, leave_after=1),
        ]
        stored = await log_tables(stage.gateway)
        for outcome in outcomes:
            await stage.deliver_again(outcome)
        again = await log_tables(stage.gateway)
        calls = stage.watch.of(name)
    after = shared_state(class_of(plugin))
    found = list(advice(class_of(plugin), name))
    found += [Finding("shared", f"{place} changed while the plugin ran: gateways share it") for place in changed(before, after)]
    if stored != again:
        found.append(Finding("twice", "a row that came again changed the tables: write idempotently, as INSERT OR IGNORE does"))
    found += [*_crashes(calls), *_slow(calls), *_chunks(calls)]
    return list(dict.fromkeys(found))


def _add_commands(stage: Stage) -> None:
    """As the command line does, which is loaded only here."""
    from muxx.cli import PluginCommands, register_commands

    register_commands(stage.gateway.plugins, PluginCommands())


def _crashes(calls: Sequence[HookCall]) -> Iterator[Finding]:
    for call in calls:
        if call.outcome == "crashed":
            yield Finding("crash", f"{call.hook} raised {type(call.error).__name__}: {call.error}")


def _slow(calls: Sequence[HookCall]) -> Iterator[Finding]:
    for hook in dict.fromkeys(call.hook for call in calls if call.seconds > SLOW_SECONDS):
        most = max(call.seconds for call in calls if call.hook == hook)
        yield Finding("blocks", f"{hook} held the event loop for {most * 1e3:.0f} ms: make it `async def`, or cheaper")


def _chunks(calls: Sequence[HookCall]) -> Iterator[Finding]:
    chunks = [call for call in calls if call.hook == "on_chunk"]
    if chunks and all(call.outcome == "nothing" for call in chunks):
        text = "on_chunk changed nothing here, and has every answer decoded: to look on, use exchange.tap() in pre_request"
        yield Finding("fast-path", text)
    elif chunks:
        yield Finding("fast-path", "on_chunk has every answer decoded: skip_chunks() where there is nothing to do")

"""Watching a gateway's hooks run: every step of every chain, whosever it is, in the order the kernel calls them.

What is watched are the compiled chains themselves, so what is seen is what the kernel did, not what it should have done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from muxx.errors import MuxxError
from muxx.exchange import Exchange
from muxx.gateway import Chains, Gateway
from muxx.hookspecs import REQUEST_HOOKS, signature_of
from muxx.plugins import Step
from muxx.reply import Chunk
from muxx.request import HttpRequest

HookOutcome = Literal["running", "nothing", "result", "refused", "crashed", "cancelled"]


@dataclass(slots=True, eq=False)
class HookCall:
    """One call of one plugin's hook. `given` holds the hook's arguments by name."""

    plugin: str
    hook: str
    given: dict[str, Any]
    outcome: HookOutcome = "running"
    result: Any = None
    """What it returned; of `on_chunk` the list of Chunks, as far as they were taken."""
    error: BaseException | None = None
    own: bool = True
    """The outcome is the plugin's own doing, not that of whoever interfered."""
    seconds: float = 0.0
    """How long a plain `def` took."""
    kind: str = ""
    """Of `on_chunk`: the kind of the chunk it was given."""

    @property
    def exchange(self) -> Exchange | None:
        return self.given.get("exchange")

    @property
    def request(self) -> HttpRequest | None:
        return self.given.get("request")

    @property
    def record_ids(self) -> list[str]:
        return [record["request_id"] for record in self.given.get("records", ())]

    def ended(self, outcome: HookOutcome, result: Any = None, error: BaseException | None = None) -> None:
        self.outcome, self.result, self.error = outcome, result, error


Interfere = Callable[[HookCall], BaseException | None]
"""Asked before each call; what it returns is raised in place of the call."""


@dataclass(slots=True, eq=False)
class Watch:
    """The calls seen so far, in order. `attach` it to a gateway before its recorder is made."""

    calls: list[HookCall] = field(default_factory=list)
    interfere: Interfere | None = None

    def attach(self, gateway: Gateway) -> None:
        """From now on see what this gateway's chains call."""
        plugins = gateway.plugins
        watched = {hook: tuple(self._watched(hook, step) for step in plugins.chain(hook)) for hook in REQUEST_HOOKS}
        plugins.chains = {**plugins.chains, **watched}
        gateway.chains = Chains(plugins)

    def of(self, plugin: str, hook: str | None = None) -> list[HookCall]:
        return [call for call in self.calls if call.plugin == plugin and hook in (None, call.hook)]

    def _watched(self, hook: str, step: Step) -> Step:
        names = signature_of(hook)

        def begin(args: tuple[Any, ...]) -> HookCall:
            call = HookCall(step.plugin, hook, dict(zip(names, args, strict=True)))
            if hook == "on_chunk":
                call.kind = call.given["chunk"].kind
            self.calls.append(call)
            error = self.interfere(call) if self.interfere is not None else None
            if error is not None:
                call.own = False
                call.ended(_outcome_of(error), error=error)
                raise error
            return call

        def run(*args: Any) -> Any:
            call = begin(args)
            started = time.monotonic()
            try:
                result = step.call(*args)
            except BaseException as error:
                call.ended(_outcome_of(error), error=error)
                raise
            finally:
                call.seconds = time.monotonic() - started
            return _noted(call, result)

        async def run_async(*args: Any) -> Any:
            call = begin(args)
            try:
                result = await step.call(*args)
            except BaseException as error:
                call.ended(_outcome_of(error), error=error)
                raise
            return _noted(call, result)

        return replace(step, call=run_async if step.is_async else run)


def _outcome_of(error: BaseException) -> HookOutcome:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "refused" if isinstance(error, MuxxError) else "crashed"


def _noted(call: HookCall, result: Any) -> Any:
    if call.hook == "on_chunk" and isinstance(result, Iterable) and not isinstance(result, str | bytes):
        taken: list[Chunk] = []
        call.ended("result", taken)
        return _passing(call, result, taken)
    call.ended("nothing" if result is None else "result", result)
    return result


def _passing(call: HookCall, chunks: Iterable[Chunk], taken: list[Chunk]) -> Iterator[Chunk]:
    """The chunks as they are taken: a plugin's generator may fail while it is read."""
    try:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk
    except Exception as error:
        call.ended(_outcome_of(error), taken, error)
        raise

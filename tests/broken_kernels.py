"""Kernels that break an invariant, and what the conformance suite says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from money_kit import nothing_adds_up

import muxx.chains as chains
from muxx import hookimpl
from muxx.testing import attempt
from muxx.testing.conformance import Subject, broken, examine, matrix

Patch = Callable[[pytest.MonkeyPatch], None]


class Watching:
    """Has a part in every chain, so that there is something to be left out."""

    @hookimpl
    async def pre_request(self) -> None: ...

    @hookimpl
    async def pre_attempt(self) -> None: ...

    @hookimpl
    def on_chunk(self) -> None: ...

    @hookimpl
    async def post_response(self) -> None: ...

    @hookimpl
    async def record(self) -> None: ...


Way = tuple[str, str]
"""The endpoint that is called, and the one at which the provider is asked, where that is another."""
CHAT: Way = ("chat", "")


class Break(NamedTuple):
    """What a kernel does wrong: the invariant that breaks, the cases it takes (none: those nobody disturbs), how it is broken, and
    which way the cases are asked."""

    invariant: str
    endings: tuple[str, ...]
    break_it: Patch
    way: Way = CHAT

    async def found(self, patch: pytest.MonkeyPatch) -> dict[str, list[str]]:
        """What the suite finds."""
        subject, endings = Subject(Watching, "watching"), self.endings or ("answered",)
        cases = [case for case in matrix(subject.hooks) if case.way == self.way and case.outcome.startswith(endings)]
        assert cases
        self.break_it(patch)
        with nothing_adds_up():
            return broken(await examine(subject, cases, patience=1.0))


class Breaks(dict[str, Break]):
    """By name. `@breaks("the_invariant", "how its cases begin")` adds a function that breaks the kernel; `way` is not `CHAT` where
    another is broken."""

    def __call__(self, invariant: str, *endings: str, way: Way = CHAT) -> Callable[[Patch], Patch]:
        def note(patch: Patch) -> Patch:
            self[patch.__name__] = Break(invariant, endings, patch, way)
            return patch

        return note


async def ask_before_an_attempt(call: Any) -> None:
    made = attempt(call.exchange)
    await chains.run_all(call.gateway.chains.pre_attempt, (call.gateway, call.exchange, made), 1.0)

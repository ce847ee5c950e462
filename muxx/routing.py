"""Which targets a model name means, in order, and which failure lets the next one be tried. Pure: values in, values out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .errors import ModelNotFound, ProviderRefusal, StartError, UpstreamDisconnected, UpstreamError, UpstreamUnreachable
from .outages import refusal_kind
from .providers import BUILT_IN, BUILT_IN_MODELS
from .selecting import Strategy, in_turn, strategy_of
from .targets import Attempt, Provider, Target, Timeouts

if TYPE_CHECKING:
    from .config import Config, ModelConfig, TargetConfig

MOCK = "mock"
REMEMBERED = 4096


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, in which `*` stands for any run of characters."""
    return captured(pattern, name) is not None


def captured(pattern: str, name: str) -> str | None:
    """What the pattern's first `*` stood for; "" for an exact match; None when the name does not fit."""
    if "*" not in pattern:
        return "" if pattern == name else None
    found = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))).replace(".*", "(.*)", 1), name, re.DOTALL)
    return found.group(1) if found else None


Rule = Literal["configured", "provider/model", "wildcard", "built in", "mock"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a model name means: its targets as written, how one of them is chosen, and which rule found them under which name."""

    targets: tuple[Target, ...]
    strategy: Strategy
    rule: Rule
    name: str


def _unmeasured(target: Target) -> float | None:
    return None


class RoutingTable:
    """Model names to targets, frozen at start. `plan` resolves in the order the configuration page gives."""

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        *,
        mock_everything: bool = False,
        first_byte: Callable[[Target], float | None] = _unmeasured,
    ) -> None:
        """`first_byte` knows how long a target takes to begin its answer."""
        self._providers = providers
        self._set_up = frozenset(name for name, row in providers.items() if _is_set_up(config, row))
        """Providers that somebody has said something of: the operator, the environment or a plugin."""
        self._first_byte = first_byte
        self._mock = mock_everything
        self._timeouts = _timeouts(config)
        self._resolved: dict[str, Resolved] = {}
        """Names looked up before; names come from clients, so there are at most `REMEMBERED`."""
        self._exact: dict[str, Resolved] = {}
        self._wildcards: list[Resolved] = []
        for model in config.models:
            targets = tuple(self._configured(model, spec) for spec in model.targets)
            strategy = strategy_of(model.strategy, [target.weight for target in targets])
            if "*" in model.name:
                self._wildcards.append(Resolved(targets, strategy, "wildcard", model.name))
            else:
                self._exact[model.name] = Resolved(targets, strategy, "configured", model.name)

    def plan(self, model: str) -> tuple[Target, ...]:
        """The targets of `model` in the order for one request; raises `ModelNotFound`."""
        found = self.resolve(model)
        if found is None:
            raise ModelNotFound(
                "No such model here. GET /v1/models lists what this key may use; add others under [[models]].", param="model"
            )
        return found.targets if len(found.targets) == 1 else in_turn(found.targets, found.strategy, self._first_byte)

    def resolve(self, model: str) -> Resolved | None:
        """What the name means; None when nobody serves it."""
        found = self._resolved.get(model)
        if found is None:
            found = self._mocked(model) if self._mock else self._resolve(model)
            if found is not None and len(self._resolved) < REMEMBERED:
                self._resolved[model] = found
        return found

    def _resolve(self, model: str) -> Resolved | None:
        of_provider = self._by_provider(model)
        first = of_provider if of_provider is not None and of_provider.targets[0].provider.name in self._set_up else None
        return self._exact.get(model) or first or self._by_wildcard(model) or of_provider or self._built_in(model)

    def _mocked(self, model: str) -> Resolved:
        """The mock provider in the place of whoever would serve `model`, at that one's prices."""
        meant = self._resolve(model)
        first = meant.targets[0] if meant is not None else None
        row = self._providers[MOCK]
        if first is not None and first.provider.name != MOCK:
            row = replace(row, prices=first.provider.vendor)
        target = Target(row, first.model if first is not None else model, self._timeouts)
        return Resolved((target,), "ordered", "mock", model)

    def names(self, paid: Container[str] = (), allowed: Iterable[str] = ()) -> list[str]:
        """Every configured or built-in name, those without a wildcard first; for a project that pays the providers `paid` with
        keys of its own. Names of an allow-list that wildcards stand for are among them, and what it has of a wildcard."""
        usable = [name for name, target in BUILT_IN_MODELS if self._mock or self._usable(target.split("/", 1)[0], paid)]
        named = [name for name in allowed if "*" not in name or self._by_wildcard(name) is not None]
        meant = [name for name in named if self._is_served(name, paid)]
        names = dict.fromkeys([*self._exact, *(found.name for found in self._wildcards), *usable, *meant])
        return sorted(names, key=lambda name: "*" in name)

    def _usable(self, provider: str, paid: Container[str]) -> bool:
        row = self._providers.get(provider)
        return row is not None and row.missing_for(provider in paid) is None

    def _is_served(self, name: str, paid: Container[str]) -> bool:
        found = self.resolve(name)
        return found is not None and (self._mock or any(self._usable(t.provider.name, paid) for t in found.targets))

    def _by_provider(self, model: str) -> Resolved | None:
        provider, slash, name = model.partition("/")
        if not (slash and name and provider in self._providers):
            return None
        return Resolved((self._target(provider, name),), "ordered", "provider/model", model)

    def _by_wildcard(self, model: str) -> Resolved | None:
        for found in self._wildcards:
            star = captured(found.name, model)
            if star is not None:
                return replace(found, targets=tuple(replace(t, model=t.model.replace("*", star)) for t in found.targets))
        return None

    def _built_in(self, model: str) -> Resolved | None:
        for pattern, target in BUILT_IN_MODELS:
            star = captured(pattern, model)
            provider, _, name = target.partition("/")
            if star is not None and provider in self._providers:
                return Resolved((self._target(provider, name.replace("*", star)),), "ordered", "built in", pattern)
        return None

    def _target(self, provider: str, model: str) -> Target:
        return Target(self._providers[provider], model, self._timeouts)

    def _configured(self, model: ModelConfig, spec: TargetConfig) -> Target:
        provider, _, name = spec.target.partition("/")
        if provider not in self._providers:
            known = ", ".join(sorted(self._providers))
            raise StartError(f"models.{model.name}.targets: {spec.target!r} names no known provider (there are {known})")
        timeouts = replace(self._timeouts, **_given_timeouts(spec))
        return Target(
            self._providers[provider],
            name,
            timeouts,
            model.retries,
            spec.weight,
            spec.parameters,
            spec.on_unsupported,
            model.buffer_until,
            frozenset(model.fall_back_on),
        )


def _is_set_up(config: Config, row: Provider) -> bool:
    """Whether a provider is there for more than muxx's knowing it: a built-in one stands in the file or has a key."""
    return row.name in config.providers or row.name not in _BUILT_IN_NAMES or bool(row.keys)


_BUILT_IN_NAMES = frozenset(row.name for row in BUILT_IN)


def _timeouts(config: Config) -> Timeouts:
    server = config.server
    return Timeouts(
        connect=server.connect_timeout_s,
        first_byte=server.first_byte_timeout_s,
        first_token=server.first_token_timeout_s,
        between_events=server.between_events_timeout_s,
        whole=server.request_timeout_s,
    )


def _given_timeouts(spec: TargetConfig) -> dict[str, Any]:
    named = {
        "connect": spec.connect_timeout_s,
        "first_byte": spec.first_byte_timeout_s,
        "first_token": spec.first_token_timeout_s,
        "between_events": spec.between_events_timeout_s,
        "whole": spec.request_timeout_s,
    }
    return {name: value for name, value in named.items() if value is not None}


RETRY_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Provider statuses that the same request may survive later or elsewhere."""


def may_replay(attempt: Attempt, error: UpstreamError) -> bool:
    """One replay of the same target is free: the request was not sent, or a pooled connection closed before any byte came
    back."""
    if attempt.replays > 0 or attempt.status is not None:
        return False
    return not attempt.sent or (attempt.reused and not attempt.answering and isinstance(error, UpstreamDisconnected))


def may_ask_with_another_key(attempt: Attempt) -> bool:
    """Whether the provider refused the key rather than the request."""
    return attempt.status in (401, 403, 429) and _answer_kind(attempt) is None


def may_retry(attempt: Attempt, tries: int) -> bool:
    """Whether the same target may be tried again: within its `retries`, and only for what can pass by itself."""
    return tries <= attempt.target.retries and _answer_kind(attempt) is None and _passing(attempt)


def may_fall_back(attempt: Attempt) -> bool:
    """Whether the next target may be tried. Only before any byte of a 2xx body has come, which the caller guarantees."""
    kind = _answer_kind(attempt)
    if kind is not None:
        return kind in attempt.target.fall_back_on
    return _passing(attempt) or attempt.status in (401, 403, 404) or attempt.status in attempt.target.fall_back_on


def _answer_kind(attempt: Attempt) -> str | None:
    """What a refusal is that says of the request that no provider is going to answer it; None for any other."""
    error = attempt.error
    if not isinstance(error, UpstreamError):
        return None
    return refusal_kind(error.code, error.body if isinstance(error, ProviderRefusal) else b"")


LONGEST_BACKOFF = 8.0
LONGEST_WAIT = 60.0
"""Seconds a provider may ask to be left alone for; what asks for more is not tried again here."""


def backoff(tries: int, retry_after: float | None) -> float | None:
    """Seconds before the same target is tried again: what the provider asked for, else anything up to a bound that doubles from
    half a second (full jitter, so that those who failed together do not come back together); None: not at all."""
    if retry_after is not None:
        return retry_after if retry_after <= LONGEST_WAIT else None
    return random.uniform(0, min(LONGEST_BACKOFF, 0.5 * 2 ** (tries - 1)))  # noqa: S311  (spreads retries, guards nothing)


def _passing(attempt: Attempt) -> bool:
    if attempt.error is not None and isinstance(attempt.error, UpstreamUnreachable):
        return True
    if attempt.error is not None:
        return attempt.error.retry
    return attempt.status in RETRY_STATUSES


def targets_of(targets: Iterable[Target], allowed: Sequence[str], requested: str) -> tuple[Target, ...]:
    """The targets an allow-list leaves: all when the requested name fits, else those whose resolved name does. Empty list:
    all."""
    if not allowed or any(matches(pattern, requested) for pattern in allowed):
        return tuple(targets)
    return tuple(t for t in targets if any(matches(p, t.model) or matches(p, str(t)) for p in allowed))


OTHER_MODELS = "models"
"""The member of a body that tells OpenRouter with which further models it may answer."""


def allows_others(targets: Iterable[Target], allowed: Sequence[str], body: Mapping[str, Any]) -> bool:
    """Whether an allow-list leaves every further model that the body names, as it has to leave its `model`."""
    others = body.get(OTHER_MODELS)
    if others is None:
        return True
    named = others if type(others) is list else [others]
    return all(
        type(other) is str and targets_of((replace(target, model=other) for target in targets), allowed, other) for other in named
    )

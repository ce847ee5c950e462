"""Which targets a model name means, in order, and which failure lets the next one be tried. Pure: values in, values out."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import ModelNotFound, StartError, UpstreamDisconnected, UpstreamError, UpstreamUnreachable
from .providers import BUILT_IN_MODELS, provider_rows
from .targets import Attempt, Provider, Target, Timeouts

if TYPE_CHECKING:
    from .config import Config, ModelConfig, TargetConfig
    from .plugins import PluginSet

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


class RoutingTable:
    """Model names to targets, frozen at start. `plan` resolves in the order the configuration page gives."""

    def __init__(self, config: Config, providers: Mapping[str, Provider], *, mock_everything: bool = False) -> None:
        self._providers = providers
        self._mock = mock_everything
        self._timeouts = _timeouts(config)
        self._resolved: dict[str, tuple[Target, ...]] = {}
        """Names looked up before; names come from clients, so there are at most `REMEMBERED`."""
        self._exact: dict[str, tuple[Target, ...]] = {}
        self._wildcards: list[tuple[str, tuple[Target, ...]]] = []
        for model in config.models:
            targets = tuple(self._configured(model, spec) for spec in model.targets)
            if "*" in model.name:
                self._wildcards.append((model.name, targets))
            else:
                self._exact[model.name] = targets

    def plan(self, model: str) -> tuple[Target, ...]:
        """The ordered targets of `model`; raises `ModelNotFound`."""
        found = self._resolved.get(model)
        if found is None:
            found = (self._mocked(model),) if self._mock else self._resolve(model)
            if found and len(self._resolved) < REMEMBERED:
                self._resolved[model] = found
        if not found:
            raise ModelNotFound(
                "No such model here. GET /v1/models lists what this key may use; add others under [[models]].", param="model"
            )
        return in_turn(found)

    def _resolve(self, model: str) -> tuple[Target, ...]:
        return self._exact.get(model) or self._by_provider(model) or self._by_wildcard(model) or self._built_in(model)

    def _mocked(self, model: str) -> Target:
        """The mock provider in the place of whoever would serve `model`, at that one's prices."""
        meant = self._resolve(model)
        row = self._providers[MOCK]
        if meant and meant[0].provider.name != MOCK:
            row = replace(row, prices=meant[0].provider.prices)
        return Target(row, meant[0].model if meant else model, self._timeouts)

    def names(self) -> list[str]:
        """Every configured or built-in name, those without a wildcard first."""
        usable = [name for name, target in BUILT_IN_MODELS if self._mock or self._usable(target.split("/", 1)[0])]
        names = dict.fromkeys([*self._exact, *(pattern for pattern, _ in self._wildcards), *usable])
        return sorted(names, key=lambda name: "*" in name)

    def _usable(self, provider: str) -> bool:
        row = self._providers.get(provider)
        return row is not None and (row.api_key is not None or row.api_key_env is None)

    def _by_provider(self, model: str) -> tuple[Target, ...]:
        provider, slash, name = model.partition("/")
        return (self._target(provider, name),) if slash and name and provider in self._providers else ()

    def _by_wildcard(self, model: str) -> tuple[Target, ...]:
        for pattern, targets in self._wildcards:
            star = captured(pattern, model)
            if star is not None:
                return tuple(replace(t, model=t.model.replace("*", star)) for t in targets)
        return ()

    def _built_in(self, model: str) -> tuple[Target, ...]:
        for pattern, target in BUILT_IN_MODELS:
            star = captured(pattern, model)
            provider, _, name = target.partition("/")
            if star is not None and provider in self._providers:
                return (self._target(provider, name.replace("*", star)),)
        return ()

    def _target(self, provider: str, model: str) -> Target:
        return Target(self._providers[provider], model, self._timeouts)

    def _configured(self, model: ModelConfig, spec: TargetConfig) -> Target:
        provider, _, name = spec.target.partition("/")
        if provider not in self._providers:
            known = ", ".join(sorted(self._providers))
            raise StartError(f"models.{model.name}.targets: {spec.target!r} names no known provider (there are {known})")
        timeouts = replace(self._timeouts, **_given_timeouts(spec))
        return Target(self._providers[provider], name, timeouts, model.retries, spec.weight, spec.parameters)


def check_models(config: Config, plugins: PluginSet) -> None:
    """Raise `StartError` for a provider without an address, or a target nobody provides, as building a gateway would."""
    registered = [row for rows in plugins.registered("register_providers", gateway=None) for row in rows]
    RoutingTable(config, provider_rows(config, {row.name: row for row in registered if isinstance(row, Provider)}))


def in_turn(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """The order for one request: as written, except that where weights are given they draw who is first."""
    if len(targets) == 1:
        return targets
    weights = [target.weight for target in targets]
    if not any(weights):
        return targets
    first = random.choices(targets, weights)[0]  # noqa: S311  (spreads load, guards nothing)
    return (first, *(target for target in targets if target is not first))


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
    return not attempt.sent or (attempt.reused and isinstance(error, UpstreamDisconnected))


def may_retry(attempt: Attempt, tries: int) -> bool:
    """Whether the same target may be tried again: within its `retries`, and only for what can pass by itself."""
    return tries <= attempt.target.retries and _passing(attempt)


def may_fall_back(attempt: Attempt) -> bool:
    """Whether the next target may be tried. Only before any byte of a 2xx body has come, which the caller guarantees."""
    return _passing(attempt) or attempt.status in (401, 403, 404)


LONGEST_BACKOFF = 8.0


def backoff(tries: int, retry_after: float | None) -> float:
    """Seconds before the same target is tried again: what the provider asked for, else doubling from half a second, with
    jitter."""
    if retry_after is not None and retry_after <= LONGEST_BACKOFF:
        return retry_after
    return float(min(LONGEST_BACKOFF, 0.5 * 2 ** (tries - 1)) * random.uniform(0.75, 1.0))  # noqa: S311  (spreads retries, guards nothing)


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

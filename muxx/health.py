"""What one gateway has learnt of its providers: which of them fail, how fast they are, what is under way. It survives nothing."""

from __future__ import annotations

from typing import TypeVar

from .breaker import Breaker
from .budget import RetryBudget
from .keypool import KeyPool
from .targets import Provider, Target

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED = 4096
"""Model names come from clients, so what is kept of them is bounded: what nobody has asked for longest goes."""

WEIGHT = 0.2
"""Of the newest measurement in the mean."""
FAILED_SECONDS = 30.0
"""What a failure counts as, in the mean of the times to the first byte."""
OUTAGE_SECONDS = 60.0
"""Without a failure, after which the next one is another outage: to some providers every hundredth connection fails."""


class TargetHealth:
    """Of one model at one provider."""

    __slots__ = ("breaker", "budget", "first_byte")

    def __init__(self, failures: int, open_seconds: float) -> None:
        self.breaker = Breaker(failures, open_seconds)
        self.budget = RetryBudget()
        self.first_byte: float | None = None
        """Exponentially weighted mean of the seconds until an answer's head; None while nothing was measured."""

    def measured(self, seconds: float) -> None:
        before = self.first_byte
        self.first_byte = seconds if before is None else before + WEIGHT * (seconds - before)


class Health:
    """By target, and by provider."""

    def __init__(self, failures: int, open_seconds: float) -> None:
        self._failures = failures
        self._open_seconds = open_seconds
        self._targets: dict[tuple[str, str], TargetHealth] = {}
        self._pools: dict[tuple[str, ...], KeyPool] = {}
        self._in_flight: dict[str, int] = {}
        self._unreached: dict[tuple[str, str], float] = {}

    def of(self, target: Target) -> TargetHealth:
        key = target.provider.name, target.model
        found = self._targets.get(key)
        if found is None:
            return _kept(self._targets, key, TargetHealth(self._failures, self._open_seconds))
        if len(self._targets) > REMEMBERED // 2:  # soon somebody has to go, and then the order counts
            self._targets[key] = self._targets.pop(key)
        return found

    def first_byte(self, target: Target) -> float | None:
        """How long the target takes to begin its answer; None while nobody knows."""
        found = self._targets.get((target.provider.name, target.model))
        return None if found is None else found.first_byte

    def pool(self, provider: Provider) -> KeyPool:
        """The provider's keys, where it has several."""
        keys = provider.keys
        found = self._pools.get(keys)
        return _kept(self._pools, keys, KeyPool(keys)) if found is None else found

    def take_seat(self, provider: Provider) -> bool:
        """Whether one more call may be made to the provider. Whoever may, has to `leave_seat`."""
        most = provider.max_in_flight
        if most is None:
            return True
        taken = self._in_flight.get(provider.name, 0)
        if taken >= most:
            return False
        self._in_flight[provider.name] = taken + 1
        return True

    def unreached(self, provider: Provider, why: str, now: float) -> bool:
        """A call of the provider could not be sent, for this reason. True: that is an outage's first."""
        key = provider.name, why
        last = self._unreached.pop(key, None)
        _kept(self._unreached, key, now)
        return last is None or now - last >= OUTAGE_SECONDS

    def leave_seat(self, provider: Provider) -> None:
        if provider.max_in_flight is not None:
            self._in_flight[provider.name] -= 1


def _kept(known: dict[K, V], key: K, value: V) -> V:
    if len(known) >= REMEMBERED:
        del known[next(iter(known))]
    known[key] = value
    return value

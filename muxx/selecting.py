"""In which order the targets of a model are tried, by its strategy."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from .targets import Target

Strategy = Literal["ordered", "weighted", "least_latency"]

EXPLORED = 0.05
"""Share of requests that `least_latency` gives to another target than the fastest first: what was slow once may be so no more."""


def strategy_of(given: Strategy | None, weights: list[int]) -> Strategy:
    """The strategy that holds where a model names this one, or none."""
    return given or ("weighted" if any(weights) else "ordered")


def in_turn(targets: tuple[Target, ...], strategy: Strategy, first_byte: Callable[[Target], float | None]) -> tuple[Target, ...]:
    """The order for one request. `first_byte` knows the seconds a target takes to begin its answer; None: it does not."""
    if len(targets) == 1 or strategy == "ordered":
        return targets
    if strategy == "weighted":
        weights = [target.weight for target in targets]
        return _led_by(random.choices(range(len(targets)), weights if any(weights) else None)[0], targets)  # noqa: S311  (spreads load, guards nothing)
    measured = [(0.0 if (seconds := first_byte(target)) is None else seconds, place) for place, target in enumerate(targets)]
    fastest = tuple(targets[place] for _, place in sorted(measured))
    if random.random() < EXPLORED:  # noqa: S311  (as above)
        return _led_by(random.randrange(1, len(targets)), fastest)  # noqa: S311  (as above)
    return fastest


def _led_by(place: int, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    return (targets[place], *targets[:place], *targets[place + 1 :])

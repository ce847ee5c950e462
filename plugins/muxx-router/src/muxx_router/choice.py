"""Which candidates a request may go to, in which order, and why not to the others. Pure: muxx is asked through functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from muxx import Cost, InvalidRequest, MuxxError, PermissionDenied, Target, Usage

from .demand import Demand
from .settings import ModelFacts, RouteConfig, RouterConfig

TOO_SMALL = ("context", "output")
NOT_ALLOWED = "not_allowed"
UNPRICED = "unpriced"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is left, with its targets. `pico` is what the request would cost at the first of them; None: nobody knows."""

    name: str
    targets: tuple[Target, ...]
    pico: int | None


@dataclass(slots=True)
class Choice:
    """What became of a request. `tier` is where it began, counted from 0; `dropped` says why, by name."""

    tier: int
    order: list[Candidate] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target once, the cheapest candidate's first."""
        return tuple(dict.fromkeys(target for candidate in self.order for target in candidate.targets))


def choose(
    config: RouterConfig,
    route: RouteConfig,
    demand: Demand,
    *,
    allowed: Callable[[str], tuple[Target, ...]],
    price: Callable[[Target, Usage], Cost | None],
) -> Choice:
    """The candidates that are left, tier by tier, the cheapest of each tier first; those of equal cost as they are written.

    `allowed` gives the targets of a candidate that the caller may use.
    """
    tiers = route.steps
    first = next(number for number, tier in enumerate(tiers) if tier.up_to is None or demand.input_tokens <= tier.up_to)
    choice = Choice(first)
    seen: set[str] = set()
    for tier in tiers[first:]:
        names = [name for name in dict.fromkeys(tier.candidates) if name not in seen]
        seen.update(names)
        left = []
        for name in names:
            targets = allowed(name)
            why = misfit(config.models[name], demand) if targets else NOT_ALLOWED
            cost = price(targets[0], demand.usage) if why is None else None
            if why is None and cost is None and route.unpriced == "exclude":
                why = UNPRICED
            if why is not None:
                choice.dropped[name] = why
            else:
                left.append(Candidate(name, targets, None if cost is None else cost.total_pico))
        choice.order += sorted(left, key=lambda candidate: (candidate.pico is None, candidate.pico or 0))
    return choice


def misfit(facts: ModelFacts, demand: Demand) -> str | None:
    """Why a model does not suit: `context`, `output`, or the first thing it lacks; None when it does."""
    if facts.max_output is not None and (demand.limit or 0) > facts.max_output:
        return "output"
    expected = demand.output_tokens if demand.limit else min(demand.output_tokens, facts.max_output or facts.context)
    if demand.input_tokens + expected > facts.context:
        return "context"
    return next(iter(sorted(demand.needs.difference(facts.has))), None)


def refusal(choice: Choice, demand: Demand) -> MuxxError:
    """What a caller is told when nothing is left. Which models there are is not among it."""
    reasons = list(choice.dropped.values())
    others = [why for why in reasons if why != NOT_ALLOWED]
    if not others:
        return PermissionDenied("This key may use none of the models behind that name. Ask for another.", param="model")
    told = ", ".join(f"{reasons.count(why)} {_words(why, demand)}" for why in dict.fromkeys(reasons))
    code = "context_length_exceeded" if all(why in TOO_SMALL for why in others) else "no_model_fits"
    message = f"No model behind that name fits this request: {told}. Change it, or ask for another."
    return InvalidRequest(message, code=code, param="model")


def _words(why: str, demand: Demand) -> str:
    words = {
        "context": f"too small for about {demand.input_tokens} tokens and an answer of {demand.output_tokens}",
        "output": f"unable to answer with {demand.limit} tokens",
        NOT_ALLOWED: "not for this key",
        UNPRICED: "without a price",
    }
    return words.get(why, f"without {why}")


def fits(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is on an allow-list, in which `*` stands for any run of characters."""
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns)

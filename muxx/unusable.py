"""What plugins leave in the place of what they may edit, and nobody can use: who trips over it later is not the one to mend.

Looked at only where something was replaced, or a plugin has crashed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from .targets import Attempt, Target

if TYPE_CHECKING:
    from .call import Call
    from .plugins import Chain


def note_unusable_request(call: Call) -> bool:
    """Whether `pre_request` has left such a thing."""
    exchange, wrong = call.exchange, []
    targets: Any = exchange.targets
    if not isinstance(targets, tuple | list) or not targets or not all(isinstance(target, Target) for target in targets):
        wrong.append("`exchange.targets` is no tuple of muxx.Target, as `gateway.plan(model)` gives one")
    if not isinstance(exchange.request.body, dict) or not _is_json(exchange.request.body):
        wrong.append("`exchange.request.body` is no dict that JSON can say")
    return _note(call, "pre_request", call.gateway.chains.pre_request, wrong)


def note_unusable_attempt(call: Call, attempt: Attempt) -> bool:
    """Whether `pre_attempt` has left such a thing."""
    kinds = {"target": Target, "url": str, "headers": dict, "body": dict}
    unfit = [(name, kind) for name, kind in kinds.items() if not isinstance(getattr(attempt, name), kind)]
    wrong = [f"`attempt.{name}` is no {kind.__name__}" for name, kind in unfit]
    return _note(call, "pre_attempt", call.gateway.chains.pre_attempt, wrong)


def _note(call: Call, hook: str, chain: Chain, wrong: list[str]) -> bool:
    if wrong:
        plugins = ", ".join(step.plugin for step in chain)
        text = "request %s: one of the plugins with %s (%s) left what nobody can use: %s"
        call.gateway.log.error(text, call.exchange.id, hook, plugins, "; ".join(wrong))
    return bool(wrong)


def _is_json(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True

"""How much Claude is to think: an effort, or a most of tokens, and what a model takes of the two.

Models from Claude 4.7 on think as much as they need, steered by an effort; older ones get a budget. Each effort's own budget is
the other way round the least at which a budget becomes that effort.
"""

from __future__ import annotations

import re
from typing import Any

from ..members import expect, optional
from ..prompt import Losses, Prompt, Reasoning, Result, Thought
from ..seals import opened
from .blocks import REDACTED

BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 24576}
"""The tokens an effort stands for."""

LEAST = 1024
"""Anthropic refuses smaller budgets."""

ROOM = 8192
"""Tokens of an answer whose caller gave no most, beside those it may think."""

_CLAUDE_3_ROOM = 4096
_CLAUDE_3 = re.compile(r"claude-3-(?:opus|haiku|sonnet)")

MOST = 32000
"""No model that thinks takes less for its most of tokens."""

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2}))?(?!\d)")


def decides_itself(model: str) -> bool:
    """By its name the model is a Claude that is steered by an effort, and takes neither a budget nor sampling parameters."""
    found = _VERSION.search(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (4, 7)


def read_thinking(prompt: Prompt, body: dict[str, Any], losses: Losses) -> None:
    """What `thinking` and the effort in `output_config` say."""
    config, place = body.get("output_config") or {}, "output_config.effort"
    effort = optional(expect(config, dict, "output_config"), "effort", str, "output_config")
    if effort == "max":
        losses.hint(place)  # the most that others can be told
        effort = "xhigh"
    reasoning = Reasoning(effort)
    if body.get("thinking") is not None:
        place = "thinking"
        thinking = expect(body["thinking"], dict, place)
        kind = thinking.get("type")
        if kind == "disabled":
            reasoning = Reasoning("none")
        elif kind in ("enabled", "adaptive"):
            reasoning.show = thinking.get("display") != "omitted"
            if kind == "enabled":
                reasoning.budget = expect(thinking.get("budget_tokens"), int, "thinking.budget_tokens")
        else:
            losses.cannot(place, "Let thinking be enabled, adaptive or disabled.")
        for name, value in thinking.items():
            if value and name not in ("type", "budget_tokens", "display"):
                losses.cannot(f"thinking.{name}")
    if reasoning != Reasoning():
        prompt.reasoning = reasoning
        prompt.places["reasoning"] = place


def write_thinking(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The members of a body that say it, and `max_tokens`, which thinking counts towards."""
    reasoning = prompt.reasoning or Reasoning("none")
    body: dict[str, Any] = {"max_tokens": _most(prompt, reasoning)}
    if prompt.reasoning is None:
        return body
    if reasoning.effort == "none" or (reasoning.effort is None and reasoning.budget == 0):
        return body | {"thinking": {"type": "disabled"}}
    if prompt.tools and prompt.tool_choice is not None and prompt.tool_choice.mode in ("required", "named"):
        losses.cannot(prompt.place("reasoning"), "Claude cannot think where a tool call is forced: let it choose, or not think.")
        return body
    if decides_itself(prompt.model):
        return body | _adaptive(reasoning, prompt, losses)
    return body | _enabled(reasoning, prompt, losses, body["max_tokens"])


def _most(prompt: Prompt, reasoning: Reasoning) -> int:
    """The most of tokens: the caller's, or room enough for an answer after the thinking."""
    if prompt.max_tokens is not None:
        return prompt.max_tokens
    if _CLAUDE_3.search(prompt.model):
        return _CLAUDE_3_ROOM
    budget = _budget(reasoning)
    return max(min(ROOM + budget, MOST), budget + LEAST)


def _budget(reasoning: Reasoning) -> int:
    if reasoning.effort == "none":
        return 0
    return reasoning.budget if reasoning.budget is not None else BUDGETS.get(reasoning.effort or "medium", BUDGETS["medium"])


def _shown(reasoning: Reasoning) -> dict[str, str]:
    return {} if reasoning.show is None else {"display": "summarized" if reasoning.show else "omitted"}


def _adaptive(reasoning: Reasoning, prompt: Prompt, losses: Losses) -> dict[str, Any]:
    effort = "low" if reasoning.effort == "minimal" else reasoning.effort
    if reasoning.budget is not None:
        losses.hint(prompt.place("reasoning"))
        effort = effort or next(name for name, least in reversed(BUDGETS.items()) if reasoning.budget >= least or name == "low")
    body: dict[str, Any] = {"thinking": {"type": "adaptive", **_shown(reasoning)}}
    return {**body, "output_config": {"effort": effort}} if effort is not None else body


def _enabled(reasoning: Reasoning, prompt: Prompt, losses: Losses, most: int) -> dict[str, Any]:
    place, budget = prompt.place("reasoning"), _budget(reasoning)
    if most <= LEAST:
        losses.cannot(place, f"Claude thinks with {LEAST} tokens at least: allow more of them, or leave it out.")
        return {}
    if budget < LEAST:
        losses.cannot(place, f"Claude thinks with {LEAST} tokens at least.")
    if _goes_on_without_thought(prompt):
        losses.hint(place)
        return {}
    budget = max(min(budget, most - 1), LEAST)
    shown = {} if reasoning.show else _shown(reasoning)  # they show it unless told otherwise
    return {"thinking": {"type": "enabled", "budget_tokens": budget, **shown}}


def _goes_on_without_thought(prompt: Prompt) -> bool:
    """The last turn returns results of calls that were made without thinking, or whose thoughts are lost: a model with a
    budget cannot begin to think then."""
    turns = [turn for turn in prompt.turns if turn.role != "system"]
    if not turns or not any(isinstance(block, Result) for block in turns[-1].blocks):
        return False
    for turn in reversed(turns):
        if turn.role == "assistant":
            return not any(isinstance(block, Thought) and own_thought(block) is not None for block in turn.blocks)
    return False


def own_thought(thought: Thought) -> dict[str, Any] | None:
    """A thought of an earlier turn as its block; None for one that is not Claude's, or that nobody signed: Claude would refuse
    it."""
    signature = opened("anthropic", thought.signature or thought.redacted)
    if signature is None:
        return None
    if signature.startswith(REDACTED):
        return {"type": "redacted_thinking", "data": signature.removeprefix(REDACTED)}
    return {"type": "thinking", "thinking": thought.text, "signature": signature}

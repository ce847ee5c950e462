"""What becomes of a request on its way to another format: for the tables of losses in docs/translation.md."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from muxx.errors import InvalidRequest
from muxx.wire.prompt import Losses
from muxx.wire.wires import BY_NAME

Body = dict[str, Any]

MODELS = {"chat": "gpt-4o", "responses": "gpt-5", "messages": "claude-sonnet-4-5", "generate_content": "gemini-2.5-flash"}
"""Of each format a model of a provider that speaks it."""


BASES: dict[str, Body] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "responses": {"input": "Hi"},
    "messages": {"max_tokens": 4096, "messages": [{"role": "user", "content": "Hi"}]},
    "generate_content": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
}
"""The least request of each format; an example's members are laid over it."""


@dataclass(frozen=True)
class Example:
    """Members of a request that has the field, and of one that is the same without it; `model` is asked for instead of the usual."""

    given: Body
    without: Body
    model: str | None = None


@dataclass(frozen=True)
class Crossing:
    """What became of a request: what was written for the provider, what was refused and what dropped, by places."""

    written: Body
    refused: str
    """The message that refuses it; empty where nothing is."""
    dropped: list[str]


def cross(source: str, target: str, members: Body, model: str | None = None) -> Crossing:
    losses = Losses("provider/model")
    read, write = BY_NAME[source].translation, BY_NAME[target].translation
    assert read is not None
    assert write is not None
    try:
        prompt = read.read_prompt({"model": "asked", **BASES[source], **deepcopy(members)}, losses)
        prompt.model = model or MODELS[target]
        written = write.write_prompt(prompt, losses)
        losses.check()
    except InvalidRequest as refusal:
        if refusal.code != "unsupported_parameter":
            raise  # the example itself is wrong
        return Crossing({}, str(refusal), losses.dropped)
    return Crossing(written, "", losses.dropped)


def at(value: Any, path: str) -> list[Any]:
    """Every value at a path like `tools[].function.name`."""
    found = [value]
    for step in path.split("."):
        name, listed = step.removesuffix("[]"), step.endswith("[]")
        found = [inner[name] for inner in found if isinstance(inner, dict) and name in inner]
        if listed:
            found = [entry for inner in found if isinstance(inner, list) for entry in inner]
    return found

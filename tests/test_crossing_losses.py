"""A field that the tables of losses call refused or dropped, by itself: what is told of it, and that nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from losses_examples import EXAMPLES
from losses_kit import BASES, MODELS
from wire.prompts_kit import bare

from muxx.errors import InvalidRequest
from muxx.wire.prompt import Losses, Prompt, ToolChoice
from muxx.wire.wire import Translation
from muxx.wire.wires import BY_NAME

STAYS = {
    "a system message between turns",  # it is not sent where it stood, but among the instructions
    "a system or developer message between turns",
    "arguments that are no JSON object",  # without them the call stays, for its result goes with it
}
"""What is dropped and yet leaves something behind."""


def crossed(source: str, target: str, model: str | None, body: Any, losses: Losses) -> Prompt:
    """What a provider of another format is told by a request: as that format reads it, for the same may be said in two ways."""
    prompt = translation(source).read_prompt(deepcopy(body), losses)
    prompt.model = model or MODELS[target]
    told: Prompt = bare(translation(target).read_prompt(translation(target).write_prompt(prompt, losses), Losses("x")))
    return replace(told, tool_choice=None) if told.tool_choice == ToolChoice("auto") else told


def translation(name: str) -> Translation:
    found = BY_NAME[name].translation
    assert found is not None
    return found


def _probes() -> Iterator[Any]:
    for source, examples in EXAMPLES.items():
        for key in examples:
            for target in MODELS:
                if target != source:
                    yield pytest.param(source, key, target, id=f"{source} {key} to {target}")


PROBES = list(_probes())
each_probe = pytest.mark.parametrize(("source", "key", "target"), PROBES)


NEVER_DROPPED = {"thread"}
"""What the conversation would be lost with."""


@each_probe
def test_a_field_that_is_refused_is_named_and_where_it_may_be_dropped_nothing_else_changes(
    source: str, key: str, target: str
) -> None:
    example, strict, dropping = EXAMPLES[source][key], Losses("x"), Losses("x", drop=True)
    body = {"model": "asked", **BASES[source], **example.given}
    crossed(source, target, example.model, body, strict)
    told = crossed(source, target, example.model, body, dropping)
    if key in NEVER_DROPPED:
        with pytest.raises(InvalidRequest):
            dropping.check()
        return
    dropping.check()
    try:
        strict.check()
    except InvalidRequest as refusal:
        assert (refusal.status, refusal.code) == (400, "unsupported_parameter")  # noqa: PT017
        assert refusal.param in dropping.dropped  # noqa: PT017
        assert f"'{refusal.param}'" in refusal.message  # noqa: PT017
    else:
        assert strict.dropped == dropping.dropped
    assert all(at_place(body, holder_of(place)) is not None for place in dropping.dropped)
    less = without(body, dropping.dropped)
    if less != body and key not in STAYS:
        assert told == crossed(source, target, example.model, less, Losses("x", drop=True))


@pytest.mark.parametrize(
    ("source", "key", "member"),
    [
        ("chat", "filename of a document", "file.filename"),
        ("chat", "detail of an image", "image_url.detail"),
        ("responses", "detail of an image", "detail"),
        ("messages", "title of a document", "title"),
    ],
)
def test_what_is_dropped_of_a_file_is_named_as_the_caller_wrote_it(source: str, key: str, member: str) -> None:
    example, losses = EXAMPLES[source][key], Losses("x")
    body = {"model": "asked", **BASES[source], **example.given}
    crossed(source, "generate_content", example.model, body, losses)
    [place] = losses.dropped
    assert place.endswith(f"].{member}")
    assert at_place(body, place)


def at_place(body: Any, place: str) -> Any:
    """The value at a place as refusals name them; None where there is none."""
    for name, number in re.findall(r"(\w+)|\[(\d+)\]", place):
        try:
            body = body[name] if name else body[int(number)]
        except (KeyError, IndexError, TypeError):
            return None
    return body


def holder_of(place: str) -> str:
    """What a place is in; the place itself, where that is an entry of a list or a member of the body."""
    return place.rpartition(".")[0] if not place.endswith("]") and "." in place else place


def without(body: Any, places: list[str]) -> Any:
    """The request with nothing at these places; as it was where a place is that of a member in no vendor's words."""
    body = deepcopy(body)
    for place in sorted(places, reverse=True):
        found = re.fullmatch(r"(.*?)\.?(\w+|\[\d+\])", place)
        assert found is not None
        inner, last = at_place(body, found[1]) if found[1] else body, found[2]
        if last.startswith("["):
            del inner[int(last[1:-1])]
        elif isinstance(inner, dict):
            inner.pop(last, None)
    return body

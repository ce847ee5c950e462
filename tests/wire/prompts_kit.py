"""Prompts for the tests: strategies, and what is to be equal of two of them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import strategies as st

from muxx.errors import InvalidRequest
from muxx.wire.prompt import Losses, Media, Output, Prompt, Reasoning, Text, Tool, ToolChoice, Turn

NAME = st.text("abcdefgh_-", min_size=1, max_size=8)
WORDS = st.text(min_size=1, max_size=12)
DATA = st.binary(min_size=1, max_size=9).map(lambda data: b64encode(data).decode())
SCHEMA = st.dictionaries(
    NAME, st.recursive(st.booleans() | NAME, lambda inner: st.lists(inner, max_size=2), max_leaves=4), max_size=3
)
TEXT = st.builds(Text, WORDS)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def there(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(Media, **members)


PICTURE = there(kind=st.just("image"), mime=st.just("image/png"), data=DATA, detail=maybe(st.sampled_from(["low", "high"])))
LINKED_PICTURE = there(kind=st.just("image"), url=NAME.map("https://x/{}".format), detail=maybe(st.just("auto")))
STORED_PICTURE = there(kind=st.just("image"), file_id=NAME, detail=maybe(st.just("low")))
DOCUMENT = there(kind=st.just("document"), mime=st.just("application/pdf"), data=DATA, name=NAME)
STORED_DOCUMENT = there(kind=st.just("document"), file_id=NAME)
LINKED_DOCUMENT = there(kind=st.just("document"), url=NAME.map("https://x/{}".format))
SOUND = there(kind=st.just("audio"), mime=st.sampled_from(["audio/wav", "audio/mpeg", "audio/flac"]), data=DATA)

OUTPUT = st.just(Output("json")) | st.builds(
    Output, st.just("schema"), schema=SCHEMA, name=NAME, description=maybe(WORDS), strict=maybe(st.booleans())
)


def tools(strict: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Tool]]:
    return st.lists(st.builds(Tool, NAME, maybe(WORDS), maybe(SCHEMA), strict), max_size=3)


CHOICE = st.sampled_from([ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")]) | NAME.map(
    lambda name: ToolChoice("named", name)
)
EFFORT = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"])
NUMBER = st.floats(0.01, 2) | st.integers(1, 2)


@st.composite
def conversations(draw: Any, user: Any, assistant: Any, result: Any) -> list[Turn]:
    """Turns of a user and an assistant, whose calls are answered, and of the system between them."""
    turns: list[Turn] = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(draw(user))
        if draw(st.booleans()):
            turns.append(Turn("system", [draw(TEXT)]))
        if draw(st.booleans()):
            turns.append(draw(assistant))
            if draw(st.booleans()):
                turns.append(Turn("user", draw(st.lists(result, min_size=1, max_size=3))))
    return turns


def bare(value: Any) -> Any:
    """Without the places in the caller's request, which tell nothing to the model."""
    if isinstance(value, list):
        return [bare(inner) for inner in value]
    if not is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    members = {member.name: bare(getattr(value, member.name)) for member in fields(value)}
    return replace(value, **members | {name: value for name, value in (("path", ""), ("places", {})) if name in members})  # type: ignore[type-var]


def lossless() -> Losses:
    """Losses of which there are none."""
    losses = Losses("x")
    losses.cannot = losses.hint = lambda place, advice="": pytest.fail(f"{place} was lost")  # type: ignore[method-assign]
    return losses


def sent(body: Any) -> Any:
    """A body as the other side gets it."""
    return json.loads(json.dumps(body))


def lost(step: Callable[[Losses], Any]) -> tuple[set[str], set[str]]:
    """The places that cannot be carried, and those that were dropped without a word of refusal."""
    losses, forgiving = Losses("x"), Losses("x", drop=True)
    step(losses)
    step(forgiving)
    refused = set(forgiving.dropped) - set(losses.dropped)
    if refused:
        with pytest.raises(InvalidRequest) as caught:
            losses.check()
        assert all(f"'{place}'" in caught.value.message for place in refused)
        assert caught.value.param in refused
    else:
        losses.check()
    return refused, set(losses.dropped)


def consumed(value: Any) -> None:
    """Go through a value of the SDK's types, whose iterables are validated only then."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str | int | float | None):
        for inner in value:
            consumed(inner)


def damaged(body: Any, dice: Any, junk: Any) -> Any:
    """The body with another value somewhere."""
    body = sent(body)
    holders: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()):
            holders.append((value, key))
            visit(inner)

    visit(body)
    holder, key = dice.choice(holders)
    holder[key] = junk
    return body


def refused_by_name_or_read(
    body: Any, read_prompt: Callable[[Any, Losses], Prompt], write_prompt: Callable[[Prompt, Losses], Any]
) -> None:
    """What may be no request at all is refused with the name of what is wrong, or it can be read and written."""
    try:
        read = read_prompt(body, Losses("x"))
    except InvalidRequest as error:
        assert error.param  # noqa: PT017
        assert error.code == "invalid_type"  # noqa: PT017
    else:
        write_prompt(read, Losses("x"))


JUNK = st.sampled_from(
    [None, True, 5, -0.5, "x", [], {}, [5], {"type": "x"}, {"type": 5}, [{}], ["x"], [None], [{"type": "text"}]]
)

COMMON = {
    "model": NAME, "stream": st.booleans(), "system": st.lists(TEXT, max_size=1), "output": maybe(OUTPUT),
    "max_tokens": maybe(st.integers(1, 99)), "temperature": maybe(NUMBER), "top_p": maybe(NUMBER),
    "verbosity": maybe(st.sampled_from(["low", "high"])), "user": maybe(WORDS), "service_tier": maybe(st.just("flex")),
}  # fmt: skip
"""Members of a prompt that both formats can say."""


def with_tools(prompt: Prompt, made: list[Tool], choice: ToolChoice | None, parallel: bool | None) -> Prompt:
    """A choice means something where there are tools, and names one of them."""
    if made and choice is not None and choice.mode == "named":
        choice = ToolChoice("named", made[-1].name)
    return replace(prompt, tools=made, **({"tool_choice": choice, "parallel_tool_calls": parallel} if made else {}))  # type: ignore[arg-type]


REASONING = st.builds(Reasoning, EFFORT)

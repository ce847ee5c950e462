"""Requests across formats: all that Google's format can say comes back as it was said, in words its SDK takes."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.wire.gemini import read_count_prompt, read_prompt, validate_count, validate_generate, write_count_prompt
from muxx.wire.prompt import Call, Losses, Media, Output, Prompt, Reasoning, Result, Text, Tool, ToolChoice, Turn

from .gemini_prompts_kit import USER, bare, read, refused, written

# All that the format can say.

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.sampled_from(["weather", "time", "search"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=3)
SCHEMAS = st.sampled_from(
    [
        {},
        {
            "type": "object",
            "properties": {"city": {"type": ["string", "null"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        {
            "$defs": {"a": {"type": "integer", "exclusiveMinimum": 3}},
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/a"}},
        },
    ]
)
MIMES = {
    "image/png": "image",
    "application/pdf": "document",
    "audio/wav": "audio",
    "video/mp4": "video",
    "text/plain": "document",
}


@st.composite
def media(draw: st.DrawFn) -> Media:
    mime = draw(st.sampled_from(sorted(MIMES)))
    return Media(MIMES[mime], mime, data=b64encode(draw(st.binary(min_size=1, max_size=9))).decode())  # type: ignore[arg-type]


@st.composite
def turns(draw: st.DrawFn) -> list[Turn]:
    """Roles take turns, and calls are answered in the turn after them."""
    made: list[Turn] = []
    waiting: list[Call] = []
    for number in range(draw(st.integers(1, 5))):
        if number % 2:
            blocks: list[Any] = [Text(text) for text in draw(st.lists(WORDS, max_size=1))]
            waiting = [
                Call(f"c{number}_{at}", name, json.dumps(draw(OBJECTS), separators=(",", ":"), ensure_ascii=False))
                for at, name in enumerate(draw(st.lists(NAMES, min_size=0 if blocks else 1, max_size=3)))
            ]
            made.append(Turn("assistant", blocks + waiting))
        else:
            results = [
                Result(
                    call.id,
                    [Text(text) for text in draw(st.lists(WORDS, max_size=1))] + draw(st.lists(media(), max_size=1)),
                    draw(st.booleans()),
                    call.name,
                )
                for call in waiting
            ]
            others = draw(st.lists(WORDS.map(Text) | media(), min_size=0 if results else 1, max_size=2))
            made.append(Turn("user", [*results, *others]))
    return made


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def _with_its_choice(prompt: Prompt) -> Prompt:
    """A choice means something where there are tools, and names one of them."""
    choice = prompt.tool_choice
    if choice is not None and choice.mode == "named" and prompt.tools:
        choice = ToolChoice("named", prompt.tools[0].name)
    return replace(prompt, tool_choice=choice if prompt.tools else None)


REASONINGS = st.builds(
    Reasoning,
    effort=st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
    show=maybe(st.booleans()),
) | st.builds(Reasoning, budget=st.integers(1, 30000), show=maybe(st.booleans()))
PROMPTS = st.builds(
    Prompt,
    model=st.sampled_from(["gemini-3-pro", "gemini-3.1-flash"]),
    stream=st.booleans(),
    system=st.lists(WORDS.map(Text), max_size=2),
    turns=turns(),
    tools=st.lists(
        st.builds(Tool, name=NAMES, description=maybe(WORDS), parameters=maybe(SCHEMAS)),
        max_size=3,
        unique_by=lambda tool: tool.name,
    ),
    tool_choice=maybe(
        st.sampled_from([ToolChoice("auto"), ToolChoice("none"), ToolChoice("required"), ToolChoice("named", "weather")])
    ),
    output=maybe(st.just(Output("json")) | SCHEMAS.map(lambda schema: Output("schema", schema))),
    reasoning=maybe(REASONINGS),
    max_tokens=maybe(st.integers(1, 10**6)),
    temperature=maybe(st.floats(0, 2)),
    top_p=maybe(st.floats(0, 1)),
    top_k=maybe(st.integers(1, 100)),
    stop=st.lists(WORDS, max_size=3),
    n=maybe(st.integers(1, 8)),
    seed=maybe(st.integers(-(2**31), 2**31 - 1)),
    frequency_penalty=maybe(st.floats(-2, 2)),
    presence_penalty=maybe(st.floats(-2, 2)),
    service_tier=maybe(st.sampled_from(["default", "flex", "priority"])),
).map(_with_its_choice)
COMMON = settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow], deadline=None)


@COMMON
@given(PROMPTS)
def test_a_prompt_this_format_can_say_is_read_back_the_same(prompt: Prompt) -> None:
    body, losses = written(prompt)
    validate_generate(body)
    again = read_prompt(json.loads(json.dumps(body)), losses)
    assert bare(again) == bare(prompt)
    assert losses.dropped == []
    losses.check()


@COMMON
@given(PROMPTS)
def test_every_member_of_a_request_is_also_read_in_snake_case(prompt: Prompt) -> None:
    body, losses = written(prompt)
    assert bare(read_prompt(_snaked(body), losses)) == bare(prompt)
    losses.check()


def _snaked(value: Any, *, names: bool = True) -> Any:
    """A request with its own names in snake case; what the caller names is left alone."""
    if isinstance(value, list):
        return [_snaked(entry) for entry in value]
    if not isinstance(value, dict) or not names:
        return value
    theirs = ("args", "response", "parametersJsonSchema", "responseJsonSchema")
    return {
        "".join("_" + sign.lower() if sign.isupper() else sign for sign in name): _snaked(entry, names=name not in theirs)
        for name, entry in value.items()
    }


@COMMON
@given(PROMPTS)
def test_googles_sdk_takes_what_is_written(prompt: Prompt) -> None:
    from google.genai import types

    body, _ = written(prompt)
    for content in body["contents"]:
        types.Content.model_validate(content)
    assert [content["role"] for content in body["contents"]] == [("user", "model")[at % 2] for at in range(len(body["contents"]))]
    for name, model in (
        ("systemInstruction", types.Content),
        ("toolConfig", types.ToolConfig),
        ("generationConfig", types.GenerationConfig),
    ):
        if name in body:
            model.model_validate(body[name])
    for tool in body.get("tools", ()):
        types.Tool.model_validate(tool)
    known = {"model", "stream", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier"}
    assert body.keys() <= known


@COMMON
@given(PROMPTS)
def test_a_request_to_count_counts_all_of_the_prompt(prompt: Prompt) -> None:
    body = write_count_prompt(prompt, Losses("gemini"))
    validate_count(body)
    again = read_count_prompt(body, Losses("x"))
    assert bare(again) == bare(replace(prompt, stream=False))


def test_a_request_to_count_contents_is_read_too() -> None:
    assert bare(read_count_prompt({"model": "m", "contents": [USER]}, Losses("x"))) == bare(read()[0])


def test_places_in_a_request_to_count_are_those_of_the_whole_body() -> None:
    losses = Losses("x")
    whole = {"contents": [USER, {"role": "model", "parts": [{"executableCode": {}}]}], "cachedContent": "c"}
    prompt = read_count_prompt({"model": "m", "generateContentRequest": whole}, losses)
    assert prompt.turns[0].path == "generateContentRequest.contents[0]"
    assert refused(losses) == "generateContentRequest.contents[1].parts[0].executableCode"

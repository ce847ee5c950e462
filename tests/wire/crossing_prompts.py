"""Prompts that two formats can both say in full, and what may differ of one after it crossed from one to the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from orjson import dumps

from muxx.wire.openai.prompt_writing import asked_effort
from muxx.wire.prompt import Block, Call, Output, Prompt, Reasoning, Result, Text, Tool, ToolChoice, Turn

from .prompts_kit import DATA, LINKED_PICTURE, NAME, bare, maybe, there

CHAT, RESPONSES, MESSAGES, GEMINI = "chat", "responses", "messages", "generate_content"

SAYS: dict[str, set[str]] = {
    "stop": {CHAT, MESSAGES, GEMINI},
    "top_k": {MESSAGES, GEMINI},
    "seed": {CHAT, GEMINI},
    "n": {CHAT, GEMINI},
    "frequency_penalty": {CHAT, GEMINI},
    "presence_penalty": {CHAT, GEMINI},
    "user": {CHAT, RESPONSES, MESSAGES},
    "verbosity": {CHAT, RESPONSES},
    "service_tier": {CHAT, RESPONSES, GEMINI},
    "json": {CHAT, RESPONSES, GEMINI},
    "links": {CHAT, RESPONSES, MESSAGES},
    "system between turns": {CHAT, RESPONSES},
    "one call at a time": {CHAT, RESPONSES, MESSAGES},
    "strict": {CHAT, RESPONSES, MESSAGES},
    "pictures as results": {RESPONSES, MESSAGES, GEMINI},
    "failed results": {MESSAGES, GEMINI},
}
"""What only some formats can say, and which; all else of a prompt every format can."""

WORDS = st.text(min_size=1, max_size=12).filter(str.strip)
PART = st.floats(0.01, 0.99)
"""Of a number that every format takes: not the default, which is as good as nothing."""
PICTURE = there(kind=st.just("image"), mime=st.sampled_from(["image/png", "image/jpeg", "image/webp", "image/gif"]), data=DATA)
LINK = LINKED_PICTURE.map(lambda media: replace(media, detail=None))
JSON = st.recursive(
    st.booleans() | st.integers(-9, 9) | WORDS | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
ARGUMENTS = st.dictionaries(NAME, JSON, max_size=2)
PROPERTY = st.sampled_from([{"type": "string"}, {"type": "integer", "description": "how many"}, {"enum": ["a", "b"]}])
CLOSED = st.dictionaries(NAME, PROPERTY, max_size=2).map(
    lambda properties: {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
)
CHOICE = st.sampled_from([ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")])


@st.composite
def prompts(draw: Any, *formats: str) -> Prompt:
    """Any prompt that all of these formats can say."""
    said = {name for name, able in SAYS.items() if able.issuperset(formats)}
    turns = draw(_conversation(said))
    given: dict[str, Any] = {name: draw(maybe(strategy)) for name, strategy in _MEMBERS.items() if name in said}
    given |= {name: value for name, value in {"stop": draw(st.lists(WORDS, max_size=3))}.items() if name in said}
    tools = draw(st.lists(_tool(said), max_size=2, unique_by=lambda tool: tool.name))
    prompt = Prompt(
        "some-model",
        stream=draw(st.booleans()),
        system=draw(st.lists(WORDS.map(Text), max_size=1)),
        turns=turns,
        tools=tools,
        output=draw(maybe(CLOSED.map(lambda schema: Output("schema", schema)) | _json(said))),
        **given,
    )
    if tools:
        named = st.sampled_from(tools).map(lambda tool: ToolChoice("named", tool.name))
        prompt.tool_choice = draw(maybe(CHOICE | named))
        may_be_one = "one call at a time" in said and prompt.tool_choice != ToolChoice("none")
        prompt.parallel_tool_calls = draw(st.sampled_from([None, False])) if may_be_one else None
    if draw(st.booleans()) and not tools and not any(isinstance(block, Call) for turn in turns for block in turn.blocks):
        # Claude thinks neither where a call is forced nor behind calls without thoughts, and with sampling of its own
        prompt.reasoning = draw(st.builds(Reasoning, st.sampled_from(["none", "low", "medium", "high"])))
        prompt.max_tokens, prompt.top_k = draw(maybe(st.integers(40_000, 60_000))), None
    else:
        prompt.max_tokens = draw(maybe(st.integers(1, 9999)))
        prompt.temperature, prompt.top_p = draw(maybe(PART)), draw(maybe(PART))
    return prompt


_MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "top_k": st.integers(1, 40),
    "seed": st.integers(0, 9),
    "n": st.integers(2, 4),
    "frequency_penalty": PART,
    "presence_penalty": PART,
    "user": WORDS,
    "verbosity": st.sampled_from(["low", "high"]),
    "service_tier": st.sampled_from(["flex", "priority"]),
}


def _json(said: set[str]) -> st.SearchStrategy[Any]:
    return st.just(Output("json")) if "json" in said else st.none()


def _tool(said: set[str]) -> st.SearchStrategy[Tool]:
    strict = maybe(st.booleans()) if "strict" in said else maybe(st.just(False))
    return st.builds(Tool, NAME, maybe(WORDS), maybe(CLOSED), strict)


@st.composite
def _conversation(draw: Any, said: set[str]) -> list[Turn]:
    """Turns that begin and end with the user's; calls are answered in the turn behind."""
    turns = [Turn("user", draw(_asked(said)))]
    for number in range(draw(st.integers(0, 2))):
        if "system between turns" in said and draw(st.booleans()):
            turns.append(Turn("system", [draw(WORDS.map(Text))]))
        names = draw(st.lists(NAME, max_size=2))
        calls: list[Block] = [_call(f"call_{number}_{at}", name, draw(ARGUMENTS)) for at, name in enumerate(names)]
        text: list[Block] = draw(st.lists(WORDS.map(Text), min_size=0 if calls else 1, max_size=1))
        turns.append(Turn("assistant", [*text, *calls]))
        results: list[Block] = [draw(_result(f"call_{number}_{at}", said)) for at in range(len(calls))]
        turns.append(Turn("user", [*results, *draw(_asked(said) if not results else st.just([]) | _asked(said))]))
    return turns


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> Call:
    return Call(call_id, name, dumps(arguments).decode())


def _asked(said: set[str]) -> st.SearchStrategy[list[Block]]:
    """A text, or a picture among texts: texts alone some formats have as one."""
    picture = PICTURE | LINK if "links" in said else PICTURE
    mixed = st.lists(WORDS.map(Text) | picture, max_size=2).flatmap(lambda some: picture.map(lambda last: [*some, last]))
    return st.lists(WORDS.map(Text), min_size=1, max_size=1) | mixed


def _result(call_id: str, said: set[str]) -> st.SearchStrategy[Result]:
    content: st.SearchStrategy[Any] = st.lists(WORDS.map(Text), max_size=1)
    if "pictures as results" in said:
        content |= PICTURE.map(lambda picture: [Text("look"), picture])
    return st.builds(Result, st.just(call_id), content, st.booleans() if "failed results" in said else st.just(False))


# What is the same.

NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
"""The parameters of a tool that takes none, where a format has to name some."""


def alike(prompt: Prompt, asked: Prompt) -> Prompt:
    """The prompt without what may differ from the one that was asked: turns of one role in a row are one; a result needs no
    name; a tool without parameters takes an empty object, and is not strict where nobody said so; tools are the
    model's to choose where nobody said so; a schema has a name where a format wants one; an effort may be told as tokens; the most
    of tokens is made up where one is wanted."""
    plain: Prompt = bare(prompt)
    return replace(
        plain,
        turns=_merged(plain.turns),
        tools=[replace(tool, parameters=tool.parameters or NOTHING, strict=tool.strict or False) for tool in plain.tools],
        tool_choice=None if plain.tool_choice == ToolChoice("auto") else plain.tool_choice,
        output=_unnamed(plain.output),
        reasoning=None if plain.reasoning is None else Reasoning(asked_effort(plain.reasoning)),
        max_tokens=None if asked.max_tokens is None else plain.max_tokens,
    )


def _merged(turns: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in turns:
        blocks = [replace(block, name=None) if isinstance(block, Result) else block for block in turn.blocks]
        if merged and merged[-1].role == turn.role:
            merged[-1].blocks += blocks
        else:
            merged.append(Turn(turn.role, blocks, turn.name))
    return merged


def _unnamed(output: Output | None) -> Output | None:
    if output is None or output.schema is None:
        return output
    schema = {name: value for name, value in output.schema.items() if (name, value) != ("title", "answer")}
    return Output(output.kind, schema)

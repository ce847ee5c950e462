"""Requests of chat completions as prompts, and prompts as such requests."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import InvalidRequest
from muxx.wire.openai import read_prompt, validate_chat, write_prompt
from muxx.wire.prompt import (
    Call,
    Losses,
    Media,
    Output,
    Prompt,
    Reasoning,
    Refusal,
    Result,
    Text,
    Thought,
    Tool,
    ToolChoice,
    Turn,
)
from muxx.wire.seals import sealed
from muxx.wire.wire import Wire
from muxx.wire.wires import CHAT, GENERATE_CONTENT, MESSAGES, RESPONSES

from .prompts_kit import (
    CHOICE,
    COMMON,
    DOCUMENT,
    JUNK,
    LINKED_PICTURE,
    NAME,
    PICTURE,
    REASONING,
    SOUND,
    STORED_DOCUMENT,
    TEXT,
    WORDS,
    bare,
    consumed,
    conversations,
    damaged,
    lossless,
    lost,
    maybe,
    refused_by_name_or_read,
    sent,
    tools,
    with_tools,
)

MEDIA = st.one_of(PICTURE, LINKED_PICTURE, DOCUMENT, STORED_DOCUMENT, SOUND)


@st.composite
def said(draw: Any) -> Turn:
    blocks: list[Any] = [*draw(st.lists(TEXT, max_size=1)), *draw(st.lists(st.builds(Refusal, WORDS), max_size=1))]
    blocks += draw(st.lists(st.builds(Call, NAME, NAME, WORDS), max_size=3, min_size=0 if blocks else 1))
    return Turn("assistant", blocks, draw(maybe(NAME)))


USER = st.builds(
    Turn,
    st.just("user"),
    st.lists(TEXT, min_size=1, max_size=1)
    | st.lists(TEXT | MEDIA, max_size=3).flatmap(lambda some: MEDIA.map(lambda m: [*some, m])),
    maybe(NAME),
)
RESULT = st.builds(Result, NAME, st.lists(TEXT, max_size=1))


@st.composite
def prompts(draw: Any) -> Prompt:
    """Any prompt that chat completions can say."""
    prompt = draw(
        st.builds(
            Prompt,
            turns=conversations(USER, said(), RESULT),
            reasoning=maybe(REASONING),
            stop=st.lists(WORDS, max_size=3),
            n=maybe(st.integers(2, 5)),
            seed=maybe(st.integers(0, 9)),
            frequency_penalty=maybe(st.floats(0.1, 2)),
            presence_penalty=maybe(st.just(-1)),
            **COMMON,  # type: ignore[arg-type]
        )
    )
    return with_tools(prompt, draw(tools(maybe(st.booleans()))), draw(maybe(CHOICE)), draw(st.sampled_from([None, False])))


@settings(deadline=None)
@given(prompts())
def test_a_prompt_is_the_same_after_it_was_written_and_read(prompt: Prompt) -> None:
    body = sent(write_prompt(prompt, lossless()))
    validate_chat(body)
    assert bare(read_prompt(body, lossless())) == bare(prompt)


@settings(deadline=None, max_examples=examples(25))
@given(prompts())
def test_what_is_written_is_what_the_sdk_sends(prompt: Prompt) -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(CompletionCreateParamsNonStreaming)
    body = sent(write_prompt(replace(prompt, stream=False), lossless()))
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "input_audio":
                part["input_audio"]["format"] = "wav"  # compatible servers take more than OpenAI
    consumed(adapter.validate_python(body))


@settings(deadline=None)
@given(prompts(), st.randoms(use_true_random=False), JUNK)
def test_a_request_that_is_wrong_somewhere_is_refused_by_name_or_read(prompt: Prompt, dice: random.Random, junk: Any) -> None:
    refused_by_name_or_read(damaged(write_prompt(prompt, lossless()), dice, junk), read_prompt, write_prompt)


# Reading.


def asked(**members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}


def reads(*messages: dict[str, Any], **members: Any) -> Prompt:
    prompt = read_prompt({"model": "m", "messages": list(messages), **members}, lossless())
    assert isinstance(prompt, Prompt)
    return prompt


def blocks_of(message: dict[str, Any]) -> list[Any]:
    [turn] = reads({"role": "user", "content": "hi"}, message).turns[1:]
    return bare(turn.blocks)  # type: ignore[no-any-return]


def test_system_and_developer_messages_that_come_first_are_the_system() -> None:
    prompt = reads(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "c"},
    )
    assert [(text.text, text.path) for text in prompt.system] == [("a", "messages[0].content"), ("b", "messages[1].content[0]")]
    assert [(turn.role, bare(turn.blocks), turn.path) for turn in prompt.turns[1:]] == [("system", [Text("c")], "messages[3]")]


def test_results_of_calls_made_together_are_one_turn() -> None:
    tool = {"role": "tool", "tool_call_id": "c", "content": "a"}
    parts = {"role": "tool", "tool_call_id": "d", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assistant = {"role": "assistant", "content": "x"}
    turns = reads(assistant, tool, parts, assistant, {**tool, "content": ""}, {"role": "user", "content": "hi"}, tool).turns
    assert [(turn.role, len(turn.blocks)) for turn in turns] == [
        ("assistant", 1), ("user", 2), ("assistant", 1), ("user", 1), ("user", 1), ("user", 1),
    ]  # fmt: skip
    assert bare(turns[1].blocks) == [Result("c", [Text("a")]), Result("d", [Text("a"), Text("b")])]
    assert bare(turns[3].blocks) == [Result("c", [])]


@pytest.mark.parametrize(
    ("part", "media"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}},
            Media("image", url="https://x", detail="low"),
        ),
        ({"type": "image_url", "image_url": "https://x"}, Media("image", url="https://x")),
        ({"type": "image_url", "image_url": {"url": "data:image/gif;base64,QQ=="}}, Media("image", "image/gif", "QQ==")),
        ({"type": "image_url", "image_url": {"url": "data:image/svg+xml,%41"}}, Media("image", "image/svg+xml", "QQ==")),
        ({"type": "video_url", "video_url": {"url": "https://x"}}, Media("video", url="https://x")),
        ({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}}, Media("audio", "audio/mpeg", "QQ==")),
        ({"type": "file", "file": {"file_id": "f"}}, Media("document", file_id="f")),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ==", "filename": "a.pdf"}},
            Media("document", "application/pdf", "QQ==", name="a.pdf"),
        ),
        (
            {"type": "file", "file": {"file_data": "QQ==", "filename": "a.txt"}},
            Media("document", "text/plain", "QQ==", name="a.txt"),
        ),
        ({"type": "file", "file": {"file_data": "QQ=="}}, Media("document", "application/pdf", "QQ==")),
    ],
)
def test_media_are_read(part: dict[str, Any], media: Media) -> None:
    assert blocks_of({"role": "user", "content": [part]}) == [media]


@pytest.mark.parametrize("marker", [{"cache_control": {"type": "ephemeral"}}, {"prompt_cache_breakpoint": {"mode": "explicit"}}])
def test_prompt_cache_markers_are_read(marker: dict[str, Any]) -> None:
    [block] = blocks_of({"role": "user", "content": [{"type": "text", "text": "a", **marker}]})
    assert block.cache == {"type": "ephemeral"}


ENTRY = {"type": "reasoning.text", "text": "hm", "signature": "s"}
HIDDEN = {"type": "reasoning.encrypted", "data": "d"}


@pytest.mark.parametrize(
    ("members", "thoughts"),
    [
        ({"reasoning_content": "hm"}, [Thought("hm")]),
        ({"reasoning": "hm"}, [Thought("hm")]),
        ({"reasoning_content": "hm", "reasoning_details": [ENTRY]}, [Thought("hm", "s")]),
        ({"reasoning_content": "hm", "reasoning_details": [{**ENTRY, "text": ""}]}, [Thought("hm", "s")]),
        ({"reasoning_details": [ENTRY, HIDDEN]}, [Thought("hm", "s"), Thought("", "d")]),
        ({"reasoning": "hm", "reasoning_details": [HIDDEN, HIDDEN]}, [Thought("hm"), Thought("", "d"), Thought("", "d")]),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}, [Thought("hm")]),
    ],
)
def test_reasoning_of_earlier_turns_is_read(members: dict[str, Any], thoughts: list[Thought]) -> None:
    assert blocks_of({"role": "assistant", "content": "a", **members}) == [*thoughts, Text("a")]


def test_signatures_of_calls_and_texts_are_read() -> None:
    extra = {"extra_content": {"google": {"thought_signature": "s"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, **extra}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert blocks_of(message) == [Call("c", "f", "{}", signature="s")]
    assert blocks_of({**message, "content": "a", **extra})[0] == Text("a", signature="s")
    assert blocks_of({"role": "assistant", "content": "", **extra}) == [Text("", signature="s")]


def test_an_answer_that_an_sdk_sends_back_is_read_without_loss() -> None:
    message = {
        "role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": None,
    }  # fmt: skip
    assert blocks_of(message) == [Text("a")]


@pytest.mark.parametrize("first", [True, False])
def test_the_newer_name_of_the_most_tokens_counts(first: bool) -> None:
    both = [("max_completion_tokens", 5), ("max_tokens", 9)]
    prompt = read_prompt(asked(**dict(both if first else both[::-1])), lossless())
    assert (prompt.max_tokens, prompt.place("max_tokens")) == (5, "max_completion_tokens")


def test_members_know_the_field_they_came_from() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    prompt = read_prompt(
        asked(response_format=schema, reasoning_effort="low", stop="x", seed=5, tools=[], tool_choice="none"), lossless()
    )
    names = ("output", "reasoning", "stop", "seed", "tool_choice", "top_k")
    assert [prompt.place(name) for name in names] == [
        "response_format", "reasoning_effort", "stop", "seed", "tool_choice", "top_k",
    ]  # fmt: skip
    assert (prompt.stop, prompt.output, prompt.reasoning) == (["x"], Output("schema", {}, "n"), Reasoning("low"))


NO_LOSS = [
    {"n": 1}, {"logprobs": False}, {"top_logprobs": 0}, {"logit_bias": {}}, {"parallel_tool_calls": True}, {"modalities": ["text"]},
    {"stream_options": {"include_usage": True}}, {"store": True}, {"store": False}, {"frequency_penalty": 0.0},
    {"response_format": {"type": "text"}}, {"metadata": {}}, {"service_tier": "auto"}, {"functions": []}, {"function_call": "none"},
    {"hologram": None}, {"prediction": None},
]  # fmt: skip


@pytest.mark.parametrize("members", NO_LOSS)
def test_what_holds_anyway_is_no_loss(members: dict[str, Any]) -> None:
    plain = read_prompt(asked(), lossless())
    assert replace(read_prompt(asked(**members), lossless()), places={}) == plain


HINTS = {
    "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "x", "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "implicit"},
}  # fmt: skip
CANNOT = {
    "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "modalities": ["text", "audio"], "audio": {"voice": "x"},
    "prediction": {"type": "content"}, "web_search_options": {}, "functions": [{"name": "f"}], "function_call": {"name": "f"},
    "hologram": 5, "moderation": {"model": "x"}, "response_format": {"type": "grammar"},
    "tool_choice": {"type": "allowed_tools"},
}  # fmt: skip


def test_what_does_not_change_the_answer_is_a_hint() -> None:
    assert lost(lambda losses: read_prompt(asked(**HINTS), losses)) == (set(), set(HINTS))


def test_what_changes_the_answer_is_refused() -> None:
    assert lost(lambda losses: read_prompt(asked(**CANNOT), losses)) == (set(CANNOT), set())


@pytest.mark.parametrize(
    ("message", "refused", "hinted"),
    [
        ({"role": "user", "content": [{"type": "hologram"}, {"type": "text", "text": "a"}]}, "messages[0].content[0]", None),
        ({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]", None),
        ({"role": "system", "content": "a", "name": "x"}, None, "messages[0].name"),
        ({"role": "function", "name": "f", "content": "a"}, "messages[0]", None),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call", None),
        ({"role": "assistant", "audio": {"id": "x"}}, "messages[0].audio", None),
        ({"role": "assistant", "content": "a", "annotations": [{}]}, None, "messages[0].annotations"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}, "messages[0].tool_calls[0]", None),
        ({"role": "tool", "tool_call_id": "c", "content": [{"type": "refusal", "refusal": "a"}]}, "messages[0].content[0]", None),
    ],
)
def test_what_a_message_cannot_keep_is_told_by_its_place(
    message: dict[str, Any], refused: str | None, hinted: str | None
) -> None:
    found = lost(lambda losses: read_prompt({"model": "m", "messages": [message]}, losses))
    assert found == ({refused} - {None}, {hinted} - {None})


@pytest.mark.parametrize("tool", [{"type": "custom", "custom": {"name": "x"}}, {"type": "web_search"}])
def test_only_functions_are_tools(tool: dict[str, Any]) -> None:
    function = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
    assert lost(lambda losses: read_prompt(asked(tools=[function, tool]), losses)) == ({"tools[1]"}, set())
    [made] = reads({"role": "user", "content": "a"}, tools=[function]).tools
    assert made == Tool("f", None, {"type": "object"}, True, path="tools[0]")


# Writing.


def turn(*blocks: Any, role: Any = "user") -> Prompt:
    return Prompt("m", turns=[Turn(role, list(blocks), path="t")])


def writes(prompt: Prompt) -> dict[str, Any]:
    return sent(write_prompt(prompt, lossless()))  # type: ignore[no-any-return]


def test_texts_alone_are_paragraphs_of_one_string() -> None:
    prompt = replace(turn(Text("c"), Media("document", text="d", name="D")), system=[Text("a"), Text("b")])
    assert writes(prompt)["messages"] == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "c\n\nD\n\nd"}]


def test_pieces_of_an_answer_are_one_text() -> None:
    [message] = writes(turn(Text("Hel"), Text("lo"), role="assistant"))["messages"]
    assert message["content"] == "Hello"


def test_results_stand_right_behind_the_calls() -> None:
    messages = writes(turn(Text("and"), Result("c", [Text("a"), Text("b")]), Result("d", [])))["messages"]
    assert messages == [
        {"role": "tool", "tool_call_id": "c", "content": "a\n\nb"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {"role": "user", "content": "and"},
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5", "max_completion_tokens"), ("gpt-5.2-pro", "max_completion_tokens"), ("gpt-6-sol", "max_completion_tokens"),
        ("o1", "max_completion_tokens"), ("o3-mini", "max_completion_tokens"), ("o4-mini", "max_completion_tokens"),
        ("openai/gpt-5", "max_completion_tokens"), ("gpt-4o", "max_tokens"), ("gpt-3.5-turbo", "max_tokens"),
        ("gpt-oss-120b", "max_tokens"), ("llama-4", "max_tokens"), ("olmo", "max_tokens"), ("grok-5", "max_tokens"),
    ],
)  # fmt: skip
def test_models_that_reason_know_the_most_of_tokens_by_another_name(model: str, name: str) -> None:
    assert writes(replace(turn(Text("a")), model=model, max_tokens=5))[name] == 5


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(0, "none"), (1, "low"), (1024, "low"), (2047, "low"), (2048, "medium"), (4096, "medium"), (8191, "medium"), (8192, "high"),
     (16384, "high"), (100000, "high")],
)  # fmt: skip
def test_a_budget_is_an_effort(budget: int, effort: str) -> None:
    assert writes(replace(turn(Text("a")), model="gpt-5.1", reasoning=Reasoning(budget=budget)))["reasoning_effort"] == effort


@pytest.mark.parametrize(
    ("model", "effort", "thinks"),
    [("gpt-4o", None, False), ("ft:gpt-4.1-mini:us::1", None, False), ("gpt-3.5-turbo", None, False), ("gpt-5-chat-latest", None, False),
     ("o1", "low", True), ("o3", "low", True), ("openai/o4-mini", "low", True), ("o1-mini", None, True), ("gpt-5-pro", None, True),
     ("gpt-5-codex", "low", True), ("openai/gpt-oss-120b", "low", True), ("gpt-5", "minimal", True), ("gpt-5-mini-2025-08-07", "minimal", True),
     ("gpt-5.1", "none", False), ("gpt-5.2-2025-12-11", "none", False), ("house", "none", False)],
)  # fmt: skip
def test_who_asks_for_no_thinking_gets_the_least_that_the_model_takes(model: str, effort: str | None, thinks: bool) -> None:
    asked_for = replace(turn(Text("a")), model=model, reasoning=Reasoning("none"), places={"reasoning": "thinking"})
    for write, member in ((CHAT, "reasoning_effort"), (RESPONSES, "reasoning")):
        losses = Losses("openai/model")
        assert write.translation is not None
        body = write.translation.write_prompt(asked_for, losses)
        told = effort if write is CHAT or effort is None else {"effort": effort}
        assert (body.get(member), losses.dropped) == (told, ["thinking"] if thinks else [])


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES, GENERATE_CONTENT], ids=lambda wire: wire.name)
def test_a_choice_that_forces_a_tool_which_is_not_there_is_told(wire: Wire) -> None:
    asked_for = replace(turn(Text("a")), tools=[Tool("kept")], tool_choice=ToolChoice("named", "gone"), max_tokens=5)
    assert wire.translation is not None
    losses = Losses("provider/model", drop=True)
    body = wire.translation.write_prompt(asked_for, losses)
    assert losses.dropped == ["tool_choice"]
    assert b"gone" not in orjson.dumps(body)
    losses = Losses("provider/model")
    wire.translation.write_prompt(asked_for, losses)
    with pytest.raises(InvalidRequest, match="tool_choice"):
        losses.check()


@pytest.mark.parametrize("reasoning", [Reasoning(show=True), Reasoning(), None])
def test_who_says_nothing_of_effort_asks_for_none(reasoning: Reasoning | None) -> None:
    assert "reasoning_effort" not in writes(replace(turn(Text("a")), reasoning=reasoning))


def test_a_tool_without_arguments_says_that_it_has_no_properties() -> None:
    """OpenAI refuses its schema else: "object schema missing properties"."""
    own = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = writes(replace(turn(Text("a")), tools=[Tool("f", parameters={"type": "object"}), Tool("g", parameters=own), Tool("h")]))
    assert [tool["function"].get("parameters") for tool in body["tools"]] == [{"type": "object", "properties": {}}, own, None]


def test_without_tools_nothing_is_said_of_how_to_call_them() -> None:
    prompt = replace(turn(Text("a")), parallel_tool_calls=False, tool_choice=ToolChoice("auto"))
    assert not writes(prompt).keys() & {"tool_choice", "parallel_tool_calls"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_chat_provider_gets_its_own_reasoning_back_as_it_came(name: str) -> None:
    thoughts = [Thought("h", sealed("openai", name)), Thought("m", redacted=sealed("openai", name))]
    [message] = writes(turn(*thoughts, Text("a"), role="assistant"))["messages"]
    assert message == {"role": "assistant", "content": "a", name: "hm"}


def test_a_chat_provider_gets_its_own_signatures_back() -> None:
    entry = sealed("openai", '{"type":"reasoning.text","signature":"s","index":0}')
    hidden = sealed("openai", '{"type":"reasoning.encrypted","data":"d","index":1}')
    call = Call("c", "f", "{}", signature=sealed("openai", "t"))
    said = turn(Thought("hm", entry), Thought("", hidden), Text("a", signature=sealed("openai", "u")), call, role="assistant")
    [message] = writes(said)["messages"]
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "signature": "s", "index": 0, "text": "hm"},
        {"type": "reasoning.encrypted", "data": "d", "index": 1},
    ]
    assert message["extra_content"] == {"google": {"thought_signature": "u"}}
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "t"}}


CACHE = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("prompt", "refused", "hinted"),
    [
        (replace(turn(Text("a")), top_k=5, places={"top_k": "topK"}), {"topK"}, set()),
        (replace(turn(Text("a")), logprobs=True, top_logprobs=2), {"logprobs", "top_logprobs"}, set()),
        (replace(turn(Text("a")), user="x" * 65, service_tier="standard_only"), set(), {"user", "service_tier"}),
        (replace(turn(Text("a")), tools=[Tool("f", cache=CACHE, path="tools[0]")]), set(), {"tools[0].cache_control"}),
        (replace(turn(Text("a")), system=[Text("s", CACHE, "system[0]")]), set(), {"system[0].cache_control"}),
        (
            turn(Text("a", CACHE, "p"), Result("c", [Text("b", CACHE, "r")], path="q")),
            set(),
            {"p.cache_control", "r.cache_control"},
        ),
        (turn(Media("document", url="https://x", path="p")), {"p"}, set()),
        (turn(Media("image", file_id="f", path="p")), {"p"}, set()),
        (turn(Media("audio", url="https://x", path="p")), {"p"}, set()),
        (turn(Media("video", "video/mp4", "QQ==", path="p")), {"p"}, set()),
        (turn(Media("image", url="https://x", path="p"), role="assistant"), {"p"}, set()),
        (turn(Media("image", url="https://x", path="p"), role="system"), {"p"}, set()),
        (turn(Result("c", [Text("a"), Media("image", url="https://x", path="p")])), {"p"}, set()),
        (turn(Result("c", [Text("a")], is_error=True, path="p")), set(), {"p.is_error"}),
        (turn(Thought("a", path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", "foreign", path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("anthropic", "reasoning"), path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("openai", "gAAAA"), path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("openai", "{"), path="p"), role="assistant"), set(), {"p"}),
        (turn(Call("c", "f", "{}", sealed("gemini", "s"), path="p"), role="assistant"), set(), {"p.signature"}),
        (turn(Text("a", signature="s", path="p"), role="assistant"), set(), {"p.signature"}),
        (turn(Call("c", "f", "{}"), Text("a", path="p"), role="assistant"), set(), {"p"}),
    ],
)
def test_what_cannot_be_written_is_told_by_its_place(prompt: Prompt, refused: set[str], hinted: set[str]) -> None:
    assert lost(lambda losses: write_prompt(prompt, losses)) == (refused, hinted)


def test_a_member_of_a_part_that_nobody_knows_is_told() -> None:
    losses = Losses("other/model")
    part = {"type": "text", "text": "Hi", "annotations": [], "logprobs": [], "mood": "glad"}
    read_prompt({"model": "m", "messages": [{"role": "user", "content": [part]}]}, losses)
    losses.check()
    assert losses.dropped == ["messages[0].content[0].mood"]

"""Requests of Responses as prompts, and prompts as such requests."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import InvalidRequest
from muxx.wire.prompt import (
    Call,
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
from muxx.wire.responses import read_prompt, validate_response, write_prompt
from muxx.wire.seals import opened, sealed

from .prompts_kit import (
    CHOICE,
    COMMON,
    DOCUMENT,
    EFFORT,
    JUNK,
    LINKED_DOCUMENT,
    LINKED_PICTURE,
    NAME,
    PICTURE,
    STORED_DOCUMENT,
    STORED_PICTURE,
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

MEDIA = st.one_of(PICTURE, LINKED_PICTURE, STORED_PICTURE, DOCUMENT, STORED_DOCUMENT, LINKED_DOCUMENT)
SIGNATURE = NAME.map(lambda name: sealed("openai", name))
THOUGHT = st.builds(Thought, st.text(max_size=9), SIGNATURE)
SAID = st.builds(
    Turn,
    st.just("assistant"),
    st.lists(st.one_of(TEXT, THOUGHT, st.builds(Refusal, WORDS), st.builds(Call, NAME, NAME, WORDS)), min_size=1, max_size=5),
)
USER = st.builds(Turn, st.just("user"), st.lists(TEXT | MEDIA, min_size=1, max_size=3))
RESULT = st.builds(Result, NAME, st.lists(TEXT | MEDIA, max_size=3))
REASONING = st.builds(Reasoning, maybe(EFFORT), show=st.sampled_from([None, True])).filter(lambda r: r != Reasoning())


@st.composite
def prompts(draw: Any) -> Prompt:
    """Any prompt that Responses can say."""
    prompt = draw(
        st.builds(Prompt, turns=conversations(USER, SAID, RESULT), reasoning=maybe(REASONING), **COMMON)  # type: ignore[arg-type]
    )
    return with_tools(prompt, draw(tools(st.booleans())), draw(maybe(CHOICE)), draw(st.sampled_from([None, False])))


def as_opened(prompt: Prompt) -> Prompt:
    """With the signatures that the provider gets, which are its own."""
    for turn in prompt.turns:
        for block in turn.blocks:
            if isinstance(block, Thought):
                block.signature = opened("openai", block.signature)
    return prompt


@settings(deadline=None)
@given(prompts())
def test_a_prompt_is_the_same_after_it_was_written_and_read(prompt: Prompt) -> None:
    body = sent(write_prompt(prompt, lossless()))
    validate_response(body)
    assert bare(read_prompt(body, lossless())) == bare(as_opened(prompt))


@settings(deadline=None, max_examples=examples(25))
@given(prompts())
def test_what_is_written_is_what_the_sdk_sends(prompt: Prompt) -> None:
    from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(ResponseCreateParamsNonStreaming)
    body = sent(write_prompt(replace(prompt, stream=False), lossless()))
    for item in body["input"]:
        if item["type"] == "reasoning" or (item.get("role") == "assistant" and isinstance(item["content"], list)):
            item |= {"id": "x", "status": "completed"}  # of what the provider stored; clients that send all back leave them out
        for part in [*item.get("content", ()), *item.get("output", ())] if item["type"] != "reasoning" else ():
            if isinstance(part, dict) and part["type"] == "input_image":
                part.setdefault("detail", "auto")
    consumed(adapter.validate_python(body))


@settings(deadline=None)
@given(prompts(), st.randoms(use_true_random=False), JUNK)
def test_a_request_that_is_wrong_somewhere_is_refused_by_name_or_read(prompt: Prompt, dice: random.Random, junk: Any) -> None:
    refused_by_name_or_read(damaged(write_prompt(prompt, lossless()), dice, junk), read_prompt, write_prompt)


# Reading.


def asked(**members: Any) -> dict[str, Any]:
    return {"model": "m", "input": "hi", **members}


def reads(*items: dict[str, Any], **members: Any) -> Prompt:
    prompt = read_prompt({"model": "m", "input": list(items), **members}, lossless())
    assert isinstance(prompt, Prompt)
    return prompt


def item(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)}


def test_a_string_is_what_the_user_says() -> None:
    assert read_prompt(asked(), lossless()).turns == [Turn("user", [Text("hi", path="input")], path="input")]


def test_instructions_and_the_system_messages_that_come_first_are_the_system() -> None:
    prompt = reads(
        item("developer", "b"), item("system", {"type": "input_text", "text": "c"}), item("user", "hi"), item("system", "d"),
        instructions="a",
    )  # fmt: skip
    assert [(text.text, text.path) for text in prompt.system] == [
        ("a", "instructions"), ("b", "input[0].content"), ("c", "input[1].content[0]"),
    ]  # fmt: skip
    assert [(turn.role, bare(turn.blocks)) for turn in prompt.turns] == [("user", [Text("hi")]), ("system", [Text("d")])]


@pytest.mark.parametrize("junk", [None, 5, [], {}, ["reasoning.encrypted_content"]])
def test_what_an_include_names_is_text(junk: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        reads(item("user", "hi"), include=["reasoning.encrypted_content", junk])
    assert (caught.value.code, caught.value.param) == ("invalid_type", "include[1]")


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1", "status": "completed"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "a"}


def test_what_stands_together_is_one_turn() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "e"}
    said = {**item("assistant", {"type": "output_text", "text": "x", "annotations": []}), "type": "message", "id": "msg_1"}
    prompt = reads(
        item("user", "hi"), thought, said, CALL, {**CALL, "call_id": "d"}, OUTPUT, {**OUTPUT, "call_id": "d"}, said, OUTPUT
    )
    assert [(turn.role, bare(turn.blocks)) for turn in prompt.turns] == [
        ("user", [Text("hi")]),
        ("assistant", [Thought("hm", "e"), Text("x"), Call("c", "f", "{}"), Call("d", "f", "{}")]),
        ("user", [Result("c", [Text("a")]), Result("d", [Text("a")])]),
        ("assistant", [Text("x")]),
        ("user", [Result("c", [Text("a")])]),
    ]


def test_results_and_what_the_user_says_then_are_turns_of_their_own() -> None:
    prompt = reads(OUTPUT, item("user", "hi"), OUTPUT)
    assert [[type(block).__name__ for block in turn.blocks] for turn in prompt.turns] == [["Result"], ["Text"], ["Result"]]


@pytest.mark.parametrize(
    ("part", "media"),
    [
        ({"type": "input_image", "image_url": "https://x", "detail": "low"}, Media("image", url="https://x", detail="low")),
        ({"type": "input_image", "image_url": "data:image/gif;base64,QQ=="}, Media("image", "image/gif", "QQ==")),
        ({"type": "input_image", "file_id": "f"}, Media("image", file_id="f")),
        ({"type": "input_file", "file_url": "https://x"}, Media("document", url="https://x")),
        ({"type": "input_file", "file_id": "f"}, Media("document", file_id="f")),
        (
            {"type": "input_file", "file_data": "data:application/pdf;base64,QQ==", "filename": "a.pdf"},
            Media("document", "application/pdf", "QQ==", name="a.pdf"),
        ),
        ({"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}, Media("audio", "audio/wav", "QQ==")),
    ],
)
def test_media_are_read_of_the_user_and_of_tools(part: dict[str, Any], media: Media) -> None:
    said, returned = reads(item("user", part), {**OUTPUT, "output": [part]}).turns
    assert bare(said.blocks) == [media]
    assert bare(returned.blocks) == [Result("c", [media])]


def test_signatures_of_calls_and_messages_are_read() -> None:
    [turn] = reads({**item("assistant", "a"), "encrypted_content": "t"}, {**CALL, "encrypted_content": "s"}).turns
    assert bare(turn.blocks) == [Text("a", signature="t"), Call("c", "f", "{}", "s")]
    [turn] = reads({**item("assistant"), "type": "message", "encrypted_content": "t"}).turns
    assert bare(turn.blocks) == [Text("", signature="t")]


def test_the_parts_of_a_reasoning_are_paragraphs() -> None:
    parts = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    [turn] = reads({"type": "reasoning", "summary": parts, "content": [{"type": "reasoning_text", "text": "c"}]}).turns
    assert bare(turn.blocks) == [Thought("a\n\nb\n\nc")]


def test_members_know_the_field_they_came_from() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {}, "strict": True}
    prompt = read_prompt(
        asked(text={"format": form, "verbosity": "low"}, reasoning={"effort": "low", "summary": "auto"}, max_output_tokens=5),
        lossless(),
    )
    names = ("output", "verbosity", "reasoning", "max_tokens")
    assert [prompt.place(name) for name in names] == ["text.format", "text.verbosity", "reasoning", "max_output_tokens"]
    assert (prompt.output, prompt.verbosity) == (Output("schema", {}, "n", strict=True), "low")
    assert (prompt.reasoning, prompt.max_tokens) == (Reasoning("low", show=True), 5)


NO_LOSS = [
    {"store": True}, {"stream_options": {"include_obfuscation": False}}, {"include": ["reasoning.encrypted_content"]},
    {"truncation": "disabled"}, {"background": False}, {"previous_response_id": None}, {"text": {"format": {"type": "text"}}},
    {"parallel_tool_calls": True}, {"top_logprobs": 0}, {"service_tier": "auto"}, {"metadata": {}}, {"prompt": None},
]  # fmt: skip


@pytest.mark.parametrize("members", NO_LOSS)
def test_what_holds_anyway_is_no_loss(members: dict[str, Any]) -> None:
    assert bare(read_prompt(asked(**members), lossless())) == bare(read_prompt(asked(), lossless()))


def test_what_does_not_change_the_answer_is_a_hint() -> None:
    hints = {
        "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "x", "prompt_cache_retention": "24h",
        "prompt_cache_options": {"ttl": "30m"}, "truncation": "auto", "include": ["web_search_call.results"],
        "reasoning": {"context": "auto", "mode": "standard"},
    }  # fmt: skip
    places = (set(hints) - {"include", "reasoning"}) | {"include[0]", "reasoning.context", "reasoning.mode"}
    assert lost(lambda losses: read_prompt(asked(**hints), losses)) == (set(), places)


def test_what_changes_the_answer_is_refused() -> None:
    cannot = {
        "previous_response_id": "resp_1", "conversation": "conv_1", "background": True, "prompt": {"id": "p"}, "max_tool_calls": 5,
        "top_logprobs": 3, "moderation": {"model": "x"}, "hologram": 5, "tool_choice": {"type": "allowed_tools"},
        "include": ["message.output_text.logprobs", "?"], "text": {"hologram": 5}, "reasoning": {"mode": "pro"},
    }  # fmt: skip
    places = (set(cannot) - {"include", "text", "reasoning"}) | {"include[0]", "include[1]", "text.hologram", "reasoning.mode"}
    assert lost(lambda losses: read_prompt(asked(**cannot), losses)) == (places, set())


@pytest.mark.parametrize(
    ("items", "refused"),
    [
        ([{"type": "item_reference", "id": "x"}, {"id": "x"}], {"input[0]", "input[1]"}),
        ([{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "a"}], {"input[0]"}),
        ([{"type": "web_search_call", "id": "w"}, {"type": "compaction"}, {}], {"input[0]", "input[1]", "input[2]"}),
        ([item("user", {"type": "hologram"})], {"input[0].content[0]"}),
        ([item("system", {"type": "input_image", "image_url": "x"})], {"input[0].content[0]"}),
        ([{**OUTPUT, "output": [{"type": "refusal", "refusal": "a"}]}], {"input[0].output[0]"}),
    ],
)
def test_what_an_item_cannot_keep_is_told_by_its_place(items: list[Any], refused: set[str]) -> None:
    assert lost(lambda losses: read_prompt({"model": "m", "input": items}, losses)) == (refused, set())


def test_citations_of_earlier_turns_are_a_hint() -> None:
    said = item("assistant", {"type": "output_text", "text": "a", "annotations": [{"type": "url_citation"}]})
    assert lost(lambda losses: read_prompt(asked(input=[said]), losses)) == (set(), {"input[0].content[0].annotations"})


def test_only_functions_are_tools() -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    more = [{"type": "web_search"}, {"type": "custom", "name": "g"}, {"type": "mcp"}]
    found = lost(lambda losses: read_prompt(asked(tools=[function, *more]), losses))
    assert found == ({"tools[1]", "tools[2]", "tools[3]"}, set())
    prompt = reads(item("user", "a"), tools=[function], tool_choice={"type": "function", "name": "f"})
    assert prompt.tools == [Tool("f", None, {"type": "object"}, True, path="tools[0]")]
    assert prompt.tool_choice == ToolChoice("named", "f")


# Writing.


def turn(*blocks: Any, role: Any = "user") -> Prompt:
    return Prompt("m", turns=[Turn(role, list(blocks), path="t")])


def writes(prompt: Prompt) -> dict[str, Any]:
    return sent(write_prompt(prompt, lossless()))  # type: ignore[no-any-return]


def test_nothing_is_stored_and_a_model_that_reasons_is_asked_for_what_it_wants_back() -> None:
    body = writes(turn(Text("a")))
    assert (body["store"], "include" in body) == (False, False)
    assert writes(replace(turn(Text("a")), model="gpt-5-mini"))["include"] == ["reasoning.encrypted_content"]


def test_system_texts_are_paragraphs_of_the_instructions() -> None:
    assert writes(replace(turn(Text("a")), system=[Text("x"), Text("y")]))["instructions"] == "x\n\ny"


def test_a_tool_is_strict_only_where_it_was_said() -> None:
    body = writes(replace(turn(Text("a")), tools=[Tool("f"), Tool("g", strict=True)]))
    assert [(tool["strict"], tool["parameters"]) for tool in body["tools"]] == [(False, None), (True, None)]


def test_a_budget_is_an_effort_and_who_wants_to_see_reasoning_gets_a_summary() -> None:
    prompt = turn(Text("a"))
    assert writes(replace(prompt, reasoning=Reasoning(budget=4096)))["reasoning"] == {"effort": "medium"}
    assert writes(replace(prompt, reasoning=Reasoning(show=True)))["reasoning"] == {"summary": "auto"}
    assert "reasoning" not in writes(replace(prompt, reasoning=Reasoning(show=False)))


def test_a_tool_without_arguments_says_that_it_has_no_properties() -> None:
    """OpenAI refuses its schema else: "object schema missing properties"."""
    own = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = writes(replace(turn(Text("a")), tools=[Tool("f", parameters={"type": "object"}), Tool("g", parameters=own), Tool("h")]))
    assert [tool["parameters"] for tool in body["tools"]] == [{"type": "object", "properties": {}}, own, None]


def test_without_tools_nothing_is_said_of_how_to_call_them() -> None:
    prompt = replace(turn(Text("a")), parallel_tool_calls=False, tool_choice=ToolChoice("auto"))
    assert not writes(prompt).keys() & {"tool_choice", "parallel_tool_calls"}


def test_results_stand_before_what_the_user_says() -> None:
    kinds = [made["type"] for made in writes(turn(Text("and"), Result("c", []), Result("d", [Text("a"), Text("b")])))["input"]]
    assert kinds == ["function_call_output", "function_call_output", "message"]


def test_a_text_document_is_a_text() -> None:
    [made] = writes(turn(Media("document", text="a", name="T")))["input"]
    assert made["content"] == [{"type": "input_text", "text": "T\n\na"}]


def test_reasoning_that_only_the_provider_can_read_is_sent_back() -> None:
    [made] = writes(turn(Thought("", redacted=sealed("openai", "gAAAA")), role="assistant"))["input"]
    assert made == {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}


CACHE = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("prompt", "refused", "hinted"),
    [
        (replace(turn(Text("a")), stop=["x"], seed=5, top_k=5, n=2), {"stop", "seed", "top_k", "n"}, set()),
        (
            replace(turn(Text("a")), frequency_penalty=1, presence_penalty=1, places={"presence_penalty": "p"}),
            {"frequency_penalty", "p"},
            set(),
        ),
        (replace(turn(Text("a")), logprobs=True, top_logprobs=2), {"logprobs", "top_logprobs"}, set()),
        (replace(turn(Text("a")), n=1, frequency_penalty=0), set(), set()),
        (replace(turn(Text("a")), user="x" * 65, service_tier="standard_only"), set(), {"user", "service_tier"}),
        (replace(turn(Text("a")), tools=[Tool("f", cache=CACHE, path="tools[0]")]), set(), {"tools[0].cache_control"}),
        (replace(turn(Text("a")), system=[Text("s", CACHE, "system[0]")]), set(), {"system[0].cache_control"}),
        (
            turn(Text("a", CACHE, "p"), Result("c", [Text("b", CACHE, "r")], path="q")),
            set(),
            {"p.cache_control", "r.cache_control"},
        ),
        (Prompt("m", turns=[Turn("user", [Text("a")], "Ann", "t")]), set(), {"t.name"}),
        (turn(Media("audio", "audio/wav", "QQ==", path="p")), {"p"}, set()),
        (turn(Media("video", url="https://x", path="p")), {"p"}, set()),
        (turn(Media("image", url="https://x", path="p"), role="assistant"), {"p"}, set()),
        (turn(Result("c", [Media("audio", "audio/wav", "QQ==", path="p")])), {"p"}, set()),
        (turn(Result("c", [Text("a")], is_error=True, path="p")), set(), {"p.is_error"}),
        (turn(Thought("a", path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("anthropic", "s"), path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("openai", "reasoning_content"), path="p"), role="assistant"), set(), {"p"}),
        (turn(Thought("a", sealed("openai", '{"type":"reasoning.text"}'), path="p"), role="assistant"), set(), {"p"}),
        (turn(Call("c", "f", "{}", sealed("gemini", "s"), path="p"), role="assistant"), set(), {"p.signature"}),
        (turn(Text("a", signature="s", path="p"), role="assistant"), set(), {"p.signature"}),
    ],
)
def test_what_cannot_be_written_is_told_by_its_place(prompt: Prompt, refused: set[str], hinted: set[str]) -> None:
    assert lost(lambda losses: write_prompt(prompt, losses)) == (refused, hinted)

"""Requests of Messages crossing to other formats and back: what is carried, what is refused, what is left out and said so."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import InvalidRequest
from muxx.wire.anthropic import read_prompt, validate_messages, write_prompt
from muxx.wire.prompt import (
    Block,
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
from muxx.wire.seals import opened, sealed

OLD, NEW = "claude-sonnet-4-5-20250929", "claude-opus-4-7"
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
MARK = {"type": "ephemeral", "ttl": "1h"}


def read(**members: Any) -> tuple[Prompt, Losses]:
    losses = Losses("another")
    return read_prompt({"model": OLD, "max_tokens": 100, "messages": [USER], **members}, losses), losses


def refused(losses: Losses) -> list[str]:
    return list(losses._refused)


def prompt(*turns: Turn, **members: Any) -> Prompt:
    return Prompt(members.pop("model", OLD), turns=list(turns) or [Turn("user", [Text("Hi")])], **members)


def write(given_: Prompt, *, drop: bool = False) -> tuple[dict[str, Any], Losses]:
    losses = Losses("Anthropic", drop=drop)
    body = write_prompt(given_, losses)
    validate_messages({**body, "messages": body["messages"] or [USER]})
    json.dumps(body)
    return body, losses


def clean(given_: Prompt) -> dict[str, Any]:
    """The body of a prompt all of which can be said."""
    body, losses = write(given_)
    assert (refused(losses), losses.dropped) == ([], [])
    return body


# Read.


def test_a_request_of_everything_is_read_whole() -> None:
    got, losses = read(
        system=[{"type": "text", "text": "be brief", "cache_control": MARK}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image", "source": {"type": "url", "url": "https://x"}}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "hidden"},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}, "caller": {"type": "direct"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True}]},
        ],
        tools=[{"name": "look", "description": "Look.", "input_schema": {"type": "object"}, "strict": True, "cache_control": MARK}],
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"},
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stream=True,
        metadata={"user_id": "u"},
        service_tier="standard_only",
    )  # fmt: skip
    assert (refused(losses), losses.dropped) == ([], [])
    places = got.places
    assert got == Prompt(
        OLD,
        stream=True,
        system=[Text("be brief", MARK, "system[0]")],
        turns=[
            Turn(
                "user",
                [Text("Hi", path="messages[0].content[0]"), Media("image", url="https://x", path="messages[0].content[1]")],
                path="messages[0]",
            ),
            Turn(
                "assistant",
                [
                    Thought("hm", "sig", path="messages[1].content[0]"),
                    Thought("", redacted="hidden", path="messages[1].content[1]"),
                    Call("t1", "look", '{"a":1}', path="messages[1].content[2]"),
                ],
                path="messages[1]",
            ),
            Turn(
                "user",
                [Result("t1", [Text("no", path="messages[2].content[0].content")], True, path="messages[2].content[0]")],
                path="messages[2]",
            ),
        ],
        tools=[Tool("look", "Look.", {"type": "object"}, True, MARK, "tools[0]")],
        tool_choice=ToolChoice("named", "look"),
        parallel_tool_calls=False,
        output=Output("schema", {"type": "object"}),
        reasoning=Reasoning("low"),
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop=["x"],
        user="u",
        service_tier="default",
        places=places,
    )
    assert got.place("stop") == "stop_sequences"
    assert got.place("parallel_tool_calls") == "tool_choice.disable_parallel_tool_use"
    assert (got.place("output"), got.place("reasoning"), got.place("user")) == (
        "output_config.format", "output_config.effort", "metadata.user_id",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "media"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": "aGk="}, {"mime": "application/pdf", "data": "aGk="}),
        ({"type": "url", "url": "https://x/a.pdf"}, {"url": "https://x/a.pdf"}),
        ({"type": "file", "file_id": "file_1"}, {"file_id": "file_1"}),
        ({"type": "text", "media_type": "text/plain", "data": "words"}, {"mime": "text/plain", "text": "words"}),
        ({"type": "content", "content": "words"}, {"mime": "text/plain", "text": "words"}),
        ({"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"mime": "text/plain", "text": "a\n\nb"}),
    ],
)  # fmt: skip
def test_a_document_is_read_from_wherever_it_comes(source: dict[str, Any], media: dict[str, Any]) -> None:
    got, losses = read(messages=[{"role": "user", "content": [{"type": "document", "source": source, "title": "T"}]}])
    assert got.turns[0].blocks == [Media("document", name="T", path="messages[0].content[0]", **media)]
    assert not refused(losses)


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning(budget=2000, show=True)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}}, Reasoning(budget=2000, show=False)),
        ({"thinking": {"type": "adaptive"}}, Reasoning(show=True)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}}, Reasoning("high", show=True)),
        ({"thinking": {"type": "disabled"}}, Reasoning("none")),
        ({"output_config": {"effort": "xhigh"}}, Reasoning("xhigh")),
        ({"output_config": {"effort": None}, "thinking": None}, None),
    ],
)  # fmt: skip
def test_how_much_to_think_is_read(members: dict[str, Any], reasoning: Reasoning | None) -> None:
    got, losses = read(**members)
    assert (got.reasoning, refused(losses), losses.dropped) == (reasoning, [], [])


def test_the_form_of_an_answer_is_read_under_its_older_name_too() -> None:
    got, losses = read(output_format={"type": "json_schema", "schema": {"type": "object"}})
    assert (got.output, got.place("output"), refused(losses)) == (Output("schema", {"type": "object"}), "output_format", [])


def test_the_most_effort_of_all_is_the_most_that_others_know() -> None:
    got, losses = read(output_config={"effort": "max"})
    assert (got.reasoning, losses.dropped) == (Reasoning("xhigh"), ["output_config.effort"])


def test_instructions_before_all_turns_are_the_system_prompt_and_later_ones_a_turn() -> None:
    late = {"role": "system", "content": [{"type": "text", "text": "c"}]}
    got, _ = read(system="a", messages=[{"role": "system", "content": "b"}, USER, late])
    assert [text.text for text in got.system] == ["a", "b"]
    assert got.turns[1] == Turn("system", [Text("c", path="messages[2].content[0]")], path="messages[2]")


def in_user_turn(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://x"}}

UNSAYABLE: list[tuple[dict[str, Any], str]] = [
    ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"context_management": {}}, "context_management"),
    ({"inference_geo": "eu"}, "inference_geo"),
    ({"hologram": 1}, "hologram"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    ({"tools": [{"name": "f", "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [{"name": "f", "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
    ({"output_config": {"format": {"type": "regex"}}}, "output_config.format"),
    ({"output_config": {"hologram": 1}}, "output_config.hologram"),
    ({"thinking": {"type": "between_tools"}}, "thinking"),
    ({"messages": [USER, {"role": "assistant", "content": "I was"}]}, "messages[1]"),
    (in_user_turn({"type": "search_result", "source": "x", "title": "x", "content": []}), "messages[0].content[0]"),
    (in_user_turn({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}), "messages[0].content[0]"),
    (in_user_turn({"type": "web_search_tool_result", "tool_use_id": "x", "content": []}), "messages[0].content[0]"),
    (in_user_turn({"type": "container_upload", "file_id": "x"}), "messages[0].content[0]"),
    (in_user_turn({**DOCUMENT, "citations": {"enabled": True}}), "messages[0].content[0].citations"),
    (in_user_turn({**DOCUMENT, "context": "x"}), "messages[0].content[0].context"),
    (in_user_turn({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "x"}]}),
     "messages[0].content[0].content[0]"),
    ({"system": [{"type": "image", "source": {"type": "url", "url": "x"}}]}, "system[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "place"), UNSAYABLE, ids=[place for _, place in UNSAYABLE])
def test_what_nobody_else_has_is_refused_by_its_place(members: dict[str, Any], place: str) -> None:
    _, losses = read(**members)
    assert refused(losses) == [place]
    with pytest.raises(InvalidRequest) as caught:
        losses.check()
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", place)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"cache_control": MARK}, "cache_control"),
        ({"metadata": {"user_id": "u", "trace": "t"}}, "metadata.trace"),
        ({"speed": "fast"}, "speed"),
        ({"diagnostics": {"previous_message_id": "m"}}, "diagnostics"),
        (
            in_user_turn({"type": "text", "text": "a", "citations": [{"type": "char_location"}]}),
            "messages[0].content[0].citations",
        ),
    ],
)
def test_what_does_not_change_the_answer_is_left_out_and_said_so(members: dict[str, Any], place: str) -> None:
    _, losses = read(**members)
    assert (refused(losses), losses.dropped) == ([], [place])


def test_what_holds_anyway_is_no_loss() -> None:
    null = dict.fromkeys(
        ("container", "mcp_servers", "speed", "thinking", "output_config", "tool_choice", "metadata", "hologram")
    )
    _, losses = read(**{**null, "mcp_servers": [], "service_tier": "auto", "cache_control": None})
    assert (refused(losses), losses.dropped) == ([], [])
    tool = {"type": "custom", "name": "f", "allowed_callers": ["direct"], "input_schema": {}, "eager_input_streaming": True}
    got, losses = read(**in_user_turn({**DOCUMENT, "citations": {"enabled": False}}), tools=[tool])
    assert (refused(losses), losses.dropped, len(got.tools)) == ([], [], 1)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"model": 3}, "model"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        (in_user_turn({"type": "text"}), "messages[0].content[0].text"),
        (in_user_turn({"type": "image", "source": {"type": "text", "data": ""}}), "messages[0].content[0].source.type"),
        (in_user_turn({"type": "tool_use", "id": "t", "name": "f", "input": "x"}), "messages[0].content[0].input"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"stop_sequences": [3]}, "stop_sequences[0]"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": "high"}, "output_config"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_member_of_another_type_than_its_own_is_named(members: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**members)
    assert (caught.value.code, caught.value.param) == ("invalid_type", place)


# Written.


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-3-opus-20240229", 4096),
        ("claude-3-haiku-20240307", 4096),
        ("claude-3-5-sonnet-latest", 8192),
        (OLD, 8192),
        ("x", 8192),
    ],
)
def test_the_most_of_tokens_is_made_up_where_the_caller_gave_none(model: str, most: int) -> None:
    assert clean(prompt(model=model)) == {"model": model, "max_tokens": most, "messages": [USER]}
    assert clean(prompt(model=model, max_tokens=7))["max_tokens"] == 7


def test_turns_of_one_role_become_one_and_results_stand_first() -> None:
    body = clean(
        prompt(
            Turn("user", [Text("a")]),
            Turn("user", [Text("b")]),
            Turn("assistant", [Call("c1", "f", "{}")]),
            Turn("assistant", [Call("c2", "f", "")]),
            Turn("user", [Result("c1", [Text("1")]), Text("and?")]),
            Turn("user", [Result("c2", [])]),
        )
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
                {"type": "tool_use", "id": "c2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                {"type": "tool_result", "tool_use_id": "c2"},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_a_text_without_a_word_is_left_out() -> None:
    body = clean(
        prompt(
            Turn("user", [Text(" \n"), Text("a")]), Turn("assistant", [Text("")]), Turn("user", [Text("b")]), system=[Text("")]
        )
    )
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert "system" not in body


def test_the_ids_of_calls_are_such_as_anthropic_takes_and_the_same_for_a_result() -> None:
    ids = ["call.1", "call:1", "call_1", "", "ok-1"]
    calls, results = [Call(one, "f", "{}") for one in ids], [Result(one, [Text("r")]) for one in ids]
    body = clean(prompt(Turn("user", [Text("a")]), Turn("assistant", [*calls]), Turn("user", [*results])))
    made = [block["id"] for block in body["messages"][1]["content"]]
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == made
    assert len(set(made)) == len(made)
    assert all(one and set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for one in made)
    assert made[-1] == "ok-1"


def test_arguments_that_are_no_object_cannot_be_sent() -> None:
    for arguments in ("[1]", "{", "nothing"):
        body, losses = write(prompt(Turn("user", [Text("a")]), Turn("assistant", [Call("c", "f", arguments, path="here")])))
        assert refused(losses) == ["here"]
        assert body["messages"][1]["content"][0]["input"] == {}


def test_instructions_between_turns_are_refused_or_moved_to_the_others() -> None:
    given_ = prompt(
        Turn("user", [Text("a")]),
        Turn("system", [Text("late")], path="messages[1]"),
        Turn("user", [Text("b")]),
        system=[Text("early")],
    )
    assert refused(write(given_)[1]) == ["messages[1]"]
    body, losses = write(given_, drop=True)
    losses.check()
    assert body["system"] == [{"type": "text", "text": "early"}, {"type": "text", "text": "late"}]
    assert (len(body["messages"]), losses.dropped) == (1, ["messages[1]"])


MEDIA: list[tuple[Media, dict[str, Any] | None]] = [
    (Media("image", "image/png", "aGk="), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}),
    (Media("image", "image/jpg", "aGk="), {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "aGk="}}),
    (Media("image", url="https://x"), {"type": "image", "source": {"type": "url", "url": "https://x"}}),
    (Media("image", file_id="file_1"), {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
    (Media("document", "application/pdf", "aGk=", name="T", cache=MARK),
     {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}, "title": "T",
      "cache_control": MARK}),
    (Media("document", text="hi"), {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}),
    (Media("document", "text/markdown", b64encode(b"# hi").decode()),
     {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "# hi"}}),
    (Media("image", "image/svg+xml", "aGk="), None),
    (Media("image", None, "aGk="), None),
    (Media("image", file_id="file-openai"), None),
    (Media("document", "application/msword", "aGk="), None),
    (Media("document", "text/plain", "no base64!"), None),
    (Media("audio", "audio/wav", "aGk="), None),
    (Media("video", url="https://x"), None),
]  # fmt: skip


@pytest.mark.parametrize(("media", "written"), MEDIA)
def test_media_are_written_or_refused(media: Media, written: dict[str, Any] | None) -> None:
    body, losses = write(prompt(Turn("user", [Text("a"), replace(media, path="there")])))
    content = body["messages"][0]["content"]
    if written is None:
        assert (content, refused(losses)) == ("a", ["there"])
    else:
        assert (content[1:], refused(losses)) == ([written], [])


def test_a_refusal_of_an_earlier_turn_is_text() -> None:
    body = clean(prompt(Turn("user", [Text("a")]), Turn("assistant", [Refusal("no")]), Turn("user", [Text("b")])))
    assert body["messages"][1] == {"role": "assistant", "content": "no"}


def test_only_claudes_own_thoughts_are_given_back() -> None:
    blocks: list[Block] = [
        Thought("mine", sealed("anthropic", "sig")),
        Thought("", sealed("anthropic", "redacted:data")),
        Thought("another's", sealed("gemini", "sig"), path="a"),
        Thought("nobody's", path="b"),
        Thought("unsealed", "sig", path="c"),
        Call("t", "f", "{}", signature=sealed("gemini", "s"), path="d"),
        Text("said", signature="s", path="e"),
    ]
    body, losses = write(prompt(Turn("user", [Text("a")]), Turn("assistant", blocks)))
    assert body["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "mine", "signature": "sig"},
        {"type": "redacted_thinking", "data": "data"},
    ]
    assert len(body["messages"][1]["content"]) == 4
    assert (refused(losses), losses.dropped) == ([], ["a", "b", "c", "d.signature", "e.signature"])


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("named", "f"), False, {"type": "tool", "name": "f", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("auto"), None, {"type": "auto"}),
    ],
)
def test_the_choice_of_tools_is_written(choice: ToolChoice | None, parallel: bool | None, written: Any) -> None:
    body = clean(prompt(tools=[Tool("f")], tool_choice=choice, parallel_tool_calls=parallel))
    assert body.get("tool_choice") == written
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert "tool_choice" not in write(prompt(tool_choice=choice, parallel_tool_calls=parallel))[0]


def test_a_schema_is_written_closed_and_json_without_one_refused() -> None:
    schema = {
        "type": "object",
        "properties": {
            "default": {"type": "object", "properties": {}},
            "open": {"type": "object", "additionalProperties": True},
            "list": {"type": "array", "items": {"anyOf": [{"type": "object"}, {"enum": [{"type": "object"}]}]}},
        },
        "required": ["default"],
    }
    body = clean(prompt(output=Output("schema", schema, name="n", description="D", strict=True)))
    assert body["output_config"]["format"]["schema"] == {
        "description": "D",
        "type": "object",
        "properties": {
            "default": {"type": "object", "properties": {}, "additionalProperties": False},
            "open": {"type": "object", "additionalProperties": True},
            "list": {
                "type": "array",
                "items": {"anyOf": [{"type": "object", "additionalProperties": False}, {"enum": [{"type": "object"}]}]},
            },
        },
        "required": ["default"],
        "additionalProperties": False,
    }
    assert "additionalProperties" not in schema
    body, losses = write(prompt(output=Output("json"), places={"output": "response_format"}))
    assert (refused(losses), "output_config" in body) == (["response_format"], False)


@pytest.mark.parametrize(
    ("member", "value", "loss"),
    [
        ("temperature", 1.5, True), ("temperature", 1, False), ("n", 2, True), ("n", 1, False), ("seed", 7, True),
        ("frequency_penalty", 0.5, True), ("frequency_penalty", 0, False), ("presence_penalty", -1, True), ("logprobs", True, True),
        ("logprobs", False, False), ("top_logprobs", 3, True), ("verbosity", "low", True), ("verbosity", "medium", False),
        ("stop", ["\n"], True), ("top_p", 0.5, False), ("top_k", 5, False),
    ],
)  # fmt: skip
def test_what_anthropic_cannot_be_told_is_refused_by_the_callers_name(member: str, value: Any, loss: bool) -> None:
    body, losses = write(prompt(**{member: value}, places={member: "theirs"}))
    assert refused(losses) == (["theirs"] if loss else [])
    assert not loss or member not in body


def test_of_stop_sequences_those_are_written_that_can_be() -> None:
    body, losses = write(prompt(stop=["END", " "]), drop=True)
    assert (body["stop_sequences"], losses.dropped) == (["END"], ["stop"])


def test_a_default_beside_another_way_of_sampling_is_left_out() -> None:
    body = clean(prompt(temperature=0.5, top_p=1.0))
    assert (body["temperature"], "top_p" in body) == (0.5, False)


@pytest.mark.parametrize("member", ["temperature", "top_p", "top_k"])
def test_models_that_decide_themselves_take_no_sampling_parameters(member: str) -> None:
    assert refused(write(prompt(model=NEW, **{member: 0.9 if member != "top_k" else 1}))[1]) == [member]
    if member != "top_k":
        clean(prompt(model=NEW, **{member: 1}))


def test_members_that_do_not_change_the_answer_are_carried_or_left_out() -> None:
    body = clean(prompt(user="u", service_tier="default"))
    assert (body["metadata"], body["service_tier"]) == ({"user_id": "u"}, "standard_only")
    body, losses = write(prompt(service_tier="flex"))
    assert ("service_tier" in body, refused(losses), losses.dropped) == (False, [], ["service_tier"])
    assert write(prompt(Turn("user", [Text("a")], name="Ann", path="messages[0]")))[1].dropped == ["messages[0].name"]
    assert write(prompt(Turn("user", [Media("image", url="x", detail="low", path="i")])))[1].dropped == ["i.detail"]


def test_a_prompt_without_turns_cannot_be_sent() -> None:
    assert refused(write(Prompt(OLD, system=[Text("a")]))[1]) == ["messages"]


# Thinking.


@pytest.mark.parametrize(
    ("reasoning", "thinking", "most"),
    [
        (Reasoning("minimal"), {"type": "enabled", "budget_tokens": 1024}, 9216),
        (Reasoning("low"), {"type": "enabled", "budget_tokens": 1024}, 9216),
        (Reasoning("medium"), {"type": "enabled", "budget_tokens": 4096}, 12288),
        (Reasoning("high"), {"type": "enabled", "budget_tokens": 16384}, 24576),
        (Reasoning("xhigh"), {"type": "enabled", "budget_tokens": 24576}, 32000),
        (Reasoning(budget=60000), {"type": "enabled", "budget_tokens": 60000}, 61024),
        (Reasoning("high", budget=2000), {"type": "enabled", "budget_tokens": 2000}, 10192),
        (Reasoning(show=True), {"type": "enabled", "budget_tokens": 4096}, 12288),
        (Reasoning("low", show=False), {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, 9216),
        (Reasoning("none"), {"type": "disabled"}, 8192),
        (Reasoning(budget=0), {"type": "disabled"}, 8192),
    ],
)
def test_an_effort_is_a_budget_and_leaves_room_for_the_answer(reasoning: Reasoning, thinking: Any, most: int) -> None:
    body = clean(prompt(reasoning=reasoning))
    assert (body["thinking"], body["max_tokens"]) == (thinking, most)
    assert thinking.get("budget_tokens", 0) < most


@pytest.mark.parametrize(
    ("reasoning", "thinking", "effort"),
    [
        (Reasoning("minimal"), {"type": "adaptive"}, "low"),
        (Reasoning("xhigh", show=True), {"type": "adaptive", "display": "summarized"}, "xhigh"),
        (Reasoning(show=False), {"type": "adaptive", "display": "omitted"}, None),
        (Reasoning("none"), {"type": "disabled"}, None),
    ],
)
def test_models_that_decide_themselves_are_told_the_effort(reasoning: Reasoning, thinking: Any, effort: str | None) -> None:
    body = clean(prompt(model=NEW, reasoning=reasoning))
    assert (body["thinking"], body.get("output_config", {}).get("effort")) == (thinking, effort)


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(1, "low"), (1024, "low"), (4095, "low"), (4096, "medium"), (16384, "high"), (24575, "high"), (24576, "xhigh")],
)
def test_a_budget_becomes_the_effort_it_stands_for_and_that_is_said(budget: int, effort: str) -> None:
    body, losses = write(prompt(model=NEW, reasoning=Reasoning(budget=budget)))
    assert (body["output_config"], losses.dropped, refused(losses)) == ({"effort": effort}, ["reasoning"], [])


@pytest.mark.parametrize(
    ("model", "adaptive"),
    [("claude-opus-4-7", True), ("claude-opus-4.8", True), ("claude-sonnet-5", True), ("claude-haiku-5-5-20260801", True),
     ("us.anthropic.claude-opus-4-7-v1:0", True), ("anthropic/claude-opus-5", True), ("claude-opus-4-6", False),
     ("claude-sonnet-4-20250514", False), ("claude-opus-4-1-20250805", False), ("claude-3-7-sonnet-20250219", False),
     ("claude-instant-1.2", False), ("kimi-k2", False), ("gpt-5", False)],
)  # fmt: skip
def test_which_models_decide_themselves_their_names_say(model: str, adaptive: bool) -> None:
    assert (clean(prompt(model=model, reasoning=Reasoning("low")))["thinking"]["type"] == "adaptive") is adaptive


def test_a_budget_stays_below_the_most_of_tokens() -> None:
    assert clean(prompt(max_tokens=2000, reasoning=Reasoning("high")))["thinking"]["budget_tokens"] == 1999
    body, losses = write(prompt(max_tokens=1024, reasoning=Reasoning("low"), places={"reasoning": "reasoning_effort"}))
    assert ("thinking" in body, refused(losses)) == (False, ["reasoning_effort"])
    body, losses = write(prompt(reasoning=Reasoning(budget=500)), drop=True)
    assert (body["thinking"]["budget_tokens"], losses.dropped) == (1024, ["reasoning"])


@pytest.mark.parametrize("model", [OLD, NEW])
@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "f")])
def test_nobody_thinks_before_a_forced_call(model: str, choice: ToolChoice) -> None:
    body, losses = write(prompt(model=model, reasoning=Reasoning("low"), tools=[Tool("f")], tool_choice=choice))
    assert ("thinking" in body, refused(losses)) == (False, ["reasoning"])
    clean(prompt(model=model, reasoning=Reasoning("none"), tools=[Tool("f")], tool_choice=choice))


def test_where_claude_thinks_it_takes_few_sampling_parameters() -> None:
    thinks = Reasoning("low")
    assert refused(write(prompt(reasoning=thinks, temperature=0.5, top_k=3, top_p=0.5))[1]) == ["temperature", "top_p", "top_k"]
    assert clean(prompt(reasoning=thinks, top_p=0.95))["top_p"] == 0.95


def test_claude_does_not_begin_to_think_where_it_called_tools_without() -> None:
    def going_on(*blocks: Block) -> Prompt:
        turns = (Turn("user", [Text("a")]), Turn("assistant", [*blocks, Call("c", "f", "{}")]), Turn("user", [Result("c", [])]))
        return prompt(*turns, tools=[Tool("f")], reasoning=Reasoning("low"))

    body, losses = write(going_on(Text("b")))
    assert ("thinking" in body, refused(losses), losses.dropped) == (False, [], ["reasoning"])
    assert "thinking" in clean(going_on(Thought("hm", sealed("anthropic", "sig"))))
    assert "thinking" in clean(replace(going_on(), model=NEW))
    later = going_on(Text("b"))
    later.turns.append(Turn("assistant", [Text("c")]))
    later.turns.append(Turn("user", [Text("d")]))
    assert "thinking" in clean(later)


# There and back.

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
ids = st.text("abcAB01_-", min_size=1, max_size=6)
marks = st.sampled_from([None, {"type": "ephemeral"}, MARK])
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, values, max_size=3)
texts = st.builds(Text, words, marks)
media = st.one_of(
    st.builds(lambda mime, mark: Media("image", mime, "aGk=", cache=mark), st.sampled_from(["image/png", "image/webp"]), marks),
    st.builds(lambda url: Media("image", url=url), words),
    st.builds(lambda name: Media("document", "application/pdf", "aGk=", name=name), st.none() | words),
    st.builds(lambda text, mark: Media("document", "text/plain", text=text, cache=mark), words, marks),
    st.builds(
        lambda kind, number: Media(kind, file_id=f"file_{number}"), st.sampled_from(["image", "document"]), st.integers(0, 9)
    ),
)
calls = st.builds(lambda id_, name, value, mark: Call(id_, name, json.dumps(value), cache=mark), ids, words, objects, marks)
results = st.builds(Result, ids, st.lists(texts | media, max_size=3), st.booleans(), st.none(), marks)
thoughts = st.one_of(
    st.builds(
        lambda text, mark: Thought(text, sealed("anthropic", mark)), words, words.filter(lambda mark: "redacted:" not in mark)
    ),
    st.builds(lambda data: Thought("", sealed("anthropic", f"redacted:{data}")), words),
)
users = st.builds(
    lambda first, rest: Turn("user", [*first, *rest]), st.lists(results, max_size=2), st.lists(texts | media, min_size=1)
)
assistants = st.builds(Turn, st.just("assistant"), st.lists(st.one_of(thoughts, texts, calls), min_size=1, max_size=4))
tools = st.builds(
    Tool, words, st.none() | words, objects.map(lambda more: {"type": "object", **{f"x-{name}": value for name, value in more.items()}}),
    st.sampled_from([None, True, False]), marks,
)  # fmt: skip


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Prompts that this format can say."""
    model = draw(st.sampled_from([OLD, NEW, "claude-3-opus", "kimi"]))
    turns = [draw(users)]
    for _ in range(draw(st.integers(0, 2))):
        turns += [draw(assistants), draw(users)]
    given_ = Prompt(
        model, draw(st.booleans()), draw(st.lists(texts, max_size=2)), turns, max_tokens=draw(st.integers(5000, 9000))
    )
    given_.tools = draw(st.lists(tools, max_size=2))
    if given_.tools:
        given_.tool_choice = draw(st.none() | st.builds(ToolChoice, st.sampled_from(["auto", "none", "required"])))
        if given_.tool_choice is not None and given_.tool_choice.mode != "none":
            given_.parallel_tool_calls = draw(st.sampled_from([None, False]))
    if draw(st.booleans()):
        closed = {"type": "object", "additionalProperties": False}
        given_.output = Output("schema", {**closed, "properties": dict.fromkeys(draw(st.lists(words, max_size=2)), closed)})
    forced = given_.tool_choice is not None and given_.tool_choice.mode == "required"
    returns = any(isinstance(block, Result) for block in turns[-1].blocks)
    if not forced and not returns:
        by_effort = st.builds(Reasoning, st.sampled_from(["low", "medium", "high", "xhigh"]), st.none(), st.booleans())
        by_budget = st.builds(Reasoning, st.none(), st.integers(1024, 4999), st.booleans())
        given_.reasoning = draw(st.none() | st.just(Reasoning("none")) | (by_effort if model == NEW else by_budget))
    if model != NEW and given_.reasoning in (None, Reasoning("none")):
        given_.temperature = draw(st.none() | st.floats(0, 0.99))
        given_.top_p = draw(st.none() | st.floats(0, 0.99))
        given_.top_k = draw(st.none() | st.integers(1, 99))
    given_.stop = draw(st.lists(words, max_size=2))
    given_.user, given_.service_tier = draw(st.none() | words), draw(st.sampled_from([None, "default"]))
    return given_


def settled(given_: Prompt) -> Prompt:
    """A prompt as it is to compare: without places in requests, signatures opened, arguments as values."""

    def plain(block: Any) -> Any:
        if isinstance(block, Thought):
            signature = opened("anthropic", block.signature) or block.signature or f"redacted:{block.redacted}"
            return Thought(block.text, signature)
        if isinstance(block, Call):
            return replace(block, arguments=json.loads(block.arguments), path="")
        if isinstance(block, Result):
            return replace(block, content=[plain(inner) for inner in block.content], path="")
        return replace(block, path="")

    return replace(
        given_,
        system=[plain(text) for text in given_.system],
        turns=[replace(turn, blocks=[plain(block) for block in turn.blocks], path="") for turn in given_.turns],
        tools=[replace(tool, path="") for tool in given_.tools],
        stop=list(given_.stop),
        places={},
    )


@settings(max_examples=examples(200), deadline=None)
@given(prompts())
def test_a_prompt_this_format_can_say_comes_back_as_it_was(given_: Prompt) -> None:
    body = clean(given_)
    losses = Losses("another")
    assert settled(read_prompt(json.loads(json.dumps(body)), losses)) == settled(given_)
    assert (refused(losses), losses.dropped) == ([], [])


@settings(max_examples=examples(150), deadline=None)
@given(prompts())
def test_what_is_written_a_second_time_is_the_same(given_: Prompt) -> None:
    """But for thoughts, whose signatures come sealed from other formats only."""
    given_.turns = [turn for turn in given_.turns if turn.role == "user"]
    body = clean(given_)
    assert write_prompt(read_prompt(body, Losses("x")), Losses("x")) == body

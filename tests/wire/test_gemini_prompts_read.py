"""Requests of Google's format as prompts: both spellings, single objects, its own schemas; and what no other format can say."""

from __future__ import annotations

import json
import random
from base64 import b64encode, urlsafe_b64encode
from contextlib import suppress
from typing import Any

import pytest

from muxx.errors import InvalidRequest
from muxx.wire import anthropic, openai, responses
from muxx.wire.gemini import input_bytes, read_prompt, request_parts, validate_generate, write_prompt
from muxx.wire.prompt import Call, Losses, Media, Output, Reasoning, Result, Text, Thought, ToolChoice, Turn
from muxx.wire.seals import sealed

from .gemini_kit import damaged
from .gemini_prompts_kit import USER, bare, read, refused


def test_where_each_member_came_from_is_kept() -> None:
    prompt, _ = read(
        system_instruction={"parts": [{"text": "s"}]},
        generation_config={"maxOutputTokens": 5, "top_k": 3.0, "responseLogprobs": True, "logprobs": 2},
        toolConfig={"functionCallingConfig": {"mode": "any", "allowedFunctionNames": ["f"]}},
    )
    assert prompt.system == [Text("s", path="system_instruction.parts[0]")]
    assert (prompt.max_tokens, prompt.top_k, prompt.logprobs, prompt.top_logprobs) == (5, 3, True, 2)
    assert type(prompt.top_k) is int
    assert prompt.tool_choice == ToolChoice("named", "f")
    assert prompt.places == {
        "max_tokens": "generation_config.maxOutputTokens",
        "top_k": "generation_config.top_k",
        "logprobs": "generation_config.responseLogprobs",
        "top_logprobs": "generation_config.logprobs",
        "tool_choice": "toolConfig.functionCallingConfig",
        "messages": "contents",
    }
    assert prompt.turns[0].blocks == [Text("hi", path="contents[0].parts[0]")]


def test_a_number_that_json_could_not_hold_is_left_as_it_came() -> None:
    """As a number it could not be written for another provider, and muxx would seem to be to blame."""
    prompt, _ = read(generationConfig={"topK": 1e300})
    assert type(prompt.top_k) is float
    for digits, kept in (("9" * 18, int("9" * 18)), ("9" * 19, "9" * 19), ("9" * 5000, "9" * 5000)):
        schema = {"type": "ARRAY", "minItems": digits}
        prompt, _ = read(generationConfig={"responseMimeType": "application/json", "responseSchema": schema})
        assert prompt.output is not None
        assert prompt.output.schema == {"type": "array", "minItems": kept}


def test_single_objects_stand_for_arrays_of_one() -> None:
    prompt, _ = read(contents={"parts": {"text": "hi"}}, systemInstruction={"parts": {"text": "s"}})
    assert prompt.turns == [Turn("user", [Text("hi", path="contents.parts")], path="contents")]
    assert prompt.system[0].text == "s"
    assert read(systemInstruction="plain")[0].system[0].text == "plain"


def test_contents_of_one_role_are_one_turn() -> None:
    call = {"functionCall": {"name": "f", "args": {}}}
    contents = [USER, {"role": "model", "parts": [{"text": "a"}]}, {"role": "model", "parts": [call]}, USER]
    prompt, _ = read(contents=contents)
    assert [(turn.role, len(turn.blocks)) for turn in prompt.turns] == [("user", 1), ("assistant", 2), ("user", 1)]


def test_the_pieces_of_a_streamed_thought_are_one_with_the_signature_that_ends_it() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "let ", "thought": True},
        {"text": "me", "thought": True},
        {"text": "", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "another", "thought": True, "thoughtSignature": "b25l"},
        {"thought": True, "thoughtSignature": "YmFyZQ=="},
        {"text": "answer", "thoughtSignature": "dA"},
    ]
    contents = [USER, *({"role": "model", "parts": [part]} for part in parts)]
    [_, turn] = read(contents=contents)[0].turns
    assert [bare(block)[1] for block in turn.blocks] == [
        {"text": "let me", "signature": "c2ln", "redacted": None},
        {"text": "another", "signature": "b25l", "redacted": None},
        {"text": "", "signature": "YmFyZQ==", "redacted": None},
        {"text": "answer", "cache": None, "signature": "dA=="},
    ]


def test_the_pieces_of_a_streamed_text_are_one_to_the_blanks_and_nothing_is_none() -> None:
    """Each by itself, blanks would be left out on the way to Anthropic, and OpenAI would get a message for each."""
    parts: list[dict[str, Any]] = [
        {"text": "One"},
        {"text": "\n\n"},
        {"text": "two"},
        {"text": "", "thoughtSignature": "c2ln"},
        {"text": "three"},
        {"functionCall": {"name": "f", "args": {}}},
        {"text": ""},
    ]
    contents = [USER, *({"role": "model", "parts": [part]} for part in parts), {"parts": [{"text": "a"}, {"text": "b"}]}]
    [_, said, asked] = read(contents=contents)[0].turns
    assert said.blocks[:2] == [
        Text("One\n\ntwo", path="contents[1].parts[0]", signature="c2ln"),
        Text("three", path="contents[5].parts[0]"),
    ]
    assert [type(block) for block in said.blocks[2:]] == [Call]
    assert [block.text for block in asked.blocks if isinstance(block, Text)] == ["a", "b"]


def test_base64_of_googles_python_sdk_is_brought_to_the_usual_one() -> None:
    data = bytes(range(250, 256)) * 3 + b"x"
    parts = [{"inline_data": {"mime_type": "image/png", "data": urlsafe_b64encode(data).decode().rstrip("=")}}]
    [block] = read(contents=[{"parts": parts}])[0].turns[0].blocks
    assert bare(block) == bare(Media("image", "image/png", data=b64encode(data).decode()))


def test_a_signature_comes_back_from_googles_python_sdk_as_it_was_sealed() -> None:
    from google.genai import types

    signature = sealed("anthropic", "sig?>~" * 5)
    part = types.Part.model_validate({"text": "hm", "thought": True, "thoughtSignature": signature})
    sent = json.loads(part.model_dump_json(exclude_none=True, by_alias=True))
    [block] = read(contents=[{"role": "model", "parts": [sent]}])[0].turns[0].blocks
    assert isinstance(block, Thought)
    assert block.signature == signature


def test_calls_and_results_without_ids_find_one_another_by_name_and_order() -> None:
    contents = [
        {"role": "model", "parts": [{"functionCall": {"name": name, "args": {"n": at}}} for at, name in enumerate("aba")]},
        {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {"output": name}}} for name in "aab"]},
        {"role": "model", "parts": [{"functionCall": {"name": "a"}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "a", "response": {"x": 1}}}]},
    ]
    prompt, losses = read(contents=contents)
    calls = [block for turn in prompt.turns for block in turn.blocks if isinstance(block, Call)]
    results = [block for turn in prompt.turns for block in turn.blocks if isinstance(block, Result)]
    assert len({call.id for call in calls}) == 4
    assert [result.id for result in results] == [calls[0].id, calls[2].id, calls[1].id, calls[3].id]
    assert [call.arguments for call in calls] == ['{"n":0}', '{"n":1}', '{"n":2}', "{}"]
    assert [[text.text for text in result.content if isinstance(text, Text)] for result in results][-1] == ['{"x":1}']
    assert refused(losses) is None


@pytest.mark.parametrize(
    ("response", "text", "is_error"),
    [
        ({"output": "x"}, "x", False),
        ({"error": "x"}, "x", True),
        ({"error": {"code": 1}}, '{"error":{"code":1}}', True),
        ({"result": "x"}, '{"result":"x"}', False),
        ({"output": "x", "more": 1}, '{"output":"x","more":1}', False),
        ({}, "{}", False),
        (None, "", False),
    ],
)
def test_what_a_function_returned_is_text(response: Any, text: str, is_error: bool) -> None:
    parts = [{"functionResponse": {"name": "f", "id": "c1", "response": response}}]
    [block] = read(contents=[{"parts": parts}])[0].turns[0].blocks
    assert isinstance(block, Result)
    assert "".join(entry.text for entry in block.content if isinstance(entry, Text)) == text
    assert block.is_error is is_error


def test_googles_schemas_become_json_schemas() -> None:
    parameters = {
        "type": "OBJECT",
        "properties": {
            "city": {"type": "STRING", "nullable": True, "enum": ["Graz"], "example": "Graz", "maxLength": "9"},
            "days": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"}, "min_items": 1},
            "any": {"any_of": [{"type": "NUMBER"}], "nullable": True},
            "type": {"type": "TYPE_UNSPECIFIED", "title": "T"},
        },
        "required": ["city"],
        "propertyOrdering": ["city", "days"],
    }
    prompt, losses = read(tools=[{"functionDeclarations": [{"name": "f", "parameters": parameters}]}])
    assert prompt.tools[0].parameters == {
        "type": "object",
        "properties": {
            "city": {"type": ["string", "null"], "enum": ["Graz", None], "examples": ["Graz"], "maxLength": 9},
            "days": {"type": "array", "items": {"type": "integer", "format": "int32"}, "minItems": 1},
            "any": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "type": {"title": "T"},
        },
        "required": ["city"],
    }
    assert refused(losses) is None
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "STRING", "enum": ["a"]}}
    assert read(generationConfig=config)[0].output == Output("schema", {"type": "string", "enum": ["a"]})


@pytest.mark.parametrize(
    ("config", "output"),
    [
        ({"responseMimeType": "text/plain"}, None),
        ({"responseMimeType": "application/json"}, Output("json")),
        ({"responseJsonSchema": {"type": "object"}}, Output("schema", {"type": "object"})),
        ({"responseMimeType": "application/json", "response_json_schema": {"type": "x"}}, Output("schema", {"type": "x"})),
    ],
)
def test_the_form_of_an_answer_is_told_by_several_members(config: dict[str, Any], output: Output | None) -> None:
    prompt, losses = read(generationConfig=config)
    assert prompt.output == output
    assert refused(losses) is None


@pytest.mark.parametrize(
    ("config", "reasoning"),
    [
        ({"thinkingBudget": -1}, None),
        ({"thinkingBudget": 0}, Reasoning("none")),
        ({"thinkingBudget": 99, "includeThoughts": True}, Reasoning(budget=99, show=True)),
        ({"thinkingLevel": "HIGH"}, Reasoning("high")),
        ({"thinking_level": "low", "include_thoughts": False}, Reasoning("low", show=False)),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, None),
    ],
)
def test_how_much_to_think_is_an_effort_or_a_budget(config: dict[str, Any], reasoning: Reasoning | None) -> None:
    assert read(generationConfig={"thinkingConfig": config})[0].reasoning == reasoning


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"safetySettings": [{"category": "X"}]}, "safetySettings"),
        ({"cached_content": "cachedContents/1"}, "cached_content"),
        ({"somethingNew": 1}, "somethingNew"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"functionDeclarations": []}, {"code_execution": {}}]}, "tools[1].code_execution"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "behavior": "NON_BLOCKING"}]}]},
            "tools[0].functionDeclarations[0].behavior",
        ),
        ({"toolConfig": {"retrievalConfig": {}}}, "toolConfig.retrievalConfig"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}}, "toolConfig.functionCallingConfig.mode"),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"speechConfig": {"voice": 1}}}, "generationConfig.speechConfig"),
        ({"generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}}, "generationConfig.mediaResolution"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"generation_config": {"audio_timestamp": True}}, "generation_config.audio_timestamp"),
        ({"generationConfig": {"thinkingConfig": {"mood": 1}}}, "generationConfig.thinkingConfig.mood"),
        ({"systemInstruction": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}}, "systemInstruction.parts[0]"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents[0].parts[0].executableCode"),
        ({"contents": [{"parts": [{"text": "a", "videoMetadata": {}}]}]}, "contents[0].parts[0].videoMetadata"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://bucket/x"}}]}]}, "contents[0].parts[0]"),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}}]}]},
            "contents[0].parts[0]",
        ),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "https://www.youtube.com/watch?v=x"}}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"functionResponse": {"name": "never_called"}}]}]}, "contents[0].parts[0]"),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "id": "1", "willContinue": True}}]}]},
            "contents[0].parts[0].functionResponse.willContinue",
        ),
    ],
)
def test_what_no_other_format_can_say_is_told_by_its_place(more: dict[str, Any], place: str) -> None:
    assert refused(read(**more)[1]) == place


@pytest.mark.parametrize(
    ("more", "dropped"),
    [
        ({"labels": {"team": "x"}}, ["labels"]),
        ({"store": False}, ["store"]),
        ({"serviceTier": "turbo"}, ["serviceTier"]),
        (
            {"tools": [{"function_declarations": [{"name": "f", "response": {"type": "STRING"}}]}]},
            ["tools[0].function_declarations[0].response"],
        ),
        ({"safetySettings": [], "cachedContent": None, "labels": None, "serviceTier": "SERVICE_TIER_UNSPECIFIED"}, []),
        ({"generationConfig": {"responseModalities": ["TEXT"], "speechConfig": None, "responseLogprobs": False}}, []),
        ({"contents": [{"parts": [{"text": "a", "partMetadata": {"x": 1}}]}]}, []),
    ],
)
def test_what_changes_no_answer_is_no_reason_to_refuse(more: dict[str, Any], dropped: list[str]) -> None:
    _, losses = read(**more)
    assert refused(losses) is None
    assert losses.dropped == dropped


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"contents": ["hi"]}, "contents[0]"),
        ({"contents": [{"role": "narrator", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": ["hi"]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall.name"),
        ({"systemInstruction": 5}, "systemInstruction"),
        ({"generationConfig": {"topP": "0.5"}}, "generationConfig.topP"),
        ({"generationConfig": {"logprobs": True}}, "generationConfig.logprobs"),
        ({"generation_config": {"stop_sequences": 5}}, "generation_config.stop_sequences"),
        ({"generationConfig": {"stopSequences": ["x", None]}}, "generationConfig.stopSequences"),
        ({"generationConfig": {"responseJsonSchema": True}}, "generationConfig.responseJsonSchema"),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": 5}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
    ],
)
def test_what_is_no_request_is_refused_by_its_place(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**more)
    assert caught.value.param == param


EVERYTHING: dict[str, Any] = {
    "systemInstruction": {"role": "user", "parts": [{"text": "s"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
        {"role": "model", "parts": [{"text": "t", "thought": True}, {"functionCall": {"name": "f", "args": {"x": [1]}, "id": "1"}}]},
        {"parts": [{"functionResponse": {"name": "f", "response": {"output": "x"}, "parts": [{"inlineData": {"data": "aGk="}}]}}]},
        {"parts": [{"fileData": {"fileUri": "https://x/y", "mimeType": "a/b"}}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}}}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    "generationConfig": {
        "temperature": 1, "topK": 4, "stopSequences": ["x"], "responseMimeType": "application/json", "responseModalities": ["TEXT"],
        "responseSchema": {"type": "OBJECT", "anyOf": [{"nullable": True}]}, "logprobs": 1, "mediaResolution": "X",
        "thinkingConfig": {"thinkingBudget": 5, "thinkingLevel": "LOW", "includeThoughts": True},
    },
    "safetySettings": [{"x": 1}],
    "serviceTier": "flex",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(400))
def test_a_request_that_is_not_as_it_should_be_is_refused_or_read(seed: int) -> None:
    dice = random.Random(seed)
    body = {"model": "m", **damaged(json.loads(json.dumps(EVERYTHING)), dice)}
    assert all(isinstance(part.text, str) for part in request_parts(body))
    assert input_bytes(body) >= 0
    with suppress(InvalidRequest):
        validate_generate(body)
        for write in (write_prompt, anthropic.write_prompt, openai.write_prompt, responses.write_prompt):
            prompt = read_prompt(body, losses := Losses("x"))
            assert isinstance(json.dumps(write(prompt, losses)), str)


def test_a_url_that_anybody_can_read_crosses() -> None:
    parts = [{"fileData": {"fileUri": "https://example.com/a.png", "mimeType": "image/png"}}]
    [block] = read(contents=[{"parts": parts}])[0].turns[0].blocks
    assert bare(block) == bare(Media("image", "image/png", url="https://example.com/a.png"))

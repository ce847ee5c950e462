"""Requests of one format for providers of another: what both can say comes through as it was, in requests the vendors' own SDKs
could have sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.wire.prompt import Losses, Prompt
from muxx.wire.wire import AnswerHead, Wire
from muxx.wire.wires import BY_NAME

from .crossing_kit import BY_PAIR, SHORT, crossed
from .crossing_prompts import alike, prompts
from .prompts_kit import consumed, lossless, sent

each_pair = pytest.mark.parametrize("pair", BY_PAIR)
FORMATS = ("chat", "responses", "messages", "generate_content")


def written(wire: Wire, prompt: Prompt, losses: Losses | None = None) -> Any:
    """The prompt as a request of this format, as it arrives."""
    assert wire.translation is not None
    body = sent(wire.translation.write_prompt(prompt, losses or lossless()))
    wire.validate(body)
    return body


def read(wire: Wire, body: Any, losses: Losses | None = None) -> Prompt:
    assert wire.translation is not None
    return wire.translation.read_prompt(body, losses or lossless())


@each_pair
@settings(deadline=None, max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_prompt_both_formats_can_say_is_the_same_after_it_crossed_and_nothing_is_lost(pair: str, data: st.DataObject) -> None:
    first, second = BY_PAIR[pair]
    prompt = data.draw(prompts(first.name, second.name))
    there = read(first, written(first, prompt))
    again = read(second, written(second, there))
    assert alike(there, prompt) == alike(prompt, prompt)
    assert alike(again, prompt) == alike(prompt, prompt)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_prompt_of_any_other_format_is_written_as_the_vendors_sdk_could_have_sent_it(name: str, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from([up for up, called in BY_PAIR.values() if called.name == name]))
    prompt = data.draw(prompts(first.name, name))
    SENDABLE[name](written(BY_NAME[name], read(first, written(first, prompt))))


# Signatures.


def _next_turn(called: str, answer: Any) -> Any:
    """The request with which a client goes on: it sends back what it got, as the vendors' SDKs have it."""
    user = {"role": "user", "content": "Go on."}
    if called == "chat":
        message = answer["choices"][0]["message"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in message["tool_calls"]]
        return {"model": "m", "messages": [user, message, *results]}
    if called == "responses":
        calls = [item["call_id"] for item in answer["output"] if item["type"] == "function_call"]
        results = [{"type": "function_call_output", "call_id": call, "output": "ok"} for call in calls]
        return {"model": "m", "input": [user, *answer["output"], *results]}
    if called == "messages":
        calls = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call, "content": "ok"} for call in calls]
        messages = [user, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": results}]
        return {"model": "m", "max_tokens": 9, "messages": messages}
    said = answer["candidates"][0]["content"]
    calls = [part["functionCall"] for part in said["parts"] if "functionCall" in part]
    given = [{"functionResponse": {"id": call["id"], "name": call["name"], "response": {"output": "ok"}}} for call in calls]
    contents = [{"role": "user", "parts": [{"text": "Go on."}]}, said, {"role": "user", "parts": given}]
    return {"model": "m", "stream": False, "contents": contents}


def _signed(value: Any) -> list[str]:
    """Every signature in a request."""
    if isinstance(value, list):
        return [found for entry in value for found in _signed(entry)]
    if not isinstance(value, dict):
        return []
    own = [value[name] for name in ("signature", "thoughtSignature", "encrypted_content") if value.get(name)]
    return [*own, *(found for entry in value.values() for found in _signed(entry))]


@each_pair
async def test_what_a_provider_signed_comes_back_to_it_as_it_was_and_to_no_other(pair: str) -> None:
    up, called = BY_PAIR[pair]
    answer = await crossed(up, called, [SHORT[up.name]])
    body = _next_turn(called.name, json.loads(called.encode_answer(answer.said, AnswerHead("id_1", "m", 1))))
    called.validate(body)
    losses = Losses("x")
    back = written(up, read(called, body, losses), losses)
    losses.check()
    if up.name == "chat":
        assert [message["reasoning_content"] for message in back["messages"] if message["role"] == "assistant"] == ["Hm"]
    else:
        assert _signed(back) == {"responses": ["gAAAA"], "messages": ["sig=="], "generate_content": ["Y2FsbA=="]}[up.name]
    for other in FORMATS:
        if BY_NAME[other].format != up.format and other != called.name:
            losses = Losses("x")
            sent_there = written(BY_NAME[other], read(called, body, losses), losses)
            losses.check()
            assert _signed(sent_there) == []
            assert losses.dropped != []


# What the vendors' SDKs can send.


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _chat_sendable(body: Any) -> None:
    from openai.types.chat import completion_create_params as params

    kind = params.CompletionCreateParamsStreaming if body.get("stream") else params.CompletionCreateParamsNonStreaming
    consumed(_adapter(kind).validate_python(body))


def _responses_sendable(body: Any) -> None:
    from openai.types.responses import response_create_params as params

    kind = params.ResponseCreateParamsStreaming if body.get("stream") else params.ResponseCreateParamsNonStreaming
    for item in body["input"]:
        for part in [*_listed(item.get("content")), *_listed(item.get("output"))]:
            if part["type"] == "input_image":
                part.setdefault("detail", "auto")  # the SDK's type wants it, the endpoint does not
    consumed(_adapter(kind).validate_python(body))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _messages_sendable(body: Any) -> None:
    from anthropic.types import message_create_params as params

    kind = params.MessageCreateParamsStreaming if body.get("stream") else params.MessageCreateParamsNonStreaming
    consumed(_adapter(kind).validate_python(body))


def _gemini_sendable(body: Any) -> None:
    from google.genai import types

    kinds: dict[str, Any] = {
        "contents": list[types.Content],
        "systemInstruction": types.Content,
        "tools": list[types.Tool],
        "toolConfig": types.ToolConfig,
        "generationConfig": types.GenerationConfig,
        "serviceTier": types.ServiceTier,
        "model": str,
        "stream": bool,
    }
    for name, value in body.items():
        _adapter(kinds[name]).validate_python(value)


SENDABLE: dict[str, Callable[[Any], None]] = {
    "chat": _chat_sendable,
    "responses": _responses_sendable,
    "messages": _messages_sendable,
    "generate_content": _gemini_sendable,
}

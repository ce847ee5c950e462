"""The mock's chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from .answer import CREATED, Answer, Asked, Choice, Used, copies_of, last_said, objects, text_of, tokens, tool_tokens

DONE = b"data: [DONE]\n\n"


def asked(body: Mapping[str, Any]) -> Asked:
    messages = objects(body.get("messages"))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    functions = [tool["function"] for tool in objects(body.get("tools")) if isinstance(tool.get("function"), dict)]
    answered = bool(messages) and messages[-1].get("role") == "tool"
    return Asked(
        model=str(body.get("model", "mock")),
        echoes=[last_said(messages)],
        input_tokens=tokens(*(text_of(message.get("content")) for message in messages)) + tool_tokens(body),
        tool_result=text_of(messages[-1].get("content")) if answered else None,
        function=functions[0] if functions else None,
        limit=limit if isinstance(limit, int) else None,
        copies=copies_of(body),
        thinks=True,
    )


def plain(answer: Answer, body: Mapping[str, Any]) -> bytes:
    """The answer as one `chat.completion` object."""
    choices = []
    for index, choice in enumerate(answer.choices):
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        if choice.call:
            call = {"id": call_id(answer, index), "type": "function", "function": choice.call}
            message |= {"content": None, "tool_calls": [call]}
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish})
    usage = {"usage": usage_of(answer.used)} if answer.used else {}
    return orjson.dumps(head(answer, "chat.completion") | {"choices": choices} | usage)


def head(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-mock{answer.digest}", "object": kind, "created": CREATED, "model": answer.model}


def call_id(answer: Answer, index: int) -> str:
    return f"call_{answer.digest}{index}"


def usage_of(used: Used) -> dict[str, Any]:
    return {
        "prompt_tokens": used.input,
        "completion_tokens": used.output,
        "total_tokens": used.input + used.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning, "audio_tokens": 0},
    }


def events(answer: Answer, body: Mapping[str, Any], ended: bool) -> Iterator[bytes]:
    """The answer as a stream: each choice's deltas and finish, the usage when asked for, `[DONE]`."""
    start = head(answer, "chat.completion.chunk")
    with_usage = answer.used is not None and wants_usage(body)
    tail = {"usage": None} if with_usage else {}
    for index, choice in enumerate(answer.choices):
        for delta in deltas(answer, index, choice):
            yield event(start | {"choices": [entry(index, delta, None)]} | tail)
        yield event(start | {"choices": [entry(index, {}, choice.finish)]} | tail)
    if answer.used is not None and with_usage:
        yield event(start | {"choices": [], "usage": usage_of(answer.used)})
    if ended:
        yield DONE


def events_before(choice: Choice) -> int:
    """How many events come before a choice's first piece: the role, and a call's beginning."""
    return 2 if choice.call else 1


def deltas(answer: Answer, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
    """The deltas of one choice, the role first."""
    yield {"role": "assistant", "content": None if choice.call else ""}
    for piece in choice.reasoning:
        yield {"reasoning_content": piece}
    for word in choice.words:
        yield {"content": word}
    if choice.call:
        function = {"name": choice.call["name"], "arguments": ""}
        yield {"tool_calls": [{"index": 0, "id": call_id(answer, index), "type": "function", "function": function}]}
    for piece in choice.fragments:
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def entry(index: int, delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"

"""Answers in OpenAI's chat format, composed from the request alone."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import orjson

from .behaviour import Behaviour
from .schema import example

CREATED = 1_767_225_600
"""The `created` of every answer (2026-01-01): a clock would make two equal requests differ."""

BYTES_PER_TOKEN = 4.1
"""Bytes of English text per token, the figure muxx estimates with wherever a provider reports no usage."""

LOREM = ("Lorem ", "ipsum ", "dolor ", "sit ", "amet ", "consectetur ", "adipiscing ", "elit ")
REASONING = "The user said something. I say it back."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in pieces the size of a streamed event; the plain form joins them."""

    id: str
    model: str
    words: list[str]
    reasoning: list[str]
    call: dict[str, str] | None
    finish: str
    copies: int
    usage: dict[str, Any] | None


def compose(behaviour: Behaviour, body: Mapping[str, Any], default_text: str) -> Answer:
    """Everything the answer to `body` says, before it is known in which form it leaves."""
    call = tool_call(body) if behaviour.tool else None
    words = [] if call else words_of(behaviour, body, default_text)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    cut_short = isinstance(limit, int) and len(words) > limit
    words = words[:limit] if cut_short else words
    reasoning = split(REASONING) if behaviour.reasoning else []
    copies = n if isinstance(n := body.get("n"), int) and 1 <= n <= 128 else 1
    return Answer(
        id="chatcmpl-mock" + hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24],
        model=str(body.get("model", "mock")),
        words=words,
        reasoning=reasoning,
        call=call,
        finish="tool_calls" if call else "length" if cut_short else "stop",
        copies=copies,
        usage=None if behaviour.nousage else usage_of(body, words, reasoning, call, copies),
    )


def words_of(behaviour: Behaviour, body: Mapping[str, Any], default_text: str) -> list[str]:
    """The text of the answer: scripted, long, about the tool's result, configured, or an echo, in that order."""
    if behaviour.text is not None:
        return split(behaviour.text)
    if behaviour.long:
        return list(islice(cycle(LOREM), behaviour.long))
    messages = messages_of(body)
    if behaviour.tool and messages and messages[-1].get("role") == "tool":
        return split(f"The tool answered: {text_of(messages[-1])}")
    asked = [message for message in messages if message.get("role") == "user"]
    return split(default_text or text_of((asked or messages or [{}])[-1]))


def split(text: str) -> list[str]:
    """Words with the white space that follows them; joined, they are the text again."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def usage_of(
    body: Mapping[str, Any], words: list[str], reasoning: list[str], call: Mapping[str, str] | None, copies: int
) -> dict[str, Any]:
    """OpenAI's usage object. Reasoning is inside the completion's count, as OpenAI has it."""
    prompt = tokens(*(text_of(message) for message in messages_of(body)))
    if body.get("tools"):
        prompt += tokens(orjson.dumps(body["tools"]).decode())
    thought = tokens(*reasoning) * copies
    completion = thought + tokens(*words, *(call.values() if call else ())) * copies
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
    }


def tokens(*texts: str) -> int:
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for text in texts) / BYTES_PER_TOKEN)


def tool_call(body: Mapping[str, Any]) -> dict[str, str] | None:
    """A call of the first tool offered. None without a tool, and once a tool's result is the last message."""
    messages, tools = messages_of(body), body.get("tools")
    if not isinstance(tools, list) or (messages and messages[-1].get("role") == "tool"):
        return None
    functions = [tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    if not functions:
        return None
    schema = functions[0].get("parameters")
    arguments = example(schema, schema) if isinstance(schema, dict) else {}
    return {"name": str(functions[0].get("name", "")), "arguments": orjson.dumps(arguments).decode()}


def plain(answer: Answer) -> bytes:
    """The answer as one `chat.completion` object."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.words), "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = "".join(answer.reasoning)
    if answer.call:
        message |= {"content": None, "tool_calls": [{"id": call_id(answer, 0), "type": "function", "function": answer.call}]}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish} for index in range(answer.copies)
    ]
    whole = {"id": answer.id, "object": "chat.completion", "created": CREATED, "model": answer.model, "choices": choices}
    return orjson.dumps(whole | ({"usage": answer.usage} if answer.usage else {}))


def call_id(answer: Answer, index: int) -> str:
    return f"call_{answer.id[-24:]}{index}"


def deltas(answer: Answer, index: int) -> Iterator[dict[str, Any]]:
    """The deltas of one choice, the role first."""
    yield {"role": "assistant", "content": None if answer.call else ""}
    for piece in answer.reasoning:
        yield {"reasoning_content": piece}
    for word in answer.words:
        yield {"content": word}
    if answer.call:
        function = {"name": answer.call["name"], "arguments": ""}
        yield {"tool_calls": [{"index": 0, "id": call_id(answer, index), "type": "function", "function": function}]}
        for piece in re.findall(r".{1,12}", answer.call["arguments"], re.DOTALL):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


def events(answer: Answer, *, with_usage: bool, done: bool) -> Iterator[bytes]:
    """The answer as server-sent events: each choice's deltas and finish, the usage when asked for, `[DONE]`."""
    head = {"id": answer.id, "object": "chat.completion.chunk", "created": CREATED, "model": answer.model}
    tail = {"usage": None} if with_usage else {}
    for index in range(answer.copies):
        for delta in deltas(answer, index):
            yield event(head | {"choices": [choice(index, delta, None)]} | tail)
        yield event(head | {"choices": [choice(index, {}, answer.finish)]} | tail)
    if with_usage:
        yield event(head | {"choices": [], "usage": answer.usage})
    if done:
        yield b"data: [DONE]\n\n"


def choice(index: int, delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"

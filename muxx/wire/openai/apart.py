"""A plain answer of chat completions taken apart into the events of a stream that says the same.

A piece of each kind has an event of its own, as clients expect: reasoning, what is said, each call, and the finish reason. What
nobody here knows stays with what it belongs to: members of the answer are in every event, as in OpenAI's streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orjson import dumps

from .pieces import calls_of, choices_of

_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


def events_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a plain answer, without that of its usage."""
    head = _head(answer)
    return [{**head, "choices": [choice]} for index, known in choices_of(answer).items() for choice in _choices(index, known)]


def usage_event(answer: dict[str, Any]) -> dict[str, Any]:
    """The event with nothing but the usage."""
    return {**_head(answer), "choices": [], "usage": answer.get("usage")}


def as_bytes(event: dict[str, Any]) -> bytes:
    return b"data: " + dumps(event) + b"\n\n"


def _head(answer: dict[str, Any]) -> dict[str, Any]:
    members = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    return members | {"object": "chat.completion.chunk"}


def _choices(index: int, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice as it stands in one event after the other."""
    message = choice.get("message")
    deltas = list(_deltas(message if type(message) is dict else {}))
    logprobs = choice.get("logprobs")
    end = {name: value for name, value in choice.items() if name not in ("index", "message", "logprobs", "finish_reason")}
    begun: dict[str, Any] = {"role": "assistant"}
    if index and logprobs is not None:  # OpenAI's SDK counts those twice that stand where a further choice begins
        yield {"index": index, "delta": begun, "logprobs": None, "finish_reason": None}
        begun = {}
    for delta in deltas:
        said = logprobs if delta.keys().isdisjoint(_REASONING) else None
        yield {"index": index, "delta": {**begun, **delta}, "logprobs": said, "finish_reason": None}
        logprobs, begun = None if said is logprobs else logprobs, {}
    if begun or logprobs is not None or end or choice.get("finish_reason"):
        yield {"index": index, "delta": begun, "logprobs": logprobs, **end, "finish_reason": choice.get("finish_reason")}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    members = {name: value for name, value in message.items() if value is not None and name not in ("role", "tool_calls")}
    if reasoning := {name: members.pop(name) for name in _REASONING if name in members}:
        yield reasoning
    if any(members.values()):
        yield members
    for number, call in calls_of(message):
        yield {"tool_calls": [{**call, "index": number}]}

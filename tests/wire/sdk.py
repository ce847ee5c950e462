"""Answers as OpenAI's own SDK reads them: validated by its types, put together by its helpers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from muxx.reply import Chunk
from muxx.wire.sse import EventSplitter
from muxx.wire.wire import AnswerReader

from .passing import objects


@dataclass
class Told:
    """What an answer says, in no format's words. Calls are name and arguments; signatures stand beside what they belong to."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    finish: str | None = None
    tokens: tuple[int, int] | None = None
    signatures: list[tuple[str, str]] = field(default_factory=list)


def arguments(text: str) -> Any:
    """Arguments as JSON; what is none, cut short or empty, as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def told(chunks: Iterable[Chunk]) -> Told:
    """What Chunks say; only the first choice's."""
    says, calls = Told(), dict[int, list[str]]()
    for chunk in chunks:
        if chunk.index:
            continue
        says.finish = chunk.finish_reason or says.finish
        if chunk.usage is not None:
            says.tokens = (chunk.usage.input_tokens, chunk.usage.output_tokens)
        if (call := chunk.tool_call) is not None:
            assert (call.id is None) == (call.name is None) == (call.index in calls), "id and name come first, and once"
            assert call.index == max(calls, default=0) or call.index == len(calls), "calls come one after the other"
            if call.id is not None:
                says.ids.append(call.id)
                calls[call.index] = [call.name or "", ""]
            calls[call.index][1] += call.arguments
        elif chunk.kind == "text":
            says.text += chunk.text
        elif chunk.kind == "reasoning":
            says.reasoning += chunk.text
        else:
            says.refusal += chunk.text
        if chunk.signature is not None:
            says.signatures.append((chunk.kind, chunk.signature))
    says.calls = [(name, arguments(text)) for name, text in calls.values()]
    return says


def reading(reader: AnswerReader, data: bytes) -> list[Chunk]:
    """The Chunks that a reader makes of a stream."""
    chunks = [chunk for value in objects(data) for chunk in reader.read(value)]
    assert not any(chunk.raw for chunk in chunks)
    return [*chunks, reader.end()]


def cut_at(data: bytes, at: int) -> list[Any]:
    """The values of the events of a stream that comes in two reads."""
    splitter = EventSplitter(1 << 24)
    events = splitter.feed(data[:at]) + splitter.feed(data[at:])
    return [json.loads(payload) for _, payload in events if payload and payload != b"[DONE]"]


# ── chat completions ──


def chat_stream(data: bytes) -> Told:
    """A stream of chat completions, by the SDK's own accumulation."""
    from openai.lib.streaming.chat import ChatCompletionStreamState
    from openai.types.chat import ChatCompletionChunk

    assert data.endswith(b"data: [DONE]\n\n")
    state: Any = ChatCompletionStreamState()
    finished = usages = 0
    for value in objects(data):
        chunk = ChatCompletionChunk.model_validate(value)
        finished += sum(choice.finish_reason is not None for choice in chunk.choices if choice.index == 0)
        usages += chunk.usage is not None
        if not finished or not chunk.choices or chunk.choices[0].finish_reason is None:
            state.handle_chunk(chunk)
        else:
            without = chunk.model_copy(deep=True)
            for choice in without.choices:
                choice.finish_reason = None  # its helper raises for an answer that was cut short
            state.handle_chunk(without)
            reason = chunk.choices[0].finish_reason
    assert (finished, usages <= 1) == (1, True)
    says = _of_message(state.current_completion_snapshot.choices[0].message)
    says.finish = reason
    usage = state.current_completion_snapshot.usage
    says.tokens = None if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return says


def chat_plain(body: bytes) -> Told:
    from openai.types.chat import ChatCompletion

    answer = ChatCompletion.model_validate_json(body)
    says = _of_message(answer.choices[0].message)
    says.finish = answer.choices[0].finish_reason
    says.tokens = None if answer.usage is None else (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return says


def _of_message(message: Any) -> Told:
    more = message.model_extra or {}
    says = Told(message.content or "", more.get("reasoning_content") or "", message.refusal or "")
    for entry in more.get("reasoning_details") or ():
        signature = entry["data"] if entry["type"] == "reasoning.encrypted" else entry["signature"]
        says.signatures.append(("reasoning", signature))
    if "extra_content" in more:
        says.signatures.append(("text", more["extra_content"]["google"]["thought_signature"]))
    for call in message.tool_calls or ():
        says.calls.append((call.function.name, arguments(call.function.arguments)))
        says.ids.append(call.id)
        if extra := (call.model_extra or {}).get("extra_content"):
            says.signatures.append(("tool_call", extra["google"]["thought_signature"]))
    return says


# ── responses ──


def response_stream(data: bytes) -> Told:
    """A Responses stream: its events validated, and what it says taken from its pieces, which its last event has to repeat."""
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    adapter: Any = TypeAdapter(ResponseStreamEvent)
    says = Told()
    for number, value in enumerate(objects(data)):
        assert value["sequence_number"] == number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            event = adapter.validate_python(value)
        if event.type == "response.output_text.delta":
            says.text += event.delta
        elif event.type.startswith("response.reasoning") and event.type.endswith("text.delta"):
            says.reasoning += event.delta
        elif event.type == "response.refusal.delta":
            says.refusal += event.delta
    assert event.type in ("response.completed", "response.incomplete")
    whole = _of_response(event.response)
    assert (whole.text, whole.reasoning, whole.refusal) == (says.text, says.reasoning, says.refusal)
    done = [value["item"] for value in objects(data) if value["type"] == "response.output_item.done"]
    assert done == value["response"]["output"]
    return whole


def response_plain(body: bytes) -> Told:
    from openai.types.responses import Response

    return _of_response(Response.model_validate_json(body))


def _of_response(response: Any) -> Told:
    says = Told()
    for item in response.output:
        signature = getattr(item, "encrypted_content", None)
        if item.type == "message":
            says.text += "".join(part.text for part in item.content if part.type == "output_text")
            says.refusal += "".join(part.refusal for part in item.content if part.type == "refusal")
            kind = "text"
        elif item.type == "reasoning":
            says.reasoning += "".join(part.text for part in [*item.summary, *(item.content or ())])
            kind = "reasoning"
        elif item.type == "function_call":
            says.calls.append((item.name, arguments(item.arguments)))
            says.ids.append(item.call_id)
            kind = "tool_call"
        if signature:
            says.signatures.append((kind, signature))
    words = {"max_output_tokens": "length", "content_filter": "content_filter"}
    if response.status == "incomplete":
        says.finish = words[response.incomplete_details.reason]
    else:
        says.finish = "tool_calls" if says.calls else "stop"
    if response.usage is not None:
        says.tokens = (response.usage.input_tokens, response.usage.output_tokens)
    return says

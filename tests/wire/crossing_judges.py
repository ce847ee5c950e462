"""Answers as the vendors' own SDKs read them, for each of the four formats: what one says before it crosses, and after.

An SDK gets the bytes as it would from a provider. What providers send is read as the SDKs read it by themselves, which is
leniently; what muxx writes has to pass their types' validation as well.
"""

from __future__ import annotations

import re
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2

from .sdk import Told, arguments

PARAGRAPH = "\n\n"

ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Broken(Exception):
    """The SDK raised an error, or the answer has no end."""


@dataclass
class Judged:
    """What an SDK read. `lost` names what it found for which Chunks have no word."""

    told: Told
    lost: set[str]


_served: list[tuple[str, bytes]] = []


def _serve(request: httpx2.Request) -> httpx2.Response:
    content_type, data = _served.pop()
    return httpx2.Response(200, headers={"content-type": content_type}, content=data)


@cache
def _http() -> Any:
    return httpx2.Client(transport=httpx2.MockTransport(_serve))


@cache
def _openai(strict: bool) -> Any:
    from openai import OpenAI

    return OpenAI(api_key="x", base_url="http://x", max_retries=0, http_client=_http(), _strict_response_validation=strict)


@cache
def _anthropic(strict: bool) -> Any:
    from anthropic import Anthropic

    return Anthropic(api_key="x", base_url="http://x", max_retries=0, http_client=_http(), _strict_response_validation=strict)


@cache
def _google() -> Any:
    from google import genai
    from google.genai import types

    return genai.Client(api_key="x", http_options=types.HttpOptions(base_url="http://x", httpx_client=_http()))


def _asked(call: Callable[[], Any], content_type: str, data: bytes) -> Any:
    """What a call of an SDK returns or, for a stream, a list of what it yields, when the provider answers so."""
    import anthropic
    import openai
    from google.genai import errors

    _served[:] = [(content_type, data)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(call()) if content_type == "text/event-stream" else call()
    except (openai.APIError, anthropic.APIError, errors.APIError) as error:
        raise Broken(str(error)) from error


# ── chat completions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def chat(data: bytes, *, strict: bool, stream: bool = True) -> Judged:
    client = _openai(strict)
    if not stream:
        return _chat_plain(_asked(lambda: client.chat.completions.create(**ASKED), "application/json", data))
    create = client.chat.completions.create
    chunks = _asked(lambda: create(**ASKED, stream=True), "text/event-stream", data)
    judged = _chat_pieces(chunks, data.rstrip().endswith(b"[DONE]"))
    if strict:
        assert data.endswith(b"data: [DONE]\n\n")
        assert _chat_accumulated(chunks) == judged.told
    return judged


class _ChatReading:
    """The first choice, put together by hand: the SDK's own accumulation is for answers of OpenAI."""

    def __init__(self) -> None:
        self.told = Told()
        self.lost: set[str] = set()
        self._calls: list[list[Any]] = []
        self._named = False
        """Reasoning has come in a field of its own: details only repeat it."""

    def take(self, said: Any) -> None:
        """A delta, or a message."""
        self.told.refusal += said.refusal or ""
        self._take_content(said.content)
        self._take_reasoning(said.model_extra or {})
        self._sign(said, "text")
        self.lost |= {CHAT_LOST[name] for name in CHAT_LOST if getattr(said, name, None)}
        for position, call in enumerate(said.tool_calls or ()):
            self._take_call(call, position)
            self._sign(call, "tool_call")

    def _take_content(self, content: Any) -> None:
        """Mistral's is a list of parts."""
        if not isinstance(content, list):
            self.told.text += content or ""
            return
        for part in content:
            kind = part.get("type", "text")
            if kind == "thinking":
                self.told.reasoning += "".join(inner["text"] for inner in part["thinking"])
            elif kind == "text":
                self.told.text += part["text"]
            else:
                self.lost.add(kind)

    def _take_reasoning(self, more: dict[str, Any]) -> None:
        plain = more.get("reasoning_content") or more.get("reasoning") or ""
        self._named = self._named or bool(plain)
        self.told.reasoning += plain
        for entry in more.get("reasoning_details") or ():
            self.told.reasoning += "" if self._named else entry.get("text") or entry.get("summary") or ""
            if signature := entry.get("signature") or entry.get("data"):
                self.told.signatures.append(("reasoning", signature))

    def _take_call(self, fragment: Any, position: int) -> None:
        """Of a known index and no other id, it goes on with that call."""
        index, function = getattr(fragment, "index", None), fragment.function
        index = position if index is None else index
        known = next((call for call in reversed(self._calls) if call[0] == index), None)
        if known is None or (fragment.id and known[1] and fragment.id != known[1]):
            known = [index, fragment.id or "", "", ""]
            self._calls.append(known)
        known[2] += (function.name if function else None) or ""
        known[3] += (function.arguments if function else None) or ""

    def _sign(self, holder: Any, kind: str) -> None:
        """Google's endpoint of this format signs so."""
        if extra := (holder.model_extra or {}).get("extra_content"):
            self.told.signatures.append((kind, extra["google"]["thought_signature"]))

    def take_usage(self, usage: Any) -> None:
        if usage is None:
            return
        given, made, details = usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details
        reasoning = (details.reasoning_tokens if details is not None else None) or 0
        beside = reasoning > 0 and usage.total_tokens == given + made + reasoning  # as xAI counts
        self.told.tokens = (given, made + reasoning if beside else made)

    def judged(self, reason: str | None) -> Judged:
        self.told.calls = [(name, arguments(text)) for _, _, name, text in self._calls]
        self.told.ids = [call_id for _, call_id, _, _ in self._calls]
        self.told.finish = _finish(CHAT_REASONS[reason or "stop"], self.told)
        return Judged(self.told, self.lost)


def _chat_pieces(chunks: list[Any], said_done: bool) -> Judged:
    reading, finishes = _ChatReading(), dict[int, str | None]()
    for chunk in chunks:
        reading.take_usage(chunk.usage)
        for choice in chunk.choices or ():
            finishes[choice.index] = choice.finish_reason or finishes.get(choice.index)
            if choice.index == 0:
                reading.take(choice.delta)
            else:
                reading.lost.add("choices")
    if not said_done and not (finishes and all(finishes.values())):
        raise Broken("a choice has not finished")
    return reading.judged(finishes.get(0))


CHAT_LOST = {"annotations": "citations", "images": "images", "audio": "audio", "function_call": "function_call"}

CHAT_REASONS = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter", "eos": "stop",
    "function_call": "tool_calls",
}  # fmt: skip


def _finish(reason: str, told: Told) -> str:
    """Several vendors say `stop` of an answer with calls."""
    return "tool_calls" if reason == "stop" and told.calls else reason


def _chat_accumulated(chunks: list[Any]) -> Told:
    """The stream by the SDK's own accumulation, whose finish reason it is not told: it raises for one that was cut short."""
    from openai.lib.streaming.chat import ChatCompletionStreamState

    state: Any = ChatCompletionStreamState()
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason and not choice.index]
    for chunk in chunks:
        copy = chunk.model_copy(deep=True) if any(choice.finish_reason for choice in chunk.choices) else chunk
        for choice in copy.choices:
            choice.finish_reason = None
        state.handle_chunk(copy)
    [reason] = reasons
    snapshot = state.current_completion_snapshot
    snapshot.choices[0].finish_reason = reason
    return _chat_plain(snapshot).told


def _chat_plain(answer: Any) -> Judged:
    reading = _ChatReading()
    reading.take(answer.choices[0].message)
    reading.lost |= {"choices"} if len(answer.choices) > 1 else set()
    reading.take_usage(answer.usage)
    return reading.judged(answer.choices[0].finish_reason)


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def responses(data: bytes, *, strict: bool, stream: bool = True) -> Judged:
    client, asked = _openai(strict), {"model": "m", "input": "hi"}
    if not stream:
        answer = _asked(lambda: client.responses.create(**asked), "application/json", data)
        return _response(answer, answer.output)
    events = _asked(lambda: client.responses.create(**asked, stream=True), "text/event-stream", data)
    if not events or events[-1].type not in ("response.completed", "response.incomplete"):
        raise Broken("the response has not ended")
    answer = events[-1].response
    items = [event.item for event in events if event.type == "response.output_item.done"]
    judged = _response(answer, items or answer.output)
    judged.lost |= {"citations" for event in events if event.type == "response.output_text.annotation.added"}
    if strict:
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert items == answer.output
        pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert pieces == judged.told.text
        _accumulated_by_openai(events)
    return judged


def _accumulated_by_openai(events: list[Any]) -> None:
    """The SDK's accumulator raises for events of items that have not begun, or whose places or names change."""
    from openai import omit
    from openai.lib.streaming.responses._responses import ResponseStreamState

    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    for event in events:
        state.handle_event(event)


_SIGNED = {"reasoning": "reasoning", "message": "text", "function_call": "tool_call"}


def _response(answer: Any, items: list[Any]) -> Judged:
    told, lost = Told(), set[str]()
    for item in items:
        signature = getattr(item, "encrypted_content", None)
        if item.type == "message":
            for part in item.content:
                told.text += part.text if part.type == "output_text" else ""
                told.refusal += part.refusal if part.type == "refusal" else ""
                lost |= {"citations"} if getattr(part, "annotations", None) else set()
        elif item.type == "reasoning":
            told.reasoning += PARAGRAPH.join(part.text for part in [*(item.summary or ()), *(item.content or ())])
        elif item.type == "function_call":
            told.calls.append((item.name, arguments(item.arguments)))
            told.ids.append(item.call_id)
        else:
            lost.add(item.type)
        if signature and item.type in _SIGNED:
            told.signatures.append((_SIGNED[item.type], signature))
    cut = {"max_output_tokens": "length", "content_filter": "content_filter"}
    if answer.status == "incomplete":
        told.finish = cut[answer.incomplete_details.reason]
    elif answer.status == "completed":
        told.finish = _finish("stop", told)
    else:
        raise Broken(answer.status)
    if answer.usage is not None:
        told.tokens = (answer.usage.input_tokens, answer.usage.output_tokens)
    return Judged(told, lost)


# ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def messages(data: bytes, *, strict: bool, stream: bool = True) -> Judged:
    client, asked = _anthropic(strict), {**ASKED, "max_tokens": 9}
    if not stream:
        return _message(_asked(lambda: client.messages.create(**asked), "application/json", data))
    ends: list[Any] = []

    def accumulated() -> Iterator[Any]:
        with client.messages.stream(**asked) as events:
            ends.extend(event.type for event in events)
            yield events.get_final_message() if ends[-1:] == ["message_stop"] else None

    [message] = _asked(accumulated, "text/event-stream", data)
    if message is None:
        raise Broken("the message has not ended")
    return _message(message)


MESSAGE_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length",
    "refusal": "content_filter", "model_context_window_exceeded": "length",
}  # fmt: skip


def _message(message: Any) -> Judged:
    told, lost = Told(), set[str]()
    for block in message.content:
        if block.type == "text":
            told.text += block.text
            lost |= {"citations"} if block.citations else set()
        elif block.type == "thinking":
            told.reasoning += block.thinking
            told.signatures += [("reasoning", block.signature)] if block.signature else []
        elif block.type == "redacted_thinking":
            told.signatures.append(("reasoning", f"redacted:{block.data}"))
        elif block.type == "tool_use":
            told.calls.append((block.name, block.input))
            told.ids.append(block.id)
            signature = (block.model_extra or {}).get("signature")
            told.signatures += [("tool_call", signature)] if signature else []
        else:
            lost.add(block.type)
    told.finish = MESSAGE_REASONS[message.stop_reason]
    lost |= {"pause_turn"} & {message.stop_reason}
    usage = message.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    told.tokens = (usage.input_tokens + cached, usage.output_tokens)
    return Judged(told, lost)


# ── Gemini ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOGLE_REASONS = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter"}


def gemini(data: bytes, *, strict: bool, stream: bool = True) -> Judged:
    models, asked = _google().models, {"model": "m", "contents": "hi"}
    if stream:
        answers = _asked(lambda: models.generate_content_stream(**asked), "text/event-stream", data)
    else:
        answers = [_asked(lambda: models.generate_content(**asked), "application/json", data)]
    told, lost, finishes = Told(), set[str](), dict[int, str]()
    for answer in answers:
        if (used := answer.usage_metadata) is not None:
            given = (used.prompt_token_count or 0) + (used.tool_use_prompt_token_count or 0)
            told.tokens = (given, (used.candidates_token_count or 0) + (used.thoughts_token_count or 0))
        if answer.prompt_feedback is not None and answer.prompt_feedback.block_reason is not None:
            finishes[0] = "SAFETY"
        for candidate in answer.candidates or ():
            if candidate.finish_reason is not None:
                finishes[candidate.index or 0] = candidate.finish_reason.value
            if candidate.index:
                lost.add("choices")
            else:
                _candidate(candidate, told, lost)
    if 0 not in finishes:
        raise Broken("the candidate has not finished")
    if finishes[0] not in GOOGLE_REASONS:
        raise Broken(finishes[0])
    told.finish = _finish(GOOGLE_REASONS[finishes[0]], told)
    return Judged(told, {_CAMEL.sub(lambda found: found[1].upper(), name) for name in lost})


_CAMEL = re.compile("_(.)")


def _candidate(candidate: Any, told: Told, lost: set[str]) -> None:
    for part in (candidate.content.parts if candidate.content is not None else None) or ():
        if part.function_call is not None:
            told.calls.append((part.function_call.name, part.function_call.args or {}))
            told.ids.append(part.function_call.id or "")
        elif part.text is not None and part.thought:
            told.reasoning += part.text
        elif part.text is not None:
            told.text += part.text
        else:
            lost |= part.to_json_dict().keys() - {"thought_signature"}
        if part.thought_signature and (part.function_call is not None or part.text is not None):
            told.signatures.append((_kind(part), b64encode(part.thought_signature).decode()))
    more = candidate.to_json_dict()
    lost |= {
        name for name in ("grounding_metadata", "citation_metadata", "url_context_metadata", "logprobs_result") if more.get(name)
    }


def _kind(part: Any) -> str:
    return "tool_call" if part.function_call is not None else "reasoning" if part.thought else "text"


JUDGES: dict[str, Callable[..., Judged]] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "generate_content": gemini,
}

KINDS = {
    "chat": "openai-chat",
    "responses": "openai-responses",
    "messages": "anthropic-messages",
    "generate_content": "gemini-generate",
}

"""An answer that is kept in one form and given in the other says all that the original said, as the vendors' SDKs read it."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.lib.streaming._beta_messages import accumulate_event
from anthropic.types.beta import BetaRawMessageStreamEvent
from cache_kit import caching
from carrying_kit import chunks_of
from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from muxx.testing import DONE, RunningGateway, answers, event, sse

# ── chat completions ────────────────────────────────────────────────────────────────────────────────────────────────────────

PROBABLE = [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in ("Hello", " you")]
CITED = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 5, "title": "T", "url": "https://t.example"}}
THOUGHT = {"type": "reasoning.text", "text": "hm", "signature": "s", "format": "f", "index": 0}
CUSTOM = {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": "ls -la"}}
SIGNED = {
    "id": "call_2", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'},
    "extra_content": {"google": {"thought_signature": "s"}},
}  # fmt: skip
USED = {
    "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
    "completion_tokens_details": {"accepted_prediction_tokens": 1, "rejected_prediction_tokens": 0},
}  # fmt: skip
AUDIO = {"id": "audio_1", "data": "QUJDRA==", "transcript": "Hello you", "expires_at": 9}
MESSAGES: dict[str, dict[str, Any]] = {
    "log probabilities": {"message": {"content": "Hello you"}, "logprobs": {"content": PROBABLE, "refusal": None}},
    "probabilities of a refusal": {"message": {"refusal": "Hello you"}, "logprobs": {"content": None, "refusal": PROBABLE}},
    "annotations": {"message": {"content": "Hello you", "annotations": [CITED]}},
    "calls": {"message": {"tool_calls": [CUSTOM, SIGNED]}, "finish_reason": "tool_calls"},
    "audio": {"message": {"audio": AUDIO}},
    "reasoning": {"message": {"content": "Hello", "reasoning": "hm", "reasoning_details": [THOUGHT]}},
    "nothing": {"message": {"content": ""}},
}


def completion(*choices: dict[str, Any]) -> dict[str, Any]:
    whole = [{"index": number, "finish_reason": "stop", **choice} for number, choice in enumerate(choices)]
    head = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "service_tier": "default"}
    return {**head, "system_fingerprint": "fp_1", "choices": whole, "usage": USED, "vendors_own": ["x"]}


ANSWERS = {name: completion(choice) for name, choice in MESSAGES.items()} | {"several choices": completion(*MESSAGES.values())}
each_answer = pytest.mark.parametrize("name", ANSWERS)


def streamed(answer: dict[str, Any]) -> bytes:
    """The answer as a provider streams it: what comes in pieces there, in two."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    events = []
    for choice in answer["choices"]:
        message, probable = dict(choice["message"]), choice.get("logprobs") or {}
        for half in (0, 1):
            delta = {"role": "assistant"} if half == 0 else {}
            for name, value in message.items():
                if name == "audio":
                    delta["audio"] = {"id": "audio_1", "data": "QUI=", "transcript": "Hello"} if half == 0 else {
                        "data": "Q0Q=", "transcript": " you", "expires_at": 9
                    }  # fmt: skip
                elif name == "tool_calls":
                    delta[name] = [{"index": half, **value[half]}]
                elif isinstance(value, str):
                    delta[name] = value[:5] if half == 0 else value[5:]
                elif half == 1:
                    delta[name] = value
            logprobs = {name: tokens[half : half + 1] if tokens else None for name, tokens in probable.items()} or None
            events.append({"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": None})
        events.append({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]})
    return (
        b"".join([event({**head, "choices": [entry]}) for entry in events]) + event({**head, "choices": [], "usage": USED}) + DONE
    )


def as_accumulated(stream: bytes) -> dict[str, Any]:
    """The answer that OpenAI's SDK has put together by the stream's end."""
    state = ChatCompletionStreamState()
    for value in chunks_of(stream):
        chunk: Any = construct_type(type_=ChatCompletionChunk, value=value)
        state.handle_chunk(chunk)
    return state.current_completion_snapshot.to_dict(warnings=False)


def said(value: Any) -> Any:
    """An answer less what says nothing, and less the numbers that calls have in a stream only."""
    if isinstance(value, dict):
        members = {name: said(child) for name, child in value.items() if name != "object"}
        if "function" in members or "custom" in members:
            members.pop("index", None)
        return {name: child for name, child in members.items() if child not in (None, "", [], {})} | _role(members)
    return [said(child) for child in value] if isinstance(value, list) else value


def _role(members: dict[str, Any]) -> dict[str, Any]:
    return {"message": {"role": "assistant", **members["message"]}} if "message" in members else {}


async def given_again(gateway: RunningGateway, endpoint: str, answer: dict[str, Any] | bytes, **members: Any) -> Any:
    """What a hit gives in the other form of an answer: events, or one object."""
    streams = isinstance(answer, bytes)
    gateway.upstream.script(sse(answer) if isinstance(answer, bytes) else answers.json(answer))
    await gateway.ask(endpoint, stream=streams, **members)
    hit = await gateway.ask(endpoint, stream=not streams, **members)
    assert (hit.status, hit.header("x-muxx-cache"), hit.header("x-muxx-cost")) == (200, "HIT", "0")
    return hit.json() if streams else hit.body


@each_answer
async def test_a_streamed_hit_of_a_plain_completion_says_all_of_it(name: str) -> None:
    async with caching() as gateway:
        body = await given_again(gateway, "chat", ANSWERS[name], stream_options={"include_usage": True})
    assert said(as_accumulated(body)) == said(ANSWERS[name])


@each_answer
async def test_a_plain_hit_of_a_streamed_completion_says_all_of_it(name: str) -> None:
    async with caching() as gateway:
        answer = await given_again(gateway, "chat", streamed(ANSWERS[name]))
    assert said(answer) == said(ANSWERS[name])


async def test_content_that_streams_in_parts_is_parts_in_a_plain_hit() -> None:
    def thinks(text: str) -> list[Any]:
        return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]

    pieces = [thinks("h"), thinks("m"), "Hel", "lo"]
    events = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    events.append({"index": 0, "delta": {"content": ""}, "finish_reason": "stop"})
    async with caching() as gateway:
        stream = b"".join([event({"id": "c", "model": "m", "choices": [entry]}) for entry in events]) + DONE
        answer = await given_again(gateway, "chat", stream)
    assert answer["choices"][0]["message"]["content"] == [*thinks("hm"), {"type": "text", "text": "Hello"}]


async def test_log_probabilities_of_a_completion_are_given_in_both_forms() -> None:
    def told(*at: int) -> dict[str, Any]:
        words = ["one", " two"]
        return {
            "tokens": [words[n] for n in at],
            "token_logprobs": [-0.5 for _ in at],
            "text_offset": list(at),
            "top_logprobs": None,
        }

    def answer(text: str, reason: str | None, *at: int) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": told(*at), "finish_reason": reason}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": [choice]}

    async with caching() as gateway:
        whole = answer("one two", "stop", 0, 1)
        body = await given_again(gateway, "text_completion", whole)
        assert chunks_of(body)[0]["choices"][0]["logprobs"] == told(0, 1)
        stream = event(answer("one", None, 0)) + event(answer(" two", "stop", 1)) + DONE
        assert await given_again(gateway, "text_completion", stream, suffix="s") == whole


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_streamed_hit_of_a_plain_response_tells_sources_and_log_probabilities_where_they_belong() -> None:
    source = {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "T", "url": "https://t.example"}
    part = {"type": "output_text", "text": "Hello you", "annotations": [source, source], "logprobs": PROBABLE}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    answer = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-4o", "output": [item]}
    async with caching() as gateway:
        events = chunks_of(await given_again(gateway, "responses", answer))
    told: dict[str, list[Any]] = {}
    for value in events:
        told.setdefault(value["type"], []).append(value)
    added = told["response.output_text.annotation.added"]
    assert [(value["annotation_index"], value["annotation"], value["item_id"]) for value in added] == [
        (0, source, "msg_1"),
        (1, source, "msg_1"),
    ]
    assert [told[f"response.output_text.{end}"][0]["logprobs"] for end in ("delta", "done")] == [PROBABLE, PROBABLE]
    assert told["response.content_part.done"][0]["part"] == part
    assert told["response.completed"][0]["response"] == answer
    assert [value["sequence_number"] for value in events] == list(range(len(events)))


# ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_given_in_the_other_form_says_how_it_ended_and_what_was_compacted() -> None:
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-3-5-haiku",
        "content": [{"type": "compaction", "content": "sum", "encrypted_content": "e"}, {"type": "text", "text": "Hi"}],
        "stop_reason": "refusal", "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": "cyber", "explanation": "because"},
        "context_management": {"applied_edits": [{"type": "clear_tool_uses_20250919", "cleared_input_tokens": 5}]},
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }  # fmt: skip
    async with caching() as gateway:
        body = await given_again(gateway, "messages", answer)
        snapshot: Any = None
        for value in chunks_of(body)[:-1]:
            read: Any = anthropic._models.construct_type_unchecked(type_=BetaRawMessageStreamEvent, value=value)  # type: ignore[arg-type]
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs={}, request_headers={})  # type: ignore[arg-type]
        assert said(snapshot.to_dict(warnings=False)) == said(answer)
        last = next(value for value in chunks_of(body) if value["type"] == "message_delta")
        assert last["context_management"] == answer["context_management"]
        stream = b"".join(b"event: %b\n" % value["type"].encode() + event(value) for value in chunks_of(body))
        assert said(await given_again(gateway, "messages", stream, temperature=0.5)) == said(answer)


# ── Google ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plain_hit_of_googles_stream_has_all_log_probabilities_and_what_grounded_it() -> None:
    tokens = [{"token": word, "logProbability": -0.5} for word in ("Hello", " you")]
    grounding = {"webSearchQueries": ["q"]}

    def piece(at: int, **members: Any) -> bytes:
        content = {"parts": [{"text": tokens[at]["token"]}], "role": "model"}
        return event({"candidates": [{"content": content, "logprobsResult": {"chosenCandidates": [tokens[at]]}, **members}]})

    async with caching() as gateway:
        stream = piece(0, groundingMetadata=grounding) + piece(1, groundingMetadata={}, finishReason="STOP")
        answer = await given_again(gateway, "generate_content", stream)
    [candidate] = answer["candidates"]
    assert candidate["logprobsResult"] == {"chosenCandidates": tokens}
    assert candidate["groundingMetadata"] == grounding

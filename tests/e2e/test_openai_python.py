"""The OpenAI SDK for Python as its users know it, with nothing but `base_url` and `api_key` changed: what goes well."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai_kit import (
    CHAT,
    FRAGMENTS,
    STORY,
    TOLD,
    TOOL,
    CountingGateway,
    chunk,
    completion,
    tool_call,
)
from openai_python import HELLO, client_of, in_thread, text_of
from pydantic import BaseModel

from muxx.testing import (
    PROVIDER_KEY,
    RecordedRequest,
    Script,
    event,
    events,
    sse,
)

# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_completion_comes_back_whole(gateway: CountingGateway) -> None:
    async with client_of(gateway) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert (await gateway.get_row(answer._request_id))["status"] == 200
    assert (len(gateway.upstream.requests), gateway.received.count(CHAT)) == (1, 1)


async def test_the_raw_response_carries_cost_and_id(gateway: CountingGateway) -> None:
    async with client_of(gateway) as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    row = await gateway.get_row(raw.headers["X-Muxx-Request-Id"])
    assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id == row["request_id"]
    assert Decimal(raw.headers["X-Muxx-Cost"]) == Decimal("0.000075") == Decimal(row["cost_usd"])
    assert raw.headers["X-Muxx-Cache"] == "MISS"
    assert raw.retries_taken == 0


async def test_the_synchronous_client_completes_and_streams(gateway: CountingGateway) -> None:
    def work(client: openai.OpenAI) -> tuple[str | None, str]:
        answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
        stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        return answer.choices[0].message.content, text_of(list(stream))

    assert await in_thread(gateway, work) == ("Hello there.", "Hello there.")


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_seen_exactly_when_asked_for(gateway: CountingGateway, asked: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    async with client_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, **options)
        chunks = [item async for item in stream]
    usages = [item.usage.total_tokens for item in chunks if item.usage]
    assert text_of(chunks) == "Hello there."
    assert usages == ([15] if asked else [])
    assert all(item.choices for item in chunks if not item.usage)
    assert gateway.upstream.last.json()["stream_options"] == {"include_usage": True}
    row = await gateway.get_row(stream.response.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (10, 5, "provider")


async def test_a_streamed_response_shows_the_providers_lines_and_the_cost(gateway: CountingGateway) -> None:
    story = [*STORY, event(chunk({}, "stop"))]
    gateway.upstream.script(sse(chunks=[*story, b"data: [DONE]\n\n"]))
    async with (
        client_of(gateway) as client,
        client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HELLO, stream=True) as response,
    ):
        lines = [line async for line in response.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    assert [line for line in lines if line not in comments] == [*b"".join(story).decode().split("\n\n")[:-1], "data: [DONE]"]
    assert len(comments) == 1
    assert comments[0].startswith(": muxx {")
    assert response.headers["x-muxx-request-id"] in comments[0]
    assert response.headers["content-type"] == "text/event-stream"


async def test_the_stream_helper_assembles_text_and_finish(gateway: CountingGateway) -> None:
    async with client_of(gateway) as client, client.chat.completions.stream(model="gpt-4o", messages=HELLO) as stream:
        text = "".join([item.delta async for item in stream if item.type == "content.delta"])
        final = await stream.get_final_completion()
    assert text == final.choices[0].message.content == "Hello there."
    assert final.choices[0].finish_reason == "stop"


async def test_a_stream_that_only_lacks_its_done_is_an_answer(gateway: CountingGateway) -> None:
    gateway.upstream.script(sse(chunks=[*STORY, event(chunk({}, "stop"))]))
    async with client_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        assert text_of([item async for item in stream]) == TOLD


@pytest.mark.parametrize("stream", [False, True])
async def test_the_mock_answers_without_a_provider(default_gateway: CountingGateway, stream: bool) -> None:
    async with client_of(default_gateway) as client:
        messages: list[Any] = [{"role": "user", "content": "grüß dich 🦊"}]
        answer: Any = await client.chat.completions.create(model="mock", messages=messages, stream=stream)
        text = text_of([item async for item in answer]) if stream else answer.choices[0].message.content
    assert text == "grüß dich 🦊"
    assert default_gateway.upstream.requests == []


async def test_fifty_calls_at_once_each_get_their_own_answer(gateway: CountingGateway) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
        messages: list[Any] = [{"role": "user", "content": f"number {number}"}]
        answer: Any = await client.chat.completions.create(model="gpt-4o", messages=messages, stream=number % 2 == 0)
        if number % 2 == 0:
            return text_of([item async for item in answer]), answer.response.headers["x-request-id"]
        return answer.choices[0].message.content, answer._request_id

    gateway.upstream.script(_echo)
    async with client_of(gateway) as client:
        answers = await asyncio.gather(*(ask(client, number) for number in range(50)))
    assert [text for text, _ in answers] == [f"number {number}" for number in range(50)]
    assert len({request_id for _, request_id in answers}) == 50
    assert len(gateway.upstream.requests) == 50
    rows = await asyncio.gather(*(gateway.get_row(request_id) for _, request_id in answers))
    assert {row["status"] for row in rows} == {200}


def _echo(request: RecordedRequest) -> Script:
    asked = request.json()
    words = asked["messages"][0]["content"]
    return sse(events(chunk({"content": words}), chunk({}, "stop"))) if asked.get("stream") else completion(words)


# ── what is sent ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_field_reaches_the_provider_as_it_was(default_gateway: CountingGateway) -> None:
    fields: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}},
        "max_completion_tokens": 64,
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "tool_choice": "none",
        "tools": [TOOL],
        "parallel_tool_calls": False,
        "user": "u",
        "metadata": {"a": "b"},
        "temperature": 0.1,
    }
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    messages: list[Any] = [{"role": "user", "content": parts}]
    async with client_of(default_gateway) as client:
        await client.chat.completions.create(model="gpt-4o", messages=messages, extra_body={"new": {"x": [1.5, None]}}, **fields)
    assert default_gateway.upstream.last.json() == {"model": "gpt-4o", "messages": messages, "new": {"x": [1.5, None]}, **fields}


async def test_a_structured_answer_is_parsed(default_gateway: CountingGateway) -> None:
    class Weather(BaseModel):
        city: str
        degrees: float

    default_gateway.upstream.script(completion('{"city": "Köln", "degrees": 12.5}'))
    async with client_of(default_gateway) as client:
        answer = await client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Köln", degrees=12.5)
    assert default_gateway.upstream.last.json()["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize("key_in_its_own_header", [False, True])
async def test_the_provider_sees_neither_the_muxx_key_nor_its_headers(
    default_gateway: CountingGateway, key_in_its_own_header: bool
) -> None:
    extra = {"X-Muxx-User-Id": "ada", "X-Muxx-Metadata": '{"feature": "search"}'}
    if key_in_its_own_header:
        extra["X-Muxx-Api-Key"] = default_gateway.key
    key = "sk-the-clients-own" if key_in_its_own_header else default_gateway.key
    async with client_of(default_gateway, api_key=key, default_headers=extra) as client:
        answer = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    sent = default_gateway.upstream.last
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert not [name for name, _ in sent.headers if name.lower().startswith(("x-muxx", "x-stainless"))]
    assert default_gateway.key not in str(sent.headers)
    row = await default_gateway.get_row(answer._request_id)
    assert (row["user_id"], row["metadata"]) == ("ada", {"feature": "search"})


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tools_call_and_its_result_make_the_round(default_gateway: CountingGateway) -> None:
    tools: list[Any] = [TOOL]
    async with client_of(default_gateway) as client:
        first = await client.chat.completions.create(model="mock/tool", messages=HELLO, tools=tools)
        calls = first.choices[0].message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        assert calls is not None
        assert calls[0].type == "function"
        assert calls[0].function.name == "weather"
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": "12 °C"}
        messages: list[Any] = [*HELLO, first.choices[0].message, result]
        second = await client.chat.completions.create(model="mock/tool", messages=messages, tools=tools)
        assert second.choices[0].message.content == "The tool answered: 12 °C"
        await client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
    sent = default_gateway.upstream.last.json()["messages"]
    assert sent[1]["tool_calls"][0]["id"] == calls[0].id
    assert sent[2] == result


async def test_streamed_fragments_of_a_call_arrive_as_they_were(gateway: CountingGateway) -> None:
    gateway.upstream.script(tool_call())
    tools: list[Any] = [TOOL]
    async with client_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=tools, stream=True)
        calls = [call async for item in stream for call in item.choices[0].delta.tool_calls or ()]
        async with client.chat.completions.stream(model="gpt-4o", messages=HELLO, tools=tools) as helped:
            final = await helped.get_final_completion()
    assert [call.function.arguments for call in calls if call.function] == ["", *FRAGMENTS]
    assembled = final.choices[0].message.tool_calls
    assert assembled is not None
    assert (assembled[0].id, assembled[0].function.arguments) == ("call_1", '{"city": "Köln"}')


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_models_are_listed_and_retrieved(default_gateway: CountingGateway) -> None:
    async with client_of(default_gateway) as client:
        names = [model.id async for model in client.models.list()]
        assert {"gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet", "gemini-1.5-flash"} <= set(names)
        assert names == sorted(names, key=lambda name: "*" in name)
        assert (await client.models.retrieve("gpt-4o")).owned_by == "openai"
        assert (await client.models.retrieve("openai/gpt-4o")).id == "openai/gpt-4o"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"

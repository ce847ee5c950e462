"""The OpenAI SDK for Python on completions, embeddings and Responses, with nothing but `base_url` and `api_key` changed."""

from __future__ import annotations

import json
import warnings
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai_kit import CountingGateway
from openai_python import client_of, in_thread
from wires_kit import (
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    completion,
    completion_stream,
    middle,
    response_of,
    response_stream,
    terminal,
)

from muxx.testing import rst, sse
from muxx.testing.answers import json as plain

PIECES = ("Grüß ", "Gott ", "👋")
TEXT = "".join(PIECES)


# ── completions ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_text_completion_comes_back_whole(gateway: CountingGateway) -> None:
    gateway.upstream.script(plain(completion(TEXT)))
    async with client_of(gateway) as client:
        raw = await client.completions.with_raw_response.create(model="gpt-4o", prompt="Say it")
    answer = raw.parse()
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    row = await gateway.get_row(raw.headers["X-Muxx-Request-Id"])
    assert Decimal(raw.headers["X-Muxx-Cost"]) == Decimal(row["cost_usd"]) == Decimal(COMPLETIONS.row["cost_usd"])


@pytest.mark.parametrize("asked", [True, False])
async def test_a_text_completion_streams_and_shows_usage_exactly_when_asked(gateway: CountingGateway, asked: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    gateway.upstream.script(sse(completion_stream(*PIECES)))
    async with client_of(gateway) as client:
        stream = await client.completions.create(model="gpt-4o", prompt="Say it", stream=True, **options)
        items = [item async for item in stream]
    assert "".join(choice.text for item in items for choice in item.choices) == TEXT
    assert [item.usage.total_tokens for item in items if item.usage] == ([15] if asked else [])
    assert gateway.upstream.last.json()["stream_options"] == {"include_usage": True}
    row = await gateway.get_row(stream.response.headers["x-request-id"])
    assert (row["output_tokens"], row["usage_source"]) == (3, "provider")


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_embeddings_come_back_as_numbers(gateway: CountingGateway) -> None:
    """The SDK asks for base64 unless told otherwise, and decodes it."""
    base64 = "zczMPQrXI7w="  # 0.1 and -0.01 as little-endian floats of 32 bits
    answer = {"object": "list", "model": "m", "usage": {"prompt_tokens": 40, "total_tokens": 40}}
    item = {"object": "embedding", "index": 0, "embedding": base64}
    gateway.upstream.script(plain(answer | {"data": [item]}), plain(EMBEDDINGS.plain))
    async with client_of(gateway) as client:
        coded = await client.embeddings.create(model="openai/text-embedding-3-small", input=["one"])
        assert gateway.upstream.last.json()["encoding_format"] == "base64"
        raw = await client.embeddings.with_raw_response.create(
            model="openai/text-embedding-3-small", input=[[1, 2], [3]], encoding_format="float"
        )
    assert coded.data[0].embedding == pytest.approx([0.1, -0.01])
    assert [item.embedding for item in raw.parse().data] == [[0.1, -0.0025], [1.0, 0.0]]
    assert Decimal(raw.headers["X-Muxx-Cost"]) == Decimal(EMBEDDINGS.row["cost_usd"])
    assert gateway.upstream.last.json()["input"] == [[1, 2], [3]]


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_response_comes_back_whole(gateway: CountingGateway) -> None:
    gateway.upstream.script(plain(response_of(*PIECES)))
    async with client_of(gateway) as client:
        raw = await client.responses.with_raw_response.create(model="gpt-4o", input="Say it", instructions="be brief")
    answer = raw.parse()
    assert answer.output_text == TEXT
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 30)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    row = await gateway.get_row(raw.headers["X-Muxx-Request-Id"])
    assert Decimal(raw.headers["X-Muxx-Cost"]) == Decimal(row["cost_usd"]) == Decimal(RESPONSES.row["cost_usd"])


async def test_a_response_streams_event_by_event(gateway: CountingGateway) -> None:
    whole = response_stream(*PIECES)
    gateway.upstream.script(sse(whole))
    async with client_of(gateway) as client:
        stream = await client.responses.create(model="gpt-4o", input="Say it", stream=True)
        events = [item async for item in stream]
    assert [item.type for item in events] == [line.split('"type": "')[1].split('"')[0] for line in _data_of(whole)]
    assert "".join(item.delta for item in events if item.type == "response.output_text.delta") == TEXT
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT
    row = await gateway.get_row(stream.response.headers["x-request-id"])
    assert (row["status"], row["output_tokens"], row["output"]) == (200, 30, terminal(whole))


def _data_of(stream: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in stream.decode().splitlines() if line.startswith("data: ")]


async def test_the_stream_helper_of_responses_assembles_the_answer(gateway: CountingGateway) -> None:
    gateway.upstream.script(sse(response_stream(*PIECES)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its models warn of what they do not know
        async with client_of(gateway) as client, client.responses.stream(model="gpt-4o", input="Say it") as stream:
            deltas = "".join([item.delta async for item in stream if item.type == "response.output_text.delta"])
            final = await stream.get_final_response()
    assert deltas == final.output_text == TEXT


async def test_the_synchronous_client_calls_all_three(gateway: CountingGateway) -> None:
    def work(client: openai.OpenAI) -> tuple[str, str, int]:
        text = client.completions.create(model="gpt-4o", prompt="Say it").choices[0].text
        answer = client.responses.create(model="gpt-4o", input="Say it").output_text
        data = client.embeddings.create(model="openai/text-embedding-3-small", input="x", encoding_format="float").data
        return text, answer, len(data)

    gateway.upstream.script(plain(completion(TEXT)), plain(response_of(*PIECES)), plain(EMBEDDINGS.plain))
    assert await in_thread(gateway, work) == (TEXT, TEXT, 2)


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broken_stream_is_an_error_of_the_sdk_and_no_answer(gateway: CountingGateway) -> None:
    async with client_of(gateway, max_retries=0) as client:
        gateway.upstream.script(sse(middle(COMPLETIONS), end=rst()), sse(middle(RESPONSES), end=rst()))
        for create in (
            lambda: client.completions.create(model="gpt-4o", prompt="Say it", stream=True),
            lambda: client.responses.create(model="gpt-4o", input="Say it", stream=True),
        ):
            stream: Any = await create()
            seen: list[Any] = []
            with pytest.raises(openai.APIError) as caught:
                async for item in stream:
                    seen.append(item)
            assert caught.value.code == "upstream_disconnected"
            assert seen
            row = await gateway.get_row(stream.response.headers["x-request-id"])
            assert row["error_code"] == "upstream_disconnected"


async def test_a_wrong_field_is_a_bad_request_that_names_it(gateway: CountingGateway) -> None:
    wrong: list[Any] = json.loads('[{"not": "a prompt"}]')
    async with client_of(gateway) as client:
        calls: list[tuple[str, Any]] = [
            ("prompt", client.completions.create(model="gpt-4o", prompt=[*wrong, "x"])),
            ("input", client.embeddings.create(model="gpt-4o", input=[*wrong, "x"])),
            ("max_output_tokens", client.responses.create(model="gpt-4o", input="x", max_output_tokens=0)),
        ]
        for param, call in calls:
            with pytest.raises(openai.BadRequestError) as caught:
                await call
            assert (caught.value.param, caught.value.code) == (param, "invalid_type")
    assert gateway.upstream.requests == []

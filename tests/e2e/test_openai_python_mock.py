"""The OpenAI SDK for Python against `muxx serve --mock`: every endpoint answers, with nothing but `base_url` and `api_key` changed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from openai_kit import TOOL, CountingGateway
from openai_python import client_of, in_thread
from wire.responses_judge import consistent
from wires_kit import COMPLETIONS, RESPONSES, Endpoint, ask, each, each_form, less_comment, post, response_row, shown

from muxx.testing import RawResponse

FLAT_TOOL: Any = {"type": "function", "strict": False, **TOOL["function"]}
PER_TOKEN = {"input": Decimal("0.0000025"), "output": Decimal("0.00001")}
"""gpt-4o in USD."""


@pytest.fixture
async def mocking() -> AsyncIterator[CountingGateway]:
    async with CountingGateway(mock=True) as running:
        yield running
        assert running.upstream.requests == [], "nothing is sent anywhere"


# ── completions ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_mock_completes_a_prompt_streamed_or_not(mocking: CountingGateway) -> None:
    async with client_of(mocking) as client:
        whole = await client.completions.create(model="gpt-4o", prompt=["Once upon", "a time"])
        stream = await client.completions.create(
            model="gpt-4o", prompt="Once upon", stream=True, stream_options={"include_usage": True}
        )
        items = [item async for item in stream]
    assert [choice.text for choice in whole.choices] == ["Once upon", "a time"]
    assert [choice.text for item in items for choice in item.choices] == ["Once ", "upon", ""]
    assert items[-1].usage is not None
    assert items[-1].usage.total_tokens == 6
    row = await mocking.get_row(stream.response.headers["x-request-id"])
    assert (row["provider"], row["usage_source"], row["output_tokens"]) == ("mock", "provider", 3)
    assert Decimal(row["cost_usd"]) == 3 * (PER_TOKEN["input"] + PER_TOKEN["output"])


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_mock_embeds_with_the_sdks_own_encoding_as_with_plain_numbers(mocking: CountingGateway) -> None:
    """The SDK asks for base64 unless told otherwise, and decodes it."""
    async with client_of(mocking) as client:
        coded = await client.embeddings.create(model="text-embedding-3-small", input=["one", "two", "one"])
        plain = await client.embeddings.create(model="text-embedding-3-small", input="one", encoding_format="float")
        short = await client.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]], dimensions=4)
    first, second, again = (item.embedding for item in coded.data)
    assert first == again == pytest.approx(plain.data[0].embedding)
    assert first != second
    assert (len(first), math.hypot(*first)) == (1536, pytest.approx(1, abs=1e-6))
    assert [len(item.embedding) for item in short.data] == [4, 4]
    assert (coded.usage.total_tokens, short.usage.total_tokens) == (3, 3)


async def test_embeddings_of_the_mock_are_priced_and_recorded(mocking: CountingGateway) -> None:
    async with client_of(mocking) as client:
        raw = await client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="x" * 41)
    row = await mocking.get_row(raw.headers["X-Muxx-Request-Id"])
    assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == ("embeddings", 10, 0)
    assert Decimal(raw.headers["X-Muxx-Cost"]) == Decimal(row["cost_usd"]) == 10 * Decimal("0.00000002")


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_mock_responds_streamed_or_not(mocking: CountingGateway) -> None:
    async with client_of(mocking) as client:
        whole = await client.responses.create(model="gpt-4o", input="Grüß Gott 👋", instructions="be brief")
        stream = await client.responses.create(model="gpt-4o", input="Grüß Gott 👋", instructions="be brief", stream=True)
        events = [item async for item in stream]
    assert (whole.output_text, whole.instructions, whole.status) == ("Grüß Gott 👋", "be brief", "completed")
    assert "".join(item.delta for item in events if item.type == "response.output_text.delta") == "Grüß Gott 👋"
    assert [item.sequence_number for item in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.usage) == (whole.output_text, whole.usage)


async def test_the_stream_helper_assembles_what_the_mock_says(mocking: CountingGateway) -> None:
    async with client_of(mocking) as client, client.responses.stream(model="mock/reasoning", input="Hello there") as stream:
        kinds = [item.type async for item in stream]
        final = await stream.get_final_response()
    assert "response.reasoning_summary_text.delta" in kinds
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "Hello there"


async def test_a_tool_loop_over_responses_comes_to_its_end(mocking: CountingGateway) -> None:
    said: list[Any] = [{"role": "user", "content": "Weather in Graz?"}]
    async with client_of(mocking) as client:
        async with client.responses.stream(model="mock/tool", input=said, tools=[FLAT_TOOL]) as stream:
            async for _ in stream:
                pass
            [called] = (await stream.get_final_response()).output
        assert isinstance(called, ResponseFunctionToolCall)
        assert (called.name, called.arguments) == ("weather", '{"city":"example"}')
        said += [
            called.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": called.call_id, "output": "mild"},
        ]
        answer = await client.responses.create(model="mock/tool", input=said, tools=[FLAT_TOOL])
    assert answer.output_text == "The tool answered: mild"


async def test_the_synchronous_client_calls_every_endpoint_of_the_mock(mocking: CountingGateway) -> None:
    def work(client: openai.OpenAI) -> tuple[str, str, int]:
        text = client.completions.create(model="gpt-4o", prompt="Say it").choices[0].text
        answer = client.responses.create(model="gpt-4o", input="Say it").output_text
        return text, answer, len(client.embeddings.create(model="gpt-4o", input="Say it", dimensions=8).data[0].embedding)

    assert await in_thread(mocking, work) == ("Say it", "Say it", 8)


# ── rows, and what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@each_form
async def test_the_row_of_a_mocked_answer_says_what_the_answer_says(
    mocking: CountingGateway, endpoint: Endpoint, stream: bool
) -> None:
    response = await ask(mocking, endpoint, stream)
    assert response.status == 200
    row = await mocking.get_row(response.request_id)
    assert (row["endpoint"], row["provider"], row["usage_source"], row["error_code"]) == (endpoint.name, "mock", "provider", None)
    if stream and endpoint is RESPONSES:
        last = response.body[response.body.rindex(b"event: ") :]
        body = less_comment(response, last)
        assert consistent(body)
        expected = response_row(body)
        assert shown(row, expected) == expected


@each_form
@pytest.mark.parametrize("model", ["mock/cut", "mock/garbage"])
async def test_a_fault_of_the_mock_is_an_error_and_no_answer_at_every_endpoint(
    mocking: CountingGateway, endpoint: Endpoint, stream: bool, model: str
) -> None:
    response = await post(mocking, endpoint, model=model, **({"stream": True} if stream else {}))
    code = "upstream_disconnected" if model == "mock/cut" else "upstream_protocol_error"
    assert code in response.text
    assert (response.status, (await mocking.get_row(response.request_id))["error_code"]) == (200 if stream else 502, code)


@pytest.mark.parametrize("endpoint", [COMPLETIONS, RESPONSES], ids=str)
async def test_a_client_sees_how_far_a_mocked_stream_came(mocking: CountingGateway, endpoint: Endpoint) -> None:
    said: dict[str, Any] = {"prompt" if endpoint is COMPLETIONS else "input": "one two three four"}
    response: RawResponse = await post(mocking, endpoint, model="mock/cut", stream=True, **said)
    assert "two" in response.text
    assert "three" not in response.text


@each
async def test_an_error_the_mock_was_asked_for_reaches_the_client(mocking: CountingGateway, endpoint: Endpoint) -> None:
    response = await post(mocking, endpoint, model="mock/error-429")
    assert (response.status, response.error["code"]) == (429, "rate_limit_exceeded")

"""What the kit writes is what the providers' own clients read, and what providers really sent the kit takes for whole."""

from __future__ import annotations

import orjson
import pytest
from anthropic import AsyncAnthropic
from anthropic import RateLimitError as AnthropicRateLimit
from google import genai
from google.genai import errors, types
from wire.recordings import recordings

from muxx.testing import Said, ScriptedUpstream, Tool, is_whole, letters, words

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")  # Google's client

TALK = Said(
    "Grüß Gott, you 👋",
    "Let me think.",
    (Tool("f", '{"a": 1}'), Tool("g", "{}", "call_2")),
    finish_reason="tool_calls",
    cached_tokens=4,
)


def anthropic(upstream: ScriptedUpstream) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=upstream.url, api_key="none", max_retries=0)


def google(upstream: ScriptedUpstream) -> genai.Client:
    return genai.Client(api_key="none", http_options=types.HttpOptions(base_url=upstream.url))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [words, letters])
async def test_anthropics_client_reads_what_was_said(scripted_upstream: ScriptedUpstream, stream: bool, pieces: object) -> None:
    scripted_upstream.says(TALK, pieces=words if pieces is words else letters)
    asked = {"model": "claude-3-5-haiku", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    async with anthropic(scripted_upstream) as client:
        if stream:
            async with client.messages.stream(**asked) as events:  # type: ignore[arg-type]
                message = await events.get_final_message()
        else:
            message = await client.messages.create(**asked)  # type: ignore[call-overload]
    thinking, text, *calls = message.content
    assert (thinking.thinking, thinking.signature, text.text) == (TALK.reasoning, TALK.signature, TALK.text)
    assert tuple(Tool(call.name, orjson.dumps(call.input).decode(), call.id) for call in calls) == TALK.tools
    assert (message.stop_reason, message.model) == ("tool_use", "claude-3-5-haiku")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_googles_client_reads_what_was_said(scripted_upstream: ScriptedUpstream, stream: bool) -> None:
    scripted_upstream.says(TALK)
    async with google(scripted_upstream).aio as client:
        if stream:
            answers = [
                item async for item in await client.models.generate_content_stream(model="gemini-1.5-flash", contents="Hi")
            ]
        else:
            answers = [await client.models.generate_content(model="gemini-1.5-flash", contents="Hi")]
    parts = [part for item in answers for part in item.candidates[0].content.parts or ()]
    assert "".join(part.text for part in parts if part.text and part.thought) == TALK.reasoning
    assert "".join(part.text for part in parts if part.text and not part.thought) == TALK.text
    calls = [(part.function_call, part.thought_signature) for part in parts if part.function_call]
    assert tuple(Tool(call.name, orjson.dumps(call.args).decode(), call.id) for call, _ in calls) == TALK.tools
    assert [signature is not None for _, signature in calls] == [True, False]
    assert answers[-1].candidates[0].finish_reason == types.FinishReason.STOP
    usage = answers[-1].usage_metadata
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (10, 4)
    assert usage.candidates_token_count + usage.thoughts_token_count == 5
    assert answers[-1].model_version == "gemini-1.5-flash"


async def test_both_clients_read_counts_and_refusals(scripted_upstream: ScriptedUpstream) -> None:
    async with anthropic(scripted_upstream) as one, google(scripted_upstream).aio as other:
        scripted_upstream.says(Said(input_tokens=14))
        counted = await one.messages.count_tokens(model="claude-3-5-haiku", messages=[{"role": "user", "content": "Hi"}])
        assert counted.input_tokens == 14
        assert (await other.models.count_tokens(model="gemini-1.5-flash", contents="Hi")).total_tokens == 14
        scripted_upstream.refuses(429, "Wait.")
        with pytest.raises(AnthropicRateLimit, match="Wait"):
            await one.messages.count_tokens(model="claude-3-5-haiku", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(errors.ClientError, match="RESOURCE_EXHAUSTED"):
            await other.models.count_tokens(model="gemini-1.5-flash", contents="Hi")


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [("anthropic-messages", "messages"), ("gemini-generate", "generate_content"), ("openai-responses", "responses")],
)
def test_what_providers_really_sent_is_taken_for_whole_and_less_is_not(kind: str, endpoint: str) -> None:
    for recording in recordings(kind):
        stream = recording.read_bytes()
        assert is_whole(endpoint, stream), recording.name
        end = b"\r\n\r\n" if stream.endswith(b"\r\n\r\n") else b"\n\n"
        assert not is_whole(endpoint, stream.removesuffix(end).rpartition(end)[0] + end), recording.name

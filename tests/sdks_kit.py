"""The SDKs of the three vendors as their users call them, each answer read into what the user has seen of it by its end."""

from __future__ import annotations

import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import anthropic
import openai
import orjson
from google import genai
from google.genai import errors, types

from muxx.testing import RunningGateway

GOOGLES_WORDS = {
    400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED", 529: "UNAVAILABLE",
}  # fmt: skip
ANTHROPICS_WORDS = {
    400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 502: "api_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


# ── the clients ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Seen:
    """What the user of an SDK has seen of an answer by its end, in the SDK's own words."""

    text: str = ""
    arguments: str = ""
    """Of a tool's call."""
    finish: str | None = None
    """How the answer says that it ended; None: it does not look whole."""
    raised: str | None = None
    """The exception's class."""
    status: int | None = None
    """What the exception shows."""
    word: str | None = None
    """By which the client's format names the error."""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Sdks:
    """The SDKs as their users make them, with nothing but base URL and key changed, and without their retries."""

    def __init__(self, gateway: RunningGateway, retries: int = 0) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=retries)
        self.anthropic = anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key=gateway.key, max_retries=retries)
        again = types.HttpRetryOptions(attempts=retries + 1, initial_delay=0.01)
        options = types.HttpOptions(base_url=gateway.base_url, retry_options=again)
        self.google = genai.Client(api_key=gateway.key, http_options=options)
        self._ways: dict[str, Callable[[str, str, bool, dict[str, str], Seen], Awaitable[None]]] = {
            "chat": self._chat,
            "responses": self._responses,
            "messages": self._messages,
            "generate_content": self._generate,
        }

    async def close(self) -> None:
        await self.openai.close()
        await self.anthropic.close()
        await self.google.aio.aclose()

    async def ask(self, client: str, model: str, word: str, *, stream: bool, user: str | None = None) -> Seen:
        """One request of this client's, to its end."""
        seen = Seen()
        try:
            await self._ways[client](model, word, stream, {"X-Muxx-User-Id": user or word}, seen)
        except openai.APIError as error:
            seen.raised, seen.message, seen.word = type(error).__name__, error.message, error.code
            _take_response(seen, getattr(error, "response", None))
        except anthropic.APIError as error:
            seen.raised, seen.message = type(error).__name__, error.message
            seen.word = error.body["error"]["type"] if isinstance(error.body, dict) else None
            _take_response(seen, getattr(error, "response", None))
        except errors.APIError as error:
            seen.raised, seen.message, seen.word = type(error).__name__, error.message or "", error.status
            seen.status = error.code
            seen.headers = _small(getattr(error.response, "headers", None) or {})
        return seen

    async def _chat(self, model: str, word: str, stream: bool, headers: dict[str, str], seen: Seen) -> None:
        messages: Any = [{"role": "user", "content": word}]
        got: Any = await self.openai.chat.completions.create(model=model, messages=messages, stream=stream, extra_headers=headers)
        if not stream:
            choice = got.choices[0]
            seen.text, seen.finish = choice.message.content or "", choice.finish_reason
            return
        async for chunk in got:
            for choice in chunk.choices:
                seen.text += choice.delta.content or ""
                seen.arguments += "".join(call.function.arguments or "" for call in choice.delta.tool_calls or ())
                seen.finish = choice.finish_reason or seen.finish

    async def _responses(self, model: str, word: str, stream: bool, headers: dict[str, str], seen: Seen) -> None:
        got: Any = await self.openai.responses.create(model=model, input=word, stream=stream, extra_headers=headers)
        if not stream:
            seen.text, seen.finish = got.output_text, got.status
            return
        async for event in got:
            if event.type == "response.output_text.delta":
                seen.text += event.delta
            elif event.type == "response.function_call_arguments.delta":
                seen.arguments += event.delta
            elif event.type in ("response.completed", "response.incomplete"):
                seen.finish = event.response.status
            elif event.type == "error":
                seen.raised, seen.word, seen.message = type(event).__name__, event.code, event.message

    async def _messages(self, model: str, word: str, stream: bool, headers: dict[str, str], seen: Seen) -> None:
        asked: Any = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": word}]}
        got: Any = await self.anthropic.messages.create(**asked, stream=stream, extra_headers=headers)
        if not stream:
            seen.text, seen.finish = "".join(block.text for block in got.content if block.type == "text"), got.stop_reason
            return
        reason = None
        async for event in got:
            if event.type == "content_block_delta":
                seen.text += getattr(event.delta, "text", "")
                seen.arguments += getattr(event.delta, "partial_json", "")
            elif event.type == "message_delta":
                reason = event.delta.stop_reason
            elif event.type == "message_stop":
                seen.finish = reason

    async def _generate(self, model: str, word: str, stream: bool, headers: dict[str, str], seen: Seen) -> None:
        config = types.GenerateContentConfig(http_options=types.HttpOptions(headers=headers))
        asked: Any = {"model": model, "contents": word, "config": config}
        if stream:
            async for item in await self.google.aio.models.generate_content_stream(**asked):
                _take_generated(item, seen)
        else:
            _take_generated(await self.google.aio.models.generate_content(**asked), seen)


def _take_response(seen: Seen, response: Any) -> None:
    if response is not None:
        seen.status, seen.headers = response.status_code, _small(response.headers)


def _small(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _take_generated(item: Any, seen: Seen) -> None:
    if item.prompt_feedback is not None and item.prompt_feedback.block_reason is not None:
        seen.finish = item.prompt_feedback.block_reason.name
    for candidate in item.candidates or ():
        parts = (candidate.content.parts if candidate.content is not None else None) or ()
        seen.text += "".join(part.text or "" for part in parts)
        seen.arguments += "".join(orjson.dumps(part.function_call.args).decode() for part in parts if part.function_call)
        seen.finish = candidate.finish_reason.name if candidate.finish_reason is not None else seen.finish


@asynccontextmanager
async def sdks_of(gateway: RunningGateway, retries: int = 0) -> AsyncIterator[Sdks]:
    with mock.patch.object(ssl.SSLContext, "load_verify_locations", _nothing):
        sdks = Sdks(gateway, retries)
    try:
        yield sdks
    finally:
        await sdks.close()
        _keep_types()


def _nothing(*args: Any, **options: Any) -> None:
    """The gateway is called without TLS, and most of the making of a client is reading certificates."""


@cache
def _keep_types() -> None:
    """The SDKs' types, which they make at their first use, are never garbage: a collection, which every test makes, is ten times
    as fast without them."""
    gc.collect()
    gc.freeze()


def exception_of(client: str, status: int, *, in_stream: bool, relayed: bool = False) -> str:
    """The class that the user of an SDK expects for a provider's failure: by its HTTP status, or told in a stream.

    `relayed`: by the provider's own event, which in Responses is an event and no exception.
    """
    if client == "generate_content":
        return "ServerError" if status >= 500 else "ClientError"
    if in_stream:
        if client == "messages":
            return "APIStatusError"
        return "ResponseErrorEvent" if client == "responses" and relayed else "APIError"
    own = {503: "ServiceUnavailableError", 504: "GatewayTimeoutError", 529: "OverloadedError"} if client == "messages" else {}
    return {400: "BadRequestError", 429: "RateLimitError", **own}.get(status, "InternalServerError")


def word_of(client: str, status: int, code: str) -> str:
    """How a client's format names an error of this status, whose code OpenAI's formats have a place for."""
    words = {"messages": ANTHROPICS_WORDS, "generate_content": GOOGLES_WORDS}.get(client)
    return code if words is None else words[status]

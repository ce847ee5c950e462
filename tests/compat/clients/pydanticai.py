"""Pydantic AI: the models `openai-chat:…`, `openai:…` (Responses) and `anthropic:…`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

from kit import URL, Answer, Face, Stream, Tools, main, weather
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolCallPart, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Stay(BaseModel):
    place: str
    days: int


class _PydanticAI(Face):
    NOT_FOUND = "ModelHTTPError 404"
    UNAUTHORIZED = "ModelHTTPError 401"

    @abstractmethod
    def model(self, name: str) -> Model: ...

    def plain(self, model: str, prompt: str) -> Answer:
        done = Agent(self.model(model)).run_sync(prompt)
        usage = done.usage() if callable(done.usage) else done.usage
        return Answer(done.output, usage.input_tokens, usage.output_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        async def streamed() -> Stream:
            async with Agent(self.model(model)).run_stream(prompt) as run:
                pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
                usage = run.usage() if callable(run.usage) else run.usage
                return Stream(pieces, usage.input_tokens, usage.output_tokens)

        return asyncio.run(streamed())

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer too."""
        agent = Agent(self.model(model), instructions="Be brief.")

        agent.tool_plain(weather)

        async def streamed() -> Tools:
            async with agent.run_stream(prompt) as run:
                answer = await run.get_output()
                [call] = [part for message in run.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]
                return Tools(call.tool_name, call.args_as_dict(), answer)

        return asyncio.run(streamed())

    def schema(self, model: str, prompt: str) -> list[Any]:
        """By a tool that has to be called, and by a schema of the text where Pydantic AI takes the model for one that can."""
        ways: list[Any] = [ToolOutput(Stay)]
        if self.model(model).profile.get("supports_json_schema_output"):
            ways.append(NativeOutput(Stay))
        return [Agent(self.model(model), output_type=way).run_sync(prompt).output.model_dump() for way in ways]

    def abort(self, model: str, prompt: str) -> str:
        async def aborted() -> str:
            async with Agent(self.model(model)).run_stream(prompt) as run:
                async for piece in run.stream_text(delta=True, debounce_by=None):
                    if piece:
                        return str(piece)
            raise AssertionError("no piece")

        return asyncio.run(aborted())

    def kinds(self, error: Exception) -> list[str]:
        """Pydantic AI has one class for all errors of a provider, with the status in it."""
        return [f"ModelHTTPError {error.status_code}"] if isinstance(error, ModelHTTPError) else super().kinds(error)


class Chat(_PydanticAI):
    def model(self, name: str) -> Model:
        return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=self.key))


class Responses(_PydanticAI):
    def model(self, name: str) -> Model:
        return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=self.key))


class Messages(_PydanticAI):
    def model(self, name: str) -> Model:
        return AnthropicModel(name, provider=AnthropicProvider(base_url=URL, api_key=self.key))


main({"chat": Chat, "responses": Responses, "messages": Messages})

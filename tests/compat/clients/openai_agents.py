"""OpenAI's Agents SDK: Responses, which is its default, and chat completions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    ToolCallItem,
    function_tool,
    set_tracing_disabled,
)
from kit import URL, Answer, Face, Stream, Tools, main, weather
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

set_tracing_disabled(True)


class Stay(BaseModel):
    place: str
    days: int


WEATHER = function_tool(weather)


def _text_of(event: Any) -> str:
    data = event.data if event.type == "raw_response_event" else None
    return data.delta if isinstance(data, ResponseTextDeltaEvent) else ""


class _Agents(Face):
    def ask(self, name: str, client: AsyncOpenAI) -> Model:
        raise NotImplementedError

    def agent(self, name: str, **options: Any) -> Agent:
        client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=self.key)
        settings = ModelSettings(include_usage=True)
        return Agent(name="compat", instructions="Be brief.", model=self.ask(name, client), model_settings=settings, **options)

    def plain(self, model: str, prompt: str) -> Answer:
        done = asyncio.run(Runner.run(self.agent(model), prompt))
        usage = done.context_wrapper.usage
        return Answer(done.final_output, usage.input_tokens, usage.output_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        return asyncio.run(self._stream(model, prompt))

    async def _stream(self, model: str, prompt: str) -> Stream:
        done = Runner.run_streamed(self.agent(model), prompt)
        pieces = [_text_of(event) async for event in done.stream_events()]
        usage = done.context_wrapper.usage
        return Stream([piece for piece in pieces if piece], usage.input_tokens, usage.output_tokens)

    def tools(self, model: str, prompt: str) -> Tools:
        return asyncio.run(self._tools(model, prompt))

    async def _tools(self, model: str, prompt: str) -> Tools:
        """Call and answer come streamed; the SDK calls the tool."""
        done = Runner.run_streamed(self.agent(model, tools=[WEATHER]), prompt)
        async for _ in done.stream_events():
            pass
        call: Any = next(item.raw_item for item in done.new_items if isinstance(item, ToolCallItem))
        return Tools(call.name, json.loads(call.arguments), done.final_output)

    def schema(self, model: str, prompt: str) -> list[Any]:
        done = asyncio.run(Runner.run(self.agent(model, output_type=Stay), prompt))
        return [done.final_output.model_dump()]

    def abort(self, model: str, prompt: str) -> str:
        return asyncio.run(self._abort(model, prompt))

    async def _abort(self, model: str, prompt: str) -> str:
        done = Runner.run_streamed(self.agent(model), prompt)
        async for event in done.stream_events():
            if text := _text_of(event):
                done.cancel()
                return text
        return ""


class Responses(_Agents):
    def ask(self, name: str, client: AsyncOpenAI) -> Model:
        return OpenAIResponsesModel(name, client)


class Chat(_Agents):
    def ask(self, name: str, client: AsyncOpenAI) -> Model:
        return OpenAIChatCompletionsModel(name, client)


main({"responses": Responses, "chat": Chat})

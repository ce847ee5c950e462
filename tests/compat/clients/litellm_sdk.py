"""litellm's SDK: `openai/…` over chat completions, `anthropic/…` over Messages."""

from __future__ import annotations

import json
from typing import Any

import litellm
from kit import EXPECTED, URL, Answer, Face, Stream, Tools, main
from pydantic import BaseModel

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather in a city", "parameters": PARAMETERS}}


class Stay(BaseModel):
    place: str
    days: int


class _Litellm(Face):
    PROVIDER = ""
    BASE = ""

    def completion(self, model: str, messages: list[Any], **given: Any) -> Any:
        return litellm.completion(f"{self.PROVIDER}/{model}", messages, api_base=self.BASE, api_key=self.key, **given)

    def plain(self, model: str, prompt: str) -> Answer:
        done = self.completion(model, [{"role": "user", "content": prompt}])
        return Answer(done.choices[0].message.content, done.usage.prompt_tokens, done.usage.completion_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        pieces, usage = [], None
        options = {"include_usage": True}
        for chunk in self.completion(model, [{"role": "user", "content": prompt}], stream=True, stream_options=options):
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            usage = getattr(chunk, "usage", None) or usage
        return Stream(pieces, usage.prompt_tokens, usage.completion_tokens)

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
        chunks = list(self.completion(model, messages, tools=[WEATHER], stream=True))
        message = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message
        [call] = message.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": EXPECTED["tool_result"]}
        answered = self.completion(model, [*messages, message, result], tools=[WEATHER])
        return Tools(call.function.name, json.loads(call.function.arguments), answered.choices[0].message.content)

    def schema(self, model: str, prompt: str) -> list[Any]:
        done = self.completion(model, [{"role": "user", "content": prompt}], response_format=Stay)
        return [json.loads(done.choices[0].message.content)]

    def abort(self, model: str, prompt: str) -> str:
        with self.completion(model, [{"role": "user", "content": prompt}], stream=True) as stream:
            return next(chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content)


class OpenAI(_Litellm):
    PROVIDER, BASE = "openai", f"{URL}/v1"


class Anthropic(_Litellm):
    PROVIDER, BASE = "anthropic", URL


main({"openai": OpenAI, "anthropic": Anthropic})

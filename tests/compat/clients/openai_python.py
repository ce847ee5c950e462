"""OpenAI's SDK for Python: chat completions and Responses."""

from __future__ import annotations

import json
from typing import Any

from kit import EXPECTED, URL, Answer, Face, Stream, Tools, main
from openai import OpenAI
from pydantic import BaseModel

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
FUNCTION = {"name": "weather", "description": "The weather in a city", "parameters": PARAMETERS}


class Stay(BaseModel):
    place: str
    days: int


class _OpenAI(Face):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.client = OpenAI(base_url=f"{URL}/v1", api_key=key)


class Chat(_OpenAI):
    def plain(self, model: str, prompt: str) -> Answer:
        done = self.client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
        return Answer(done.choices[0].message.content, done.usage.prompt_tokens, done.usage.completion_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        pieces, usage = [], None
        for chunk in self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], stream=True, stream_options={"include_usage": True}
        ):
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            usage = chunk.usage or usage
        return Stream(pieces, usage.prompt_tokens, usage.completion_tokens)

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
        tools: list[Any] = [{"type": "function", "function": FUNCTION}]
        with self.client.chat.completions.stream(model=model, messages=messages, tools=tools) as stream:
            message = stream.get_final_completion().choices[0].message
        call = message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": EXPECTED["tool_result"]}
        answered = self.client.chat.completions.create(model=model, messages=[*messages, message.to_dict(), result], tools=tools)
        return Tools(call.function.name, json.loads(call.function.arguments), answered.choices[0].message.content)

    def schema(self, model: str, prompt: str) -> list[Any]:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        parsed = self.client.chat.completions.parse(model=model, messages=messages, response_format=Stay)
        return [parsed.choices[0].message.parsed.model_dump()]

    def abort(self, model: str, prompt: str) -> str:
        with self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], stream=True
        ) as stream:
            return next(chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content)


class Responses(_OpenAI):
    def plain(self, model: str, prompt: str) -> Answer:
        done = self.client.responses.create(model=model, input=prompt)
        return Answer(done.output_text, done.usage.input_tokens, done.usage.output_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        with self.client.responses.stream(model=model, input=prompt) as stream:
            pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
            usage = stream.get_final_response().usage
        return Stream(pieces, usage.input_tokens, usage.output_tokens)

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        given: list[Any] = [{"role": "user", "content": prompt}]
        tools: list[Any] = [{"type": "function", "strict": True, **FUNCTION}]
        with self.client.responses.stream(model=model, input=given, tools=tools, instructions="Be brief.") as stream:
            output = stream.get_final_response().output
        call = next(item for item in output if item.type == "function_call")
        given += [item.to_dict() for item in output]
        given.append({"type": "function_call_output", "call_id": call.call_id, "output": EXPECTED["tool_result"]})
        answered = self.client.responses.create(model=model, input=given, tools=tools)
        return Tools(call.name, json.loads(call.arguments), answered.output_text)

    def schema(self, model: str, prompt: str) -> list[Any]:
        parsed = self.client.responses.parse(model=model, input=prompt, text_format=Stay)
        return [parsed.output_parsed.model_dump()]

    def abort(self, model: str, prompt: str) -> str:
        with self.client.responses.create(model=model, input=prompt, stream=True) as stream:
            return next(event.delta for event in stream if event.type == "response.output_text.delta")


main({"chat": Chat, "responses": Responses})

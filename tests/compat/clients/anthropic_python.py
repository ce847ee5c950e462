"""Anthropic's SDK for Python: Messages."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from kit import EXPECTED, URL, Answer, Face, Stream, Tools, main
from pydantic import BaseModel

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Stay(BaseModel):
    place: str
    days: int


class Messages(Face):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.client = Anthropic(base_url=URL, api_key=key)

    def plain(self, model: str, prompt: str) -> Answer:
        done = self.client.messages.create(model=model, max_tokens=1000, messages=[{"role": "user", "content": prompt}])
        return Answer(done.content[0].text, done.usage.input_tokens, done.usage.output_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        with self.client.messages.stream(model=model, max_tokens=1000, messages=[{"role": "user", "content": prompt}]) as stream:
            pieces = list(stream.text_stream)
            usage = stream.get_final_message().usage
        return Stream(pieces, usage.input_tokens, usage.output_tokens)

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        messages: list[Any] = [{"role": "user", "content": prompt}]
        tools: list[Any] = [{"name": "weather", "description": "The weather in a city", "input_schema": SCHEMA}]
        given: Any = {"model": model, "max_tokens": 1000, "system": "Be brief.", "tools": tools}
        with self.client.messages.stream(messages=messages, **given) as stream:
            message = stream.get_final_message()
        call = next(block for block in message.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": EXPECTED["tool_result"]}
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        answered = self.client.messages.create(messages=messages, **given)
        return Tools(call.name, call.input, answered.content[0].text)

    def schema(self, model: str, prompt: str) -> list[Any]:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        parsed = self.client.messages.parse(model=model, max_tokens=1000, messages=messages, output_format=Stay)
        return [parsed.parsed_output.model_dump()]

    def abort(self, model: str, prompt: str) -> str:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        with self.client.messages.stream(model=model, max_tokens=1000, messages=messages) as stream:
            return next(iter(stream.text_stream))


main({"messages": Messages})

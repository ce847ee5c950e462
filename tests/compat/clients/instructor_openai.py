"""instructor over OpenAI's SDK. All its answers are values of a class, so a text is asked for as a class with one member."""

from __future__ import annotations

from typing import Any

import instructor
from kit import URL, Answer, Face, Stream, main
from openai import OpenAI
from pydantic import BaseModel


class Stay(BaseModel):
    place: str
    days: int


class Chat(Face):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=key))

    def plain(self, model: str, prompt: str) -> Answer:
        """Without a class it is the SDK's own call."""
        done = self.client.create(model=model, response_model=None, messages=[{"role": "user", "content": prompt}])
        return Answer(done.choices[0].message.content, done.usage.prompt_tokens, done.usage.completion_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        chunks = self.client.create(model=model, response_model=None, messages=messages, stream=True)
        return Stream([choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content])

    def schema(self, model: str, prompt: str) -> list[Any]:
        """By a tool that has to be called: plain, streamed as a value that fills up, and by a schema of the text."""
        messages: list[Any] = [{"role": "user", "content": prompt}]
        plain = self.client.create(model=model, response_model=Stay, messages=messages)
        *_, streamed = self.client.create_partial(model=model, response_model=Stay, messages=messages)
        by_schema = instructor.from_openai(self.client.client, mode=instructor.Mode.JSON_SCHEMA)
        value = by_schema.create(model=model, response_model=Stay, messages=messages)
        return [plain.model_dump(), streamed.model_dump(), value.model_dump()]

    def abort(self, model: str, prompt: str) -> str:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        with self.client.create(model=model, response_model=None, messages=messages, stream=True) as stream:
            return next(chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content)


main({"chat": Chat})

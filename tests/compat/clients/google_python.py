"""Google's SDK for Python: generate_content."""

from __future__ import annotations

from typing import Any

from google import genai
from google.genai import errors, types
from kit import EXPECTED, URL, Answer, Face, Stream, Tools, main
from pydantic import BaseModel


class Stay(BaseModel):
    place: str
    days: int


WEATHER = types.FunctionDeclaration(
    name="weather",
    description="The weather in a city",
    parameters=types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")}, required=["city"]),
)


class GenerateContent(Face):
    NOT_FOUND = "ClientError 404 NOT_FOUND"
    UNAUTHORIZED = "ClientError 401 UNAUTHENTICATED"

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.client = genai.Client(api_key=key, http_options={"base_url": URL})

    def plain(self, model: str, prompt: str) -> Answer:
        done = self.client.models.generate_content(model=model, contents=prompt)
        return Answer(done.text, done.usage_metadata.prompt_token_count, done.usage_metadata.candidates_token_count)

    def stream(self, model: str, prompt: str) -> Stream:
        pieces, usage = [], None
        for chunk in self.client.models.generate_content_stream(model=model, contents=prompt):
            pieces.append(chunk.text or "")
            usage = chunk.usage_metadata or usage
        return Stream(pieces, usage.prompt_token_count, usage.candidates_token_count)

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        config = types.GenerateContentConfig(
            system_instruction="Be brief.",
            tools=[types.Tool(function_declarations=[WEATHER])],
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        contents: list[Any] = [types.UserContent(prompt)]
        parts: list[Any] = []
        for chunk in self.client.models.generate_content_stream(model=model, contents=contents, config=config):
            parts += chunk.candidates[0].content.parts or [] if chunk.candidates[0].content else []
        call = next(part.function_call for part in parts if part.function_call)
        response = types.FunctionResponse(id=call.id, name=call.name, response={"result": EXPECTED["tool_result"]})
        contents += [types.ModelContent(parts), types.UserContent([types.Part(function_response=response)])]
        answered = self.client.models.generate_content(model=model, contents=contents, config=config)
        return Tools(call.name, call.args, answered.text)

    def schema(self, model: str, prompt: str) -> list[Any]:
        """By Google's own schema, and by JSON Schema."""
        values = []
        for form in ({"response_schema": Stay}, {"response_json_schema": Stay.model_json_schema()}):
            config = types.GenerateContentConfig(response_mime_type="application/json", **form)
            parsed = self.client.models.generate_content(model=model, contents=prompt, config=config).parsed
            values.append(parsed if isinstance(parsed, dict) else parsed.model_dump())
        return values

    def abort(self, model: str, prompt: str) -> str:
        stream = self.client.models.generate_content_stream(model=model, contents=prompt)
        piece = next(chunk.text for chunk in stream if chunk.text)
        stream.close()
        return piece

    def kinds(self, error: Exception) -> list[str]:
        """The SDK has one class for all of a caller's mistakes, and says which by the code and status in it."""
        if isinstance(error, errors.APIError):
            return [f"{type(error).__name__} {error.code} {error.status}"]
        return super().kinds(error)


main({"generate_content": GenerateContent})

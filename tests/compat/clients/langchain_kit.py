"""What every chat model of LangChain does in the same words."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from kit import Answer, Face, Stream, Tools, main, weather
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

__all__ = ["LangChain", "main"]


class Stay(BaseModel):
    """A stay at a place."""

    place: str
    days: int


WEATHER = tool(weather)


class LangChain(Face):
    @abstractmethod
    def model(self, name: str) -> BaseChatModel: ...

    def plain(self, model: str, prompt: str) -> Answer:
        done = self.model(model).invoke(prompt)
        return Answer(done.text, done.usage_metadata["input_tokens"], done.usage_metadata["output_tokens"])

    def stream(self, model: str, prompt: str) -> Stream:
        whole: BaseMessageChunk | None = None
        pieces = []
        for chunk in self.model(model).stream(prompt):
            pieces.append(chunk.text)
            whole = chunk if whole is None else whole + chunk
        usage = whole.usage_metadata or {}
        return Stream(pieces, usage.get("input_tokens"), usage.get("output_tokens"))

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        asking = self.model(model).bind_tools([WEATHER])
        messages: list[Any] = [SystemMessage("Be brief."), HumanMessage(prompt)]
        message: Any = None
        for chunk in asking.stream(messages):
            message = chunk if message is None else message + chunk
        call = message.tool_calls[0]
        result: ToolMessage = WEATHER.invoke(call)
        return Tools(call["name"], call["args"], asking.invoke([*messages, message, result]).text)

    def schema(self, model: str, prompt: str) -> list[Any]:
        """By a schema of the text, and by a tool that has to be called."""
        methods = ("json_schema", "function_calling")
        found = [self.model(model).with_structured_output(Stay, method=method).invoke(prompt) for method in methods]
        return [value.model_dump() for value in found]

    def abort(self, model: str, prompt: str) -> str:
        stream = self.model(model).stream(prompt)
        piece = next(chunk.text for chunk in stream if chunk.text)
        stream.close()
        return piece

"""LlamaIndex's OpenAILike: chat completions, and the completions it uses unless told that the model chats."""

from __future__ import annotations

import gc
from typing import Any

from kit import URL, Answer, Face, Stream, Tools, main, weather
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Stay(BaseModel):
    """A stay at a place."""

    place: str
    days: int


class _OpenAILike(Face):
    CHATS = False

    def llm(self, model: str) -> OpenAILike:
        return OpenAILike(
            model=model, api_base=f"{URL}/v1", api_key=self.key, is_chat_model=self.CHATS, is_function_calling_model=self.CHATS
        )

    def plain(self, model: str, prompt: str) -> Answer:
        done = self.llm(model).complete(prompt)
        return Answer(done.text, done.raw.usage.prompt_tokens, done.raw.usage.completion_tokens)

    def stream(self, model: str, prompt: str) -> Stream:
        return Stream([piece.delta or "" for piece in self.llm(model).stream_complete(prompt)])

    def abort(self, model: str, prompt: str) -> str:
        stream = self.llm(model).stream_complete(prompt)
        piece = next(piece.delta for piece in stream if piece.delta)
        stream.close()
        gc.collect()  # the SDK's stream beneath is in a cycle
        return piece


class Chat(_OpenAILike):
    CHATS = True

    def tools(self, model: str, prompt: str) -> Tools:
        """The call comes streamed, the answer plain."""
        llm, tool = self.llm(model), FunctionTool.from_defaults(weather)
        messages = [ChatMessage("Be brief.", role=MessageRole.SYSTEM), ChatMessage(prompt)]
        *_, last = llm.stream_chat_with_tools([tool], chat_history=messages)
        [call] = llm.get_tool_calls_from_response(last)
        given = {"tool_call_id": call.tool_id}
        result = ChatMessage(str(tool(**call.tool_kwargs)), role=MessageRole.TOOL, additional_kwargs=given)
        answered = llm.chat_with_tools([tool], chat_history=[*messages, last.message, result])
        return Tools(call.tool_name, call.tool_kwargs, answered.message.content)

    def schema(self, model: str, prompt: str) -> list[Any]:
        return [self.llm(model).as_structured_llm(Stay).complete(prompt).raw.model_dump()]


class Completions(_OpenAILike):
    CHATS = False


main({"chat": Chat, "completions": Completions})

"""LangChain's ChatOpenAI: chat completions."""

from __future__ import annotations

from kit import URL
from langchain_kit import LangChain, main
from langchain_openai import ChatOpenAI


class Chat(LangChain):
    def model(self, name: str) -> ChatOpenAI:
        return ChatOpenAI(model=name, base_url=f"{URL}/v1", api_key=self.key)


main({"chat": Chat})

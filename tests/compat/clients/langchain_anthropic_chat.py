"""LangChain's ChatAnthropic: Messages."""

from __future__ import annotations

from kit import URL
from langchain_anthropic import ChatAnthropic
from langchain_kit import LangChain, main


class Messages(LangChain):
    def model(self, name: str) -> ChatAnthropic:
        return ChatAnthropic(model=name, base_url=URL, api_key=self.key)


main({"messages": Messages})

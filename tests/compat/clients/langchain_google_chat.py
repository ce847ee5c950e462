"""LangChain's ChatGoogleGenerativeAI: generate_content."""

from __future__ import annotations

from kit import URL
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_kit import LangChain, main


class GenerateContent(LangChain):
    NOT_FOUND = "ModelNotFoundError"
    UNAUTHORIZED = "ModelAuthenticationError"

    def model(self, name: str) -> ChatGoogleGenerativeAI:
        return ChatGoogleGenerativeAI(model=name, base_url=URL, google_api_key=self.key)


main({"generate_content": GenerateContent})

"""The OpenAI SDK for Python, on a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
from openai_kit import CountingGateway

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def client_of(gateway: CountingGateway, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**{"base_url": gateway.v1, "api_key": gateway.key, **options})


async def in_thread(gateway: CountingGateway, work: Callable[[openai.OpenAI], Any]) -> Any:
    """Run `work` with the synchronous client, beside the gateway's loop."""

    def run() -> Any:
        with openai.OpenAI(base_url=gateway.v1, api_key=gateway.key) as client:
            return work(client)

    return await asyncio.to_thread(run)


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for item in chunks for choice in item.choices)

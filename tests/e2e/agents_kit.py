"""What the tests of docs/agents share: the settings a page shows, put into an SDK, and what the model says to it.

Of a page only the gateway's address and the key are put in. What the agents ask is written after what they send.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path
from typing import Any

from docs_kit import ROOT, Block, blocks

from muxx.testing import RunningGateway, Said, Tool, leak
from muxx.testing.settings import merged

AGENTS = ROOT / "docs/agents"
ADDRESS = "http://127.0.0.1:8080"
"""Where the pages have the gateway."""

CALL = Tool("read", '{"path": "main.py"}', "call_1")
ASKS = Said(
    "I look.", "It may be a script.", (CALL,), finish_reason="tool_calls", input_tokens=100, output_tokens=20, cached_tokens=40
)
ANSWERS = Said("It says hello.", input_tokens=150, output_tokens=9)
CLAUDE, GPT, GEMINI = "anthropic", "openai", "google"
TARGETS = {CLAUDE: "anthropic/claude-sonnet-5-5", GPT: "openai/gpt-5.5", GEMINI: "google/gemini-3.8-flash"}

READ: dict[str, Any] = {
    "type": "function", "name": "read", "description": "Read a file", "strict": False,
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"], "additionalProperties": False},
}  # fmt: skip
"""The tool that the model calls, as Responses defines it."""


def page(name: str) -> Path:
    return AGENTS / f"{name}.md"


def first(language: str, name: str, mention: str = "") -> Block:
    """The page's first block in a language that holds a text."""
    return next(block for block in blocks(language, page=page(name)) if mention in block.text)


def exported(block: Block) -> dict[str, str]:
    """The variables a block of commands exports."""
    return dict(re.findall(r'^export (\w+)="?(.*?)"?$', block.text, re.M))


def put_in(text: str, gateway: RunningGateway) -> str:
    """The text with this gateway's address and key."""
    return text.replace(ADDRESS, gateway.base_url).replace("$MUXX_KEY", gateway.key).replace("muxx_sk_live_…", gateway.key)


def serving(name: str, target: str, **overrides: Any) -> RunningGateway:
    """A gateway in which the model of this name is this vendor's, and drops what it cannot be told."""
    models = [{"name": name, "targets": [{"target": TARGETS[target], "on_unsupported": "drop"}]}]
    return RunningGateway(merged({"models": models}, overrides))


def shown_models(name: str, mention: str = "") -> dict[str, Any]:
    """The configuration of muxx that a page shows."""
    return tomllib.loads(first("toml", name, mention or "[[models]]").text)


def sent(gateway: RunningGateway) -> list[dict[str, Any]]:
    assert not leak.find([gateway.key], *(request.body for request in gateway.upstream.requests))
    return [request.json() for request in gateway.upstream.requests]


async def rows(gateway: RunningGateway, least: int = 0) -> list[dict[str, Any]]:
    """Every row, the oldest first, once there are so many, or one for each request of the provider."""
    least = least or len(gateway.upstream.requests)
    async with asyncio.timeout(10):
        while len(found := (await gateway.get("/v1/logs?limit=100")).json()["data"]) < least:
            await asyncio.sleep(0.02)
    return list(reversed(found))

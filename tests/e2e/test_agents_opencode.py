"""The settings of docs/agents/opencode.md with the packages of Vercel's AI SDK that they name."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import openai_node
import orjson
import pytest
from agents_kit import ANSWERS, ASKS, first, put_in, rows, sent

from muxx.testing import RunningGateway, clean_environment


def run_opencode(config: Path, model: str, key: str) -> dict[str, Any]:
    """What the packages of the configuration make of it, in Node."""
    node, directory = openai_node.node_binary(), openai_node.installed(Path(__file__).parent / "agents_node", "ai")
    provider, _, name = model.partition("/")
    done = subprocess.run(
        [node, "opencode.mjs", str(config), provider, name],
        cwd=directory, env=clean_environment() | {"MUXX_KEY": key}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return outcome


OPENCODE = json.loads(first("json", "opencode").text)
OPENCODE_MODELS = [f"{name}/{model}" for name, provider in OPENCODE["provider"].items() for model in provider["models"]]


@pytest.mark.parametrize("model", OPENCODE_MODELS)
async def test_opencode_works_with_each_model_of_its_page(model: str, tmp_path: Path) -> None:
    async with RunningGateway() as gateway:
        gateway.upstream.says(ASKS, ANSWERS)
        config = tmp_path / "opencode.json"
        config.write_text(put_in(first("json", "opencode").text, gateway))
        outcome = await asyncio.to_thread(run_opencode, config, model, gateway.key)
        assert "error" not in outcome, outcome
        assert (outcome["text"], outcome["called"]) == (ANSWERS.text, [{"path": "main.py"}])
        assert outcome["reasoning"] == ASKS.reasoning
        assert (outcome["usage"]["inputTokens"], outcome["usage"]["outputTokens"]) == (250, 29)
        one, two = sent(gateway)
        if "claude" in model:
            assert one["system"][0]["cache_control"] == {"type": "ephemeral"}
            assert two["messages"][1]["content"][0]["signature"] == ASKS.signature
            assert gateway.upstream.last.target == "/v1/messages"
        assert [row["status"] for row in await rows(gateway)] == [200, 200]


async def test_opencode_reaches_claude_by_the_compatible_package_with_its_cache_markers_and_without_signatures(
    tmp_path: Path,
) -> None:
    async with RunningGateway() as gateway:
        gateway.upstream.says(ASKS, ANSWERS)
        config = tmp_path / "opencode.json"
        config.write_text(put_in(first("json", "opencode").text, gateway))
        outcome = await asyncio.to_thread(run_opencode, config, "muxx/claude-sonnet-5-5", gateway.key)
        assert (outcome["text"], outcome["reasoning"]) == (ANSWERS.text, ASKS.reasoning)
        one, two = sent(gateway)
        assert one["system"][0]["cache_control"] == {"type": "ephemeral"}
        assert [block["type"] for block in two["messages"][1]["content"]] == ["text", "tool_use"]
        assert (await rows(gateway))[1]["attributes"]["dropped"] == ["messages[2].reasoning_content"]


def test_the_models_opencode_begins_with_are_among_those_of_its_page() -> None:
    assert {OPENCODE["model"], OPENCODE["small_model"]} <= set(OPENCODE_MODELS)


async def test_opencode_shows_a_wrong_key_and_a_wrong_model(tmp_path: Path) -> None:
    async with RunningGateway() as gateway:
        config = tmp_path / "opencode.json"
        config.write_text(put_in(first("json", "opencode").text, gateway))
        for model, key, status in ((OPENCODE["model"], f"{gateway.key}x", 401), ("muxx/nobodys-model", gateway.key, 404)):
            outcome = await asyncio.to_thread(run_opencode, config, model, key)
            assert outcome["error"]["statusCode"] == status, outcome

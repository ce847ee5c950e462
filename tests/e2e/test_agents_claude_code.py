"""The settings of docs/agents/claude-code.md with Anthropic's SDK, which Claude Code uses."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from agents_kit import ANSWERS, ASKS, GEMINI, GPT, exported, first, put_in, rows, sent, serving, shown_models

from muxx.testing import PROVIDER_KEY, RunningGateway, Said

MARKED = {"cache_control": {"type": "ephemeral"}}
CLAUDE_CODE: dict[str, Any] = {
    "max_tokens": 32_000,
    "system": [
        {"type": "text", "text": "You are Claude Code.", **MARKED},
        {"type": "text", "text": "Here is the environment.", **MARKED},
    ],
    "tools": [
        {
            "name": "read",
            "description": "Read a file",
            "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
        },
        {"name": "write", "input_schema": {"type": "object", "properties": {}}, **MARKED},
    ],
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "medium"},
    "metadata": {"user_id": "user_4f1d_account__session_9a7c"},
    "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14"],
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
}
QUESTION = {"role": "user", "content": [{"type": "text", "text": "What does main.py do?", **MARKED}]}
COUNTED = ("system", "tools", "thinking", "betas")


def claude_code_settings(gateway: RunningGateway) -> dict[str, str]:
    return {name: put_in(value, gateway) for name, value in exported(first("bash", "claude-code", "ANTHROPIC_BASE_URL=")).items()}


def in_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> anthropic.AsyncAnthropic:
    """The SDK as Claude Code has it: told by its environment alone."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return anthropic.AsyncAnthropic(max_retries=0)


async def converse(client: anthropic.AsyncAnthropic, model: str) -> tuple[Any, Any, int]:
    """Count, ask, run the tool that is called, answer: both messages, and the count."""
    messages: list[Any] = [QUESTION]
    counted = await client.beta.messages.count_tokens(
        model=model, messages=messages, **{name: CLAUDE_CODE[name] for name in COUNTED}
    )
    async with client.beta.messages.stream(model=model, messages=messages, **CLAUDE_CODE) as stream:
        asked = await stream.get_final_message()
    [use] = [block for block in asked.content if block.type == "tool_use"]
    messages.append({"role": "assistant", "content": [block.to_dict() for block in asked.content]})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": 'print("hello")', **MARKED}
    messages.append({"role": "user", "content": [result]})
    async with client.beta.messages.stream(model=model, messages=messages, **CLAUDE_CODE) as stream:
        answered = await stream.get_final_message()
    return asked, answered, counted.input_tokens


def said_by(message: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Thinking, text and calls."""
    thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    text = "".join(block.text for block in message.content if block.type == "text")
    return thinking, text, [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def expect_conversation(asked: Any, answered: Any) -> None:
    assert said_by(asked) == (ASKS.reasoning, ASKS.text, [("read", {"path": "main.py"})])
    assert asked.stop_reason == "tool_use"
    assert (said_by(answered)[1], answered.stop_reason) == (ANSWERS.text, "end_turn")
    usage = asked.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (60, 40, 20)


async def test_claude_code_reaches_claude_with_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RunningGateway() as gateway:
        settings = claude_code_settings(gateway)
        gateway.upstream.says(Said(input_tokens=321), ASKS, ANSWERS)
        async with in_settings(monkeypatch, settings) as client:
            asked, answered, counted = await converse(client, settings["ANTHROPIC_MODEL"])
        expect_conversation(asked, answered)
        assert counted == 321
        count, one, two = sent(gateway)
        asked_for: dict[str, Any] = {name: value for name, value in CLAUDE_CODE.items() if name != "betas"}
        begun = {"model": "claude-sonnet-5-5", "stream": True, **asked_for}
        assert one == {**begun, "messages": [QUESTION]}
        assert count == {name: one[name] for name in ("model", "messages", "system", "tools", "thinking")}
        thinking, *_ = two["messages"][1]["content"]
        assert thinking == {"type": "thinking", "thinking": ASKS.reasoning, "signature": ASKS.signature}
        assert two["messages"][2]["content"][0]["cache_control"] == MARKED["cache_control"]
        for request in gateway.upstream.requests:
            betas = set((request.header("anthropic-beta") or "").split(","))
            assert betas >= set(CLAUDE_CODE["betas"])
            assert request.header("anthropic-version") == client.default_headers["anthropic-version"]
            assert request.header("x-api-key") == PROVIDER_KEY
            assert request.header("authorization") is None
        booked = [(row["endpoint"], row["input_tokens"], row["cache_read_tokens"]) for row in await rows(gateway)]
        assert booked == [("count_tokens", 0, 0), ("messages", 100, 40), ("messages", 150, 0)]


@pytest.mark.parametrize("target", [GPT, GEMINI])
async def test_claude_code_reaches_another_vendors_model_under_claudes_name(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("claude-sonnet-5-5", target) as gateway:
        settings = claude_code_settings(gateway)
        count = [Said(input_tokens=321)] if target == GEMINI else []
        gateway.upstream.says(*count, ASKS, ANSWERS)
        async with in_settings(monkeypatch, settings) as client:
            asked, answered, counted = await converse(client, settings["ANTHROPIC_MODEL"])
        expect_conversation(asked, answered)
        counting, one, two = await rows(gateway, 3)
        assert counted == 321 if count else 10 < counted < 100, "OpenAI's format cannot count"
        assert counting["attributes"].get("estimated", False) == (target == GPT)
        assert {"context_management", "system[0].cache_control", "tools[1].cache_control"} <= set(one["attributes"]["dropped"])
        request = sent(gateway)[-1]
        if target == GPT:
            assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant", "tool"]
            assert request["messages"][2]["reasoning_content"] == ASKS.reasoning, "its own thoughts come back"
            assert "messages[1].content[0]" not in two["attributes"]["dropped"]
        else:
            [call] = [part for part in request["contents"][1]["parts"] if "functionCall" in part]
            assert call["thoughtSignature"] == ASKS.signature, "it signs its calls"


async def test_the_models_that_claude_codes_page_shows_answer_under_claudes_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RunningGateway(shown_models("claude-code")) as gateway:
        settings = claude_code_settings(gateway)
        async with in_settings(monkeypatch, settings) as client:
            for name in ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"):
                async with client.beta.messages.stream(model=settings[name], messages=[QUESTION], **CLAUDE_CODE) as stream:  # type: ignore[list-item]
                    assert said_by(await stream.get_final_message())[1] == "Hello there."
        assert [request.model for request in gateway.upstream.requests] == ["claude-sonnet-5-5", "gpt-5.4-mini"]


async def test_claude_codes_settings_file_says_what_its_variables_say_and_a_user_is_told_by_a_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with RunningGateway() as gateway:
        settings = json.loads(put_in(first("json", "claude-code").text, gateway))["env"]
        assert settings == claude_code_settings(gateway)
        user = exported(first("bash", "claude-code", "ANTHROPIC_CUSTOM_HEADERS"))
        async with in_settings(monkeypatch, settings | user) as client:
            hello: list[Any] = [{"role": "user", "content": "Hello"}]
            await client.messages.create(model="claude-haiku-5-5", max_tokens=9, messages=hello)
        [row] = await rows(gateway)
        assert row["user_id"] == "ann"


async def test_claude_code_is_told_what_is_wrong_in_anthropics_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RunningGateway({"models": [{"name": "claude-strict", "targets": ["openai/gpt-5.5"]}]}) as gateway:
        settings = claude_code_settings(gateway)
        hello: list[Any] = [{"role": "user", "content": "Hello"}]
        async with in_settings(monkeypatch, settings) as client:
            with pytest.raises(anthropic.NotFoundError) as unknown:
                await client.messages.create(model="nobodys-model", max_tokens=9, messages=hello)
            with pytest.raises(anthropic.BadRequestError) as unsupported:
                await client.messages.create(model="claude-strict", max_tokens=9, messages=hello, extra_body={"top_k": 5})
        bodies: list[Any] = [unknown.value.body, unsupported.value.body]
        assert [body["error"]["type"] for body in bodies] == ["not_found_error", "invalid_request_error"]
        assert "'top_k' cannot be sent to openai/gpt-5.5" in bodies[1]["error"]["message"]
        async with in_settings(monkeypatch, settings | {"ANTHROPIC_AUTH_TOKEN": f"{gateway.key}x"}) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(model="claude-sonnet-5-5", max_tokens=9, messages=hello)
        async with in_settings(monkeypatch, settings | {"ANTHROPIC_BASE_URL": f"{gateway.base_url}/v1"}) as client:
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="claude-sonnet-5-5", max_tokens=9, messages=hello)

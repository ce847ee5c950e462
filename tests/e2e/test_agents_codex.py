"""The settings of docs/agents/codex.md with OpenAI's SDK on Responses, as Codex speaks it."""

from __future__ import annotations

import json
import os
import tomllib
from typing import Any

import openai
import pytest
from agents_kit import ANSWERS, ASKS, CLAUDE, GEMINI, GPT, READ, page, put_in, rows, sent, serving, shown_models
from docs_kit import blocks

from muxx.testing import RecordedRequest, RunningGateway, Script, answer, sse, words
from muxx.testing.speaking import streamed

CODEX: dict[str, Any] = {
    "instructions": "You are Codex.",
    "tools": [READ, {"type": "custom", "name": "apply_patch", "description": "Edit files"}, {"type": "web_search"}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "019a-thread",
    "text": {"verbosity": "low"},
    "extra_body": {"client_metadata": {"x-codex-installation-id": "1f"}},
}


def codex_settings(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> tuple[openai.AsyncOpenAI, str]:
    """The client and the model of Codex's file. Other clients' settings are not read."""
    main, users = blocks("toml", page=page("codex"))[0], blocks("toml", page=page("codex"))[-1]
    config = tomllib.loads(put_in(main.text, gateway))
    provider = config["model_providers"][config["model_provider"]]
    headers = tomllib.loads(users.text)["model_providers"][config["model_provider"]]["env_http_headers"]
    monkeypatch.setenv("MUXX_KEY", gateway.key)
    monkeypatch.setenv("USER", "ann")
    assert provider["wire_api"] == "responses"
    return openai.AsyncOpenAI(
        base_url=provider["base_url"],
        api_key=os.environ[provider["env_key"]],
        default_headers={name: os.environ[variable] for name, variable in headers.items()},
        max_retries=0,
    ), config["model"]


def encrypted(request: RecordedRequest) -> Script:
    """The first answer as OpenAI streams it to those who include `reasoning.encrypted_content`."""
    sealed = b'"type":"reasoning","encrypted_content":"%b"' % ASKS.signature.encode()
    told = streamed("responses", ASKS, request.model or "", usage=True, pieces=words)
    return sse(chunks=[event.replace(b'"type":"reasoning"', sealed) for event in told])


async def work(client: openai.AsyncOpenAI, model: str) -> tuple[Any, Any]:
    """Ask, run the tool that is called, answer; nothing is stored, so that all of it is sent again."""
    given: list[Any] = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What does main.py do?"}]}]
    async with client.responses.stream(model=model, input=given, **CODEX) as stream:
        asked = await stream.get_final_response()
    given += [item.to_dict() for item in asked.output]
    [call] = [item for item in asked.output if item.type == "function_call"]
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": 'print("hello")'})
    async with client.responses.stream(model=model, input=given, **CODEX) as stream:
        return asked, await stream.get_final_response()


@pytest.mark.parametrize("target", [GPT, CLAUDE, GEMINI])
async def test_codex_works_with_any_vendors_model(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("gpt-5.5", target) as gateway:
        gateway.upstream.script(encrypted if target == GPT else answer(ASKS), answer(ANSWERS))
        client, model = codex_settings(gateway, monkeypatch)
        async with client:
            asked, answered = await work(client, model)
        assert [item.type for item in asked.output] == ["reasoning", "message", "function_call"]
        assert json.loads(asked.output[-1].arguments) == {"path": "main.py"}
        assert asked.output[0 if target != GEMINI else 2].to_dict()["encrypted_content"], "Gemini signs its calls"
        assert (answered.output_text, answered.status) == (ANSWERS.text, "completed")
        assert (asked.usage.input_tokens, asked.usage.input_tokens_details.cached_tokens) == (100, 40)
        one, two = sent(gateway)
        dropped = [set(row["attributes"].get("dropped", ())) for row in await rows(gateway)]
        if target == GPT:
            assert one == {"model": "gpt-5.5", "stream": True, "input": one["input"], **CODEX["extra_body"]} | {
                name: value for name, value in CODEX.items() if name != "extra_body"
            }
            assert dropped == [set(), set()]
            assert two["input"][1]["encrypted_content"] == ASKS.signature
        else:
            assert {"tools[1]", "tools[2]", "prompt_cache_key", "client_metadata", "text.verbosity"} <= dropped[0]
            assert ASKS.signature in json.dumps(two), "its own reasoning comes back"
        assert {row["user_id"] for row in await rows(gateway)} == {"ann"}


async def test_the_models_that_codexs_page_shows_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_models("codex")
    async with RunningGateway(shown) as gateway:
        client, _ = codex_settings(gateway, monkeypatch)
        async with client:
            for model in shown["models"]:
                async with client.responses.stream(model=model["name"], input="Hello", **CODEX) as stream:
                    assert (await stream.get_final_response()).output_text == "Hello there."
        assert [request.model for request in gateway.upstream.requests] == ["claude-sonnet-5-5", "gemini-3.8-flash"]


async def test_codex_is_told_what_is_wrong_in_openais_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RunningGateway() as gateway:
        client, _ = codex_settings(gateway, monkeypatch)
        async with client:
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.responses.create(model="nobodys-model", input="Hello")
            with pytest.raises(openai.BadRequestError) as unsupported:
                await client.responses.create(model="claude-sonnet-5-5", input="Hello", text={"verbosity": "low"})
            with pytest.raises(openai.NotFoundError) as misplaced:
                await client.with_options(base_url=gateway.base_url).responses.create(model="gpt-5.5", input="Hello")
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.with_options(api_key=f"{gateway.key}x").responses.create(model="gpt-5.5", input="Hello")
        codes = [caught.value.code for caught in (unknown, unsupported, misplaced, refused)]
        assert codes == ["model_not_found", "unsupported_parameter", "not_found", "invalid_api_key"]

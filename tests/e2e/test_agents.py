"""The settings of docs/agents/cursor.md with OpenAI's SDK on chat completions; and what all pages of agents have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from agents_kit import AGENTS, ANSWERS, ASKS, READ, page, sent, shown_models

from muxx.testing import RunningGateway

FUNCTION = {name: READ[name] for name in ("name", "description", "parameters")}


def cursor_addresses() -> list[str]:
    """Every address of OpenAI's format the page shows, Cursor's own with another host."""
    found = set(re.findall(r"https?://[\w.:]+/v1", page("cursor").read_text()))
    assert {address.rpartition("//")[2].partition("/")[0] for address in found} == {"muxx.example", "127.0.0.1:8080"}
    return sorted(found)


async def edit(client: openai.AsyncOpenAI, model: str) -> tuple[Any, Any]:
    """Ask and answer with a tool between, streamed."""
    messages: list[Any] = [
        {"role": "system", "content": "You are an editor's agent."},
        {"role": "user", "content": [{"type": "text", "text": "What does main.py do?"}]},
    ]
    options: Any = {
        "model": model,
        "tools": [{"type": "function", "function": FUNCTION}],
        "stream_options": {"include_usage": True},
    }
    async with client.chat.completions.stream(messages=messages, **options) as stream:
        asked = await stream.get_final_completion()
    message = asked.choices[0].message
    messages += [message.to_dict(), {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": 'print("hello")'}]  # type: ignore[index]
    async with client.chat.completions.stream(messages=messages, **options) as stream:
        return asked, await stream.get_final_completion()


@pytest.mark.parametrize("address", cursor_addresses())
@pytest.mark.parametrize("model", ["gpt-5.5", "anthropic/claude-sonnet-5-5", "google/gemini-3.8-flash", "editor"])
async def test_cursor_works_with_each_kind_of_name_its_page_speaks_of(address: str, model: str) -> None:
    async with RunningGateway(shown_models("cursor")) as gateway:
        gateway.upstream.says(ASKS, ANSWERS)
        base_url = gateway.base_url + re.sub(r"https?://[^/]+", "", address)
        async with openai.AsyncOpenAI(base_url=base_url, api_key=gateway.key, max_retries=0) as client:
            asked, answered = await edit(client, model)
        call = asked.choices[0].message.tool_calls[0].function
        assert (call.name, json.loads(call.arguments), asked.choices[0].finish_reason) == (
            "read",
            {"path": "main.py"},
            "tool_calls",
        )
        assert (answered.choices[0].message.content, answered.choices[0].finish_reason) == (ANSWERS.text, "stop")
        assert (asked.usage.prompt_tokens, asked.usage.completion_tokens) == (100, 20)
        assert len(sent(gateway)) == 2


async def test_a_body_of_responses_at_chats_address_is_refused_by_the_field_that_is_missing() -> None:
    async with (
        RunningGateway() as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post("/chat/completions", body={"model": "gpt-5.5", "input": "Hello", "stream": True}, cast_to=object)
        assert (refused.value.code, refused.value.param) == ("missing_field", "messages")


@pytest.mark.parametrize("path", sorted(AGENTS.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_says_what_to_type_what_is_seen_then_where_it_fails_and_how_to_make_users_keys(path: Path) -> None:
    text = path.read_text()
    sections = re.findall(r"^## (.*)$", text, re.M)
    assert (sections[0], sections[1], *sections[-2:]) == (
        "What to type", "What you then see", "Where it fails", "A key for each user",
    )  # fmt: skip
    assert "muxx logs tail" in text
    for failure in ("401", "404", "400", "502"):
        assert re.search(rf"^\| {failure}", text, re.M), failure

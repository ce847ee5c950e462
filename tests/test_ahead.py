"""`buffer_until = "first_token"`: nothing of an answer leaves before its model has said something, so another may still answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from carrying_kit import both_transports, part_of, serving

from muxx.testing import RunningGateway, Said, ScriptedUpstream, Step, fin, hold, sse
from muxx.testing.speaking import event, streamed

SECOND = "Said by the second."


def config(second: str, **first: Any) -> dict[str, Any]:
    """A model whose first target holds its answers back, and whose second speaks another format."""
    return {
        "providers": {"anthropic": {"base_url": second}},
        "models": [
            {
                "name": "held",
                "buffer_until": "first_token",
                "targets": [{"target": "openai/gpt-4o"} | first, "anthropic/claude-3-5-haiku"],
            }
        ],
    }


ROLE = event({"id": "c-1", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
COMMENT = b": ping\n\n"
ERROR = event({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}})

SILENT: dict[str, list[Step]] = {
    "an error as its first event": sse(ERROR),
    "an end before the first token": sse(ROLE, end=fin()),
    "a role and then nothing": sse(COMMENT + ROLE, end=hold()),
    "garbage": sse(ROLE + b"data: {not json\n\n"),
}


@both_transports
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("what", SILENT)
async def test_whatever_comes_before_the_first_token_another_target_may_answer(what: str, shared: bool, transport: str) -> None:
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        over = config(second.base_url, first_token_timeout_s=0.3)
        if shared:
            over["plugins"] = {"cache": {"max_bytes": 1_000_000}}
        async with serving(transport, over) as gateway:
            gateway.upstream.script(SILENT[what])
            asked = [gateway.ask("chat", model="held", stream=True) for _ in range(2 if shared else 1)]
            for response in await asyncio.gather(*asked):
                assert response.said("chat").text == SECOND
                row = await gateway.get_row(response.request_id)
                assert row["status"] == 200
            assert len(gateway.upstream.requests) == len(second.requests) == 1


async def test_both_attempts_stand_in_the_row() -> None:
    async with ScriptedUpstream() as second:
        second.says(SECOND)
        async with serving(config=config(second.base_url)) as gateway:
            gateway.upstream.script(SILENT["an error as its first event"])
            response = await gateway.ask("chat", model="held", stream=True)
            row = await gateway.get_row(response.request_id)
            expected = {"provider": "anthropic", "attempts": 2, "ended_by": None, "phase": None, "usage_source": "provider"}
            assert part_of(row, expected) == expected
            told = [(one["target"], one["status"], one["error"]) for one in row["attributes"]["attempts"]]
            assert told == [("openai/gpt-4o", 200, "overloaded"), ("anthropic/claude-3-5-haiku", 200, None)]


@both_transports
async def test_what_was_held_back_leaves_as_it_came(transport: str) -> None:
    said = Said("Every byte of it.", reasoning="Hm.")
    async with ScriptedUpstream() as second, serving(transport, config(second.base_url)) as gateway:
        whole = COMMENT + b"".join(streamed("chat", said, "gpt-4o"))
        gateway.upstream.script(sse(whole, [whole[at : at + 7] for at in range(0, len(whole), 7)]))
        response = await gateway.ask("chat", model="held", stream=True, stream_options={"include_usage": True})
        assert response.body.replace(_comment_of(response.text), b"") == whole
        assert second.requests == []


async def test_a_break_after_the_first_token_is_told_and_nobody_else_is_asked() -> None:
    async with ScriptedUpstream() as second, serving(config=config(second.base_url)) as gateway:
        events = streamed("chat", Said("Some words of it"), "gpt-4o")
        gateway.upstream.script(sse(b"".join(events[:3]), end=fin()))
        response = await gateway.ask("chat", model="held", stream=True)
        assert response.told("chat")["code"] in ("upstream_truncated", "upstream_disconnected")
        assert second.requests == []


async def test_the_client_leaves_while_its_answer_is_held_back() -> None:
    async with ScriptedUpstream() as second, serving(config=config(second.base_url)) as gateway:
        gateway.upstream.script(SILENT["a role and then nothing"])
        async with await gateway.connect() as client:
            await client.send(_request(gateway))
            await _asked(gateway)
        await gateway.upstream.requests[0].peer_left(within=10)
        assert second.requests == []


async def _asked(gateway: RunningGateway) -> None:
    while not gateway.upstream.requests:
        await asyncio.sleep(0.005)


def _request(gateway: RunningGateway) -> bytes:
    body = b'{"model": "held", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Muxx-Api-Key: {gateway.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _comment_of(text: str) -> bytes:
    start = text.index(": muxx ")
    return text[start : text.index("\n\n", start) + 2].encode()


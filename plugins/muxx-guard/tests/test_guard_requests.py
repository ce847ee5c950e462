"""Requests through the guard in a running gateway: what the service is asked, and what comes of its answer."""

from __future__ import annotations

import json
import re
from typing import Any

import muxx
import pytest
from guard_kit import BAD, SECRET, GuardService, gateway_for, masking, no_bad_word
from muxx.testing import leak, post_chat

from muxx_guard.protocol import Text
from muxx_guard.service import MOST_TEXTS, batches

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You know code-1000."},
    {"role": "user", "content": [{"type": "text", "text": "I am code-2000"}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "t", "type": "function", "function": {"name": "send", "arguments": '{"to": "code-3000"}'}}]},
    {"role": "tool", "tool_call_id": "t", "content": "sent to code-4000"},
]  # fmt: skip


async def test_the_question_is_what_the_page_says_it_is() -> None:
    async with GuardService() as service, gateway_for(service, answers=False, token="tok-1") as gateway:
        headers = {"X-Muxx-User-Id": "ada"}
        response = await post_chat(gateway.base_url, gateway.key, model="gpt-4o", headers=headers, messages=MESSAGES)
        row = await gateway.get_row(response.request_id)
    [question] = service.questions
    assert question == {
        "kind": "request", "request_id": response.request_id, "operation": "chat", "project": "default", "environment": "live",
        "model": "gpt-4o", "user_id": "ada", "stream": False,
        "texts": [
            {"role": "system", "kind": "text", "place": "messages[0].content", "text": "You know code-1000.", "last": True},
            {"role": "user", "kind": "text", "place": "messages[1].content[0].text", "text": "I am code-2000", "last": True},
            {"role": "assistant", "kind": "tool_arguments", "place": "messages[2].tool_calls[0].function.arguments",
             "text": '{"to": "code-3000"}', "last": True},
            {"role": "tool", "kind": "tool_result", "place": "messages[3].content", "text": "sent to code-4000", "last": True},
        ],
    }  # fmt: skip
    assert service.headers[0]["Authorization"] == "Bearer tok-1"
    assert row["attributes"]["guard"] == {"request": {"verdict": "allowed", "questions": 1}}


async def test_no_credential_reaches_the_service() -> None:
    async with GuardService() as service, gateway_for(service) as gateway:
        await gateway.chat(headers={"Cookie": "cookie-canary"})
        sent = json.dumps([service.questions, service.headers])
        assert not leak.find([gateway.key, "sk-upstream-canary-4f1d9a7c", "cookie-canary"], sent.encode())


async def test_a_refused_request_never_reaches_the_provider() -> None:
    async with GuardService(no_bad_word) as service, gateway_for(service) as gateway:
        for place in range(4):
            messages = json.loads(json.dumps(MESSAGES).replace(f"code-{place + 1}000", BAD))
            response = await post_chat(gateway.base_url, gateway.key, messages=messages)
            error = response.error
            assert (response.status, error["type"], error["code"]) == (400, "invalid_request_error", "guard_refused")
            assert response.header("x-should-retry") == "false"
            assert BAD not in response.text
        row = await gateway.get_row(response.request_id)
        assert gateway.upstream.requests == []
    wanted = {"request": {"verdict": "refused", "questions": 1, "code": "bad_word", "reason": "it says so"}}
    assert row["attributes"]["guard"] == wanted


async def test_replacements_are_made_before_the_provider_sees_them() -> None:
    async with GuardService(masking) as service, gateway_for(service, answers=False) as gateway:
        response = await post_chat(gateway.base_url, gateway.key, messages=MESSAGES)
        row = await gateway.get_row(response.request_id)
        sent = gateway.upstream.last.json()["messages"]
    assert sent == json.loads(SECRET.sub("[HIDDEN]", json.dumps(MESSAGES)))
    assert row["attributes"]["guard"]["request"]["verdict"] == "changed"
    assert row["input"]["messages"][0]["content"] == "You know [HIDDEN]."


async def test_tool_arguments_can_be_left_alone() -> None:
    async with GuardService() as service, gateway_for(service, tool_arguments=False, answers=False) as gateway:
        await post_chat(gateway.base_url, gateway.key, messages=MESSAGES)
    assert [text["kind"] for text in service.questions[0]["texts"]] == ["text", "text", "tool_result"]


async def test_requests_can_be_left_alone() -> None:
    async with GuardService(no_bad_word) as service, gateway_for(service, requests=False) as gateway:
        assert (await gateway.chat(BAD)).status == 200
    assert {question["kind"] for question in service.questions} == {"answer"}


async def test_a_request_without_a_text_is_not_asked_about() -> None:
    async with GuardService() as service, gateway_for(service, answers=False) as gateway:
        image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": "  "}]}]
        assert (await post_chat(gateway.base_url, gateway.key, messages=messages)).status == 200
    assert service.questions == []


# ── questions of bounded size ──


async def test_a_long_request_is_asked_about_in_several_questions_and_changed_as_one_text() -> None:
    text = "".join(f"{'word ' * (number % 7)}code-{1000 + number} " for number in range(400))
    settings = {"batch_chars": 500, "overlap_chars": 20, "answers": False}
    async with GuardService(masking) as service, gateway_for(service, **settings) as gateway:
        response = await gateway.chat(text)
        row = await gateway.get_row(response.request_id)
        assert gateway.upstream.last.json()["messages"][0]["content"] == SECRET.sub("[HIDDEN]", text)
    assert max(map(len, service.texts)) == 500
    assert row["attributes"]["guard"]["request"] == {"verdict": "changed", "questions": len(service.questions)}


async def test_what_is_replaced_across_a_cut_is_replaced_once() -> None:
    def no_digits(question: dict[str, Any]) -> Any:
        matches = [match for text in question["texts"] for match in re.finditer("[0-9]+", text["text"])]
        return {"allow": True, "replace": [{"text": 0, "start": m.start(), "end": m.end(), "with": "#"} for m in matches]}

    settings = {"batch_chars": 100, "overlap_chars": 20, "answers": False}
    async with GuardService(no_digits) as service, gateway_for(service, **settings) as gateway:
        for before in (60, 75, 79, 80, 85, 99):
            await gateway.chat("x" * before + "1" * 20 + "x" * 50)
            assert gateway.upstream.last.json()["messages"][0]["content"] == "x" * before + "#" + "x" * 50


@pytest.mark.parametrize("at", range(480, 520, 4))
async def test_a_word_where_a_long_text_is_cut_is_seen_whole(at: int) -> None:
    settings = {"batch_chars": 500, "overlap_chars": 20, "answers": False}
    async with GuardService(no_bad_word) as service, gateway_for(service, **settings) as gateway:
        assert (await gateway.chat("x" * at + BAD + "x" * 700)).status == 400


def test_a_question_has_room_for_so_many_characters_and_texts() -> None:
    short = [Text("user", "text", "", "ab") for _ in range(3 * MOST_TEXTS)]
    assert [len(batch) for batch in batches(short, 10_000, 0)] == [MOST_TEXTS] * 3
    mixed = [Text("user", "text", "", "x" * size) for size in (60, 30, 20, 250, 5)]
    found = [[(number, start, len(text.text), text.last) for number, start, text in batch] for batch in batches(mixed, 100, 10)]
    assert found == [
        [(0, 0, 60, True), (1, 0, 30, True)],
        [(2, 0, 20, True)],
        [(3, 0, 100, False)],
        [(3, 90, 100, False)],
        [(3, 180, 70, True), (4, 0, 5, True)],
    ]


async def test_it_judges_what_other_plugins_ask_models_too() -> None:
    class Asks:
        @muxx.hookimpl(trylast=True)
        async def pre_request(self, gateway: muxx.Gateway, exchange: muxx.Exchange) -> None:
            if exchange.parent is None:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": BAD}]}
                await gateway.call("chat", body, parent=exchange)

    async with GuardService(no_bad_word) as service, gateway_for(service, {"asks": Asks}) as gateway:
        response = await gateway.chat("Hello")
        assert (response.status, response.error["code"]) == (400, "guard_refused")
        assert gateway.upstream.requests == []

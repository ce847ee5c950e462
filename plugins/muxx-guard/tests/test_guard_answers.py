"""Answers through the guard in a running gateway: what leaves, when, and what the service saw of it."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import muxx
import pytest
from guard_kit import (
    BAD,
    SECRET,
    GuardService,
    allow,
    arguments,
    call,
    delta,
    gateway_for,
    masking,
    no_bad_word,
    pieces_of,
    plain,
    reasons,
    said,
    texts,
)
from muxx.testing import DONE, RawResponse, RunningGateway, answers, cuts, event, post_chat, sse

from muxx_guard.settings import GuardConfig
from muxx_guard.windows import Channel

STORY = "Once upon a time there was a very long answer, and it went on. " * 12
SMALL = {"window_chars": 100, "sentence_chars": 0, "overlap_chars": 20}


async def stream(gateway: RunningGateway, data: bytes) -> RawResponse:
    gateway.upstream.script(sse(data))
    return await gateway.chat(stream=True)


# ── windows ──


async def test_an_allowed_answer_leaves_as_the_providers_own_bytes() -> None:
    data = texts(pieces_of(STORY, 7))
    async with GuardService() as service, gateway_for(service, **SMALL) as gateway:
        response = await stream(gateway, data)
    assert b"".join(part + b"\n\n" for part in response.body.split(b"\n\n") if part[:1] not in (b":", b"")) == data


async def test_it_does_not_matter_how_the_network_cuts_the_events() -> None:
    async with GuardService(masking) as service, gateway_for(service, **SMALL) as gateway:
        for seed in range(3):
            text = STORY + " code-1234 " + STORY
            gateway.upstream.script(sse(chunks=cuts(texts(pieces_of(text, 5)), seed)))
            assert said(await gateway.chat(stream=True)) == SECRET.sub("[HIDDEN]", text)


async def test_the_windows_show_the_whole_text_and_overlap() -> None:
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        await stream(gateway, texts(pieces_of(STORY, 10)))
    seen = service.texts
    assert len(seen) > 5
    assert seen[0] == STORY[:100]
    assert all(before[-20:] == after[:20] for before, after in pairwise(seen))
    assert seen[0] + "".join(text[20:] for text in seen[1:]) == STORY
    assert all(len(text) <= 130 for text in seen)
    assert [text["last"] for question in service.questions for text in question["texts"]] == [False] * (len(seen) - 1) + [True]


@pytest.mark.parametrize("shift", range(0, 24, 3))
async def test_a_word_on_the_edge_of_a_window_is_seen_whole_and_none_of_it_leaves(shift: int) -> None:
    text = "x" * (100 - shift) + BAD + "y" * 200
    async with GuardService(no_bad_word) as service, gateway_for(service, requests=False, **SMALL) as gateway:
        response = await stream(gateway, texts(text))
    error = error_of(response)
    assert (error["type"], error["code"]) == ("permission_error", "guard_refused")
    assert set(said_before_error(response)) <= {"x"}
    assert not response.done


def error_of(response: RawResponse) -> dict[str, Any]:
    """How an answer ended: an error event, or a plain error where nothing had left yet."""
    found: dict[str, Any] = response.events[-1]["error"] if response.status == 200 else response.error
    return found


def said_before_error(response: RawResponse) -> str:
    return said(RawResponse(200, body=response.body.partition(b'data: {"error"')[0])) if response.status == 200 else ""


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
async def test_replacements_are_made_wherever_they_stand_and_however_the_text_comes(size: int) -> None:
    text = "".join(f"{'word ' * (number % 9)}code-{1000 + number} " for number in range(60))
    async with GuardService(masking) as service, gateway_for(service, requests=False, **SMALL) as gateway:
        response = await stream(gateway, texts(pieces_of(text, size)))
        row = await gateway.get_row(response.request_id)
    assert said(response) == SECRET.sub("[HIDDEN]", text)
    assert row["output"]["choices"][0]["message"]["content"] == said(response)
    assert row["attributes"]["guard"]["answer"]["verdict"] == "changed"


async def test_a_sentence_is_asked_about_as_soon_as_it_ends() -> None:
    settings = {"window_chars": 10_000, "window_s": 60, "overlap_chars": 0, "requests": False}
    words = ["This is ", "the first", ". ", "Then ", "comes ", "an", "other!", "\n", "3", ".14"]
    async with GuardService() as service, gateway_for(service, sentence_chars=8, **settings) as gateway:
        await stream(gateway, texts(words))
    assert service.texts == ["This is the first. ", "Then comes another!", "\n3.14"]
    async with GuardService() as service, gateway_for(service, sentence_chars=0, **settings) as gateway:
        await stream(gateway, texts(words))
    assert service.texts == ["".join(words)]


async def test_a_text_that_has_waited_long_is_asked_about_with_the_next_chunk() -> None:
    chunks = [delta(content="slow "), delta(content="but "), delta(content="sure") + delta("stop") + DONE]
    async with GuardService() as service, gateway_for(service, requests=False, window_s=0.2, overlap_chars=0) as gateway:
        gateway.upstream.script(sse(chunks=chunks, gap=0.3))
        assert said(await gateway.chat(stream=True)) == "slow but sure"
    assert service.texts == ["slow but ", "sure"]


async def test_text_leaves_when_its_window_is_allowed_and_not_at_the_end() -> None:
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        first = b"".join(delta(content=piece) for piece in pieces_of(STORY[:300], 10))
        gateway.upstream.script(sse(chunks=[first, delta("stop") + DONE], gap=1.0))
        async with await gateway.connect() as client:
            started = time.monotonic()
            body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            await client.post_chat(gateway.key, body)
            await client.readuntil(delta(content=STORY[270:280]))
            assert time.monotonic() - started < 0.9
            assert b"[DONE]" in await client.readuntil(b"[DONE]")


def test_text_that_nobody_has_allowed_does_not_leave_even_if_it_has_to() -> None:
    channel = Channel(("text", 0, 0), GuardConfig(url="http://127.0.0.1/"))
    channel.add("some text")
    assert channel.let_go("some text", 0, 0) == ([], 0)
    with pytest.raises(muxx.PluginError):
        channel.let_go("some text", 0, 9)


async def test_channels_are_judged_apart_and_none_holds_up_another() -> None:
    text, thought, answer = STORY[:150], STORY[10:160], json.dumps({"to": STORY[:200]})
    data = b""
    for at in range(max(len(text), len(answer))):
        letter, piece = text[at : at + 1], answer[at : at + 1]
        data += delta(reasoning_content=thought[at : at + 1]) + delta(index=1, content=letter)
        data += delta(index=2, tool_calls=[call(piece, 0), call(piece, 1)])
    data += b"".join(delta(content=letter) for letter in text)
    data += delta("stop") + delta("stop", index=1) + delta("tool_calls", index=2) + DONE
    async with GuardService(masking) as service, gateway_for(service, requests=False, **SMALL) as gateway:
        response = await stream(gateway, data)
    assert (said(response), said(response, 1)) == (text, text)
    assert arguments(response) == {0: answer, 1: answer}
    assert reasons(response) == ["stop", "stop", "tool_calls"]
    seen = [text for question in service.questions for text in question["texts"]]
    assert {(text["kind"], text["place"]) for text in seen} == {
        ("text", "choices[0]"), ("reasoning", "choices[0]"), ("text", "choices[1]"), ("tool_arguments", "choices[2]"),
    }  # fmt: skip


async def test_what_waits_is_judged_where_the_next_part_of_its_choice_begins_and_leaves_before_it() -> None:
    data = delta(reasoning_content="Hm.. no") + delta(content="I ask") + delta(tool_calls=[call("", id="t1")])
    data += delta(tool_calls=[call('{"a": 1}')]) + delta("tool_calls") + DONE
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        response = await stream(gateway, data)
    assert service.texts == ["Hm.. no", "I ask", '{"a": 1}']
    parts = [next(iter(choice["delta"])) for item in response.events for choice in item["choices"] if choice["delta"]]
    assert parts == ["reasoning_content", "content", "tool_calls", "tool_calls"]


async def test_two_calls_under_one_index_are_two_texts() -> None:
    data = delta(tool_calls=[call('{"a":', id="t1")]) + delta(tool_calls=[call("1}")])
    data += delta(tool_calls=[call('{"b":', id="t2")]) + delta(tool_calls=[call("2}")]) + delta("tool_calls") + DONE
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        response = await stream(gateway, data)
    assert service.texts == ['{"a":1}', '{"b":2}']
    assert arguments(response) == {0: '{"a":1}{"b":2}'}


@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_arguments_are_judged_unless_they_are_left_alone(streamed: bool) -> None:
    tool = [call(f'{{"to": "{BAD}"}}', id="t")]
    script = sse(delta(tool_calls=tool) + delta("tool_calls") + DONE) if streamed else answers.json(plain({"tool_calls": tool}))
    for looked_at in (True, False):
        settings = {"requests": False, "tool_arguments": looked_at}
        async with GuardService(no_bad_word) as service, gateway_for(service, **settings) as gateway:
            gateway.upstream.script(script)
            response = await gateway.chat(stream=streamed)
        assert (BAD in response.text) is not looked_at
        assert ("guard_refused" in response.text) is looked_at


# ── plain answers ──


async def test_a_plain_answer_is_asked_about_whole_and_once() -> None:
    message = {"content": STORY, "reasoning_content": "Hm.", "tool_calls": [call('{"a": 1}', id="t")]}
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        body = json.dumps(plain(message), indent=1).encode()
        gateway.upstream.script(answers.json(body))
        response = await gateway.chat()
        row = await gateway.get_row(response.request_id)
    assert response.body == body
    [question] = service.questions
    assert [(text["kind"], text["text"], text["last"]) for text in question["texts"]] == [
        ("reasoning", "Hm.", True), ("text", STORY, True), ("tool_arguments", '{"a": 1}', True),
    ]  # fmt: skip
    assert row["attributes"]["guard"] == {"answer": {"verdict": "allowed", "questions": 1}}


async def test_a_plain_answer_gets_its_replacements_and_a_refused_one_is_a_403() -> None:
    async with GuardService(masking) as service, gateway_for(service, requests=False) as gateway:
        gateway.upstream.script(answers.json(plain({"content": "It is code-1234.", "reasoning_content": "code-9999"})))
        [choice] = (await gateway.chat()).json()["choices"]
        assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("It is [HIDDEN].", "[HIDDEN]")
        service.judge = no_bad_word
        gateway.upstream.script(answers.chat(f"Here is the {BAD} thing."))
        response = await gateway.chat()
        row = await gateway.get_row(response.request_id)
    assert (response.status, response.error["type"], response.error["code"]) == (403, "permission_error", "guard_refused")
    assert BAD not in response.text
    assert "(bad_word)" in response.error["message"]
    wanted = {"verdict": "refused", "questions": 1, "code": "bad_word", "reason": "it says so"}
    assert row["attributes"]["guard"]["answer"] == wanted
    assert row["error_code"] == "guard_refused"


async def test_a_provider_that_does_not_stream_though_asked_to_is_judged_too() -> None:
    async with GuardService(no_bad_word) as service, gateway_for(service, requests=False, **SMALL) as gateway:
        for content, status in ((STORY, 200), (STORY + BAD, 403)):
            gateway.upstream.script(answers.json(plain({"content": content, "reasoning_content": "Hm."})))
            assert (await gateway.chat(stream=True)).status == status


# ── an answer that is cut short ──


async def test_an_answer_can_end_as_if_the_model_had_stopped() -> None:
    settings = {"requests": False, "on_refused": "end"} | SMALL
    async with GuardService(no_bad_word) as service, gateway_for(service, **settings) as gateway:
        response = await stream(gateway, texts([*pieces_of(STORY[:210], 10), BAD, *pieces_of(STORY, 10)]))
        row = await gateway.get_row(response.request_id)
        gateway.upstream.script(answers.json(plain({"content": BAD})))
        whole = await gateway.chat()
    assert STORY.startswith(said(response))
    assert len(said(response)) >= 100
    assert (reasons(response), response.done) == (["content_filter"], True)
    [choice] = whole.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "content_filter")
    assert BAD not in whole.text
    assert row["attributes"]["guard"]["answer"]["verdict"] == "refused"
    assert (row["status"], row["error_code"]) == (200, None)
    assert row["output"]["choices"][0]["message"]["content"] == said(response)


async def test_the_provider_is_not_read_on_after_a_refusal() -> None:
    async with GuardService(no_bad_word) as service, gateway_for(service, requests=False, **SMALL) as gateway:
        endless = [delta(content=BAD + " "), *(delta(content=piece) for piece in pieces_of(STORY, 10))]
        gateway.upstream.script(sse(chunks=[*endless, *[delta(content="more ")] * 500], gap=0.02))
        response = await gateway.chat(stream=True)
        assert error_of(response)["code"] == "guard_refused"
        await gateway.upstream.last.peer_left(1.0)


async def test_a_stream_that_breaks_off_gives_away_nothing_that_waited() -> None:
    async with GuardService() as service, gateway_for(service, requests=False, **SMALL) as gateway:
        gateway.upstream.script(sse(b"".join(delta(content=piece) for piece in pieces_of(STORY[:190], 10))))
        response = await gateway.chat(stream=True)
    assert said_before_error(response) == STORY[:80]
    assert response.events[-1]["error"]["code"] == "upstream_truncated"


# ── every endpoint ──


async def test_completions_are_judged() -> None:
    async with GuardService(masking) as service, gateway_for(service, **SMALL) as gateway:
        answer = {"id": "c", "object": "text_completion", "created": 1, "model": "m",
                  "choices": [{"index": 0, "text": "It is code-1234.", "finish_reason": "stop"}]}  # fmt: skip
        gateway.upstream.script(answers.json(answer))
        response = await post(gateway, "/v1/completions", {"model": "gpt-4o", "prompt": "code-1111 or"})
        assert gateway.upstream.last.json()["prompt"] == "[HIDDEN] or"
        assert response.json()["choices"][0]["text"] == "It is [HIDDEN]."
        service.judge = no_bad_word
        assert (await post(gateway, "/v1/completions", {"model": "gpt-4o", "prompt": BAD})).status == 400


async def test_responses_are_judged_and_what_they_repeat_is_too() -> None:
    async with GuardService(masking) as service, gateway_for(service, **SMALL) as gateway:
        gateway.upstream.script(answers.json(RESPONSE))
        response = await post(gateway, "/v1/responses", {"model": "gpt-4o", "input": "Say code-1111"})
        assert gateway.upstream.last.json()["input"] == "Say [HIDDEN]"
        assert response.json()["output"][0]["content"][0]["text"] == "It is [HIDDEN]."
        gateway.upstream.script(sse(RESPONSE_EVENTS))
        streamed = await post(gateway, "/v1/responses", {"model": "gpt-4o", "input": "Say it", "stream": True})
    assert "code-1234" not in streamed.text
    assert streamed.text.count("It is [HIDDEN].") >= 2
    assert "response.completed" in streamed.text


async def test_embeddings_are_judged_by_their_texts_alone() -> None:
    async with GuardService(no_bad_word) as service, gateway_for(service) as gateway:
        answer = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                  "usage": {"prompt_tokens": 1, "total_tokens": 1}}  # fmt: skip
        gateway.upstream.script(answers.json(answer))
        for word, status in (("two", 200), (BAD, 400)):
            body = {"model": "openai/text-embedding-3-small", "input": ["one", word]}
            assert (await post(gateway, "/v1/embeddings", body)).status == status
    assert [question["kind"] for question in service.questions] == ["request", "request"]


async def post(gateway: RunningGateway, path: str, body: dict[str, Any]) -> RawResponse:
    async with await gateway.connect() as client:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {gateway.key}"}
        await client.request("POST", path, headers, json.dumps(body).encode())
        return await client.read_response()


TEXT = {"type": "output_text", "text": "It is code-1234.", "annotations": []}
MESSAGE = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [TEXT]}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-4o", "output": [MESSAGE],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
}  # fmt: skip


def told(kind: str, number: int, **members: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": number, **members})


AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
RESPONSE_EVENTS = b"".join(
    [
        told("response.created", 0, response=RESPONSE | {"status": "in_progress", "output": []}),
        told("response.output_item.added", 1, output_index=0, item=MESSAGE | {"content": [], "status": "in_progress"}),
        told("response.content_part.added", 2, **AT, part=TEXT | {"text": ""}),
        told("response.output_text.delta", 3, **AT, delta="It is co"),
        told("response.output_text.delta", 4, **AT, delta="de-1234."),
        told("response.output_text.done", 5, **AT, text="It is code-1234."),
        told("response.content_part.done", 6, **AT, part=TEXT),
        told("response.output_item.done", 7, output_index=0, item=MESSAGE),
        told("response.completed", 8, response=RESPONSE),
    ]
)


# ── answers no provider gave ──


class Cached:
    """What a cache does: answers instead of a provider."""

    @muxx.hookimpl(trylast=True)
    def pre_request(self, exchange: muxx.Exchange) -> muxx.Reply:
        if exchange.request.model == "gpt-4o":
            return muxx.Reply(json.dumps(plain({"content": f"It is code-1234. {STORY}"})).encode(), served_by="cache")
        return muxx.Reply([muxx.Chunk("text", "It is co"), muxx.Chunk("text", "de-1234.")], served_by="cache")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cached_answer_is_judged_each_time_it_is_given(streamed: bool) -> None:
    async with GuardService(masking) as service, gateway_for(service, {"cached": Cached}, **SMALL) as gateway:
        for model, text in (("gpt-4o", f"It is [HIDDEN]. {STORY}"), ("gpt-4", "It is [HIDDEN].")):
            response = await gateway.chat(model=model, stream=streamed)
            content = said(response) if streamed else response.json()["choices"][0]["message"]["content"]
            assert content == text
        assert gateway.upstream.requests == []
        service.judge = lambda question: {"allow": question["kind"] == "request"}
        refused = await gateway.chat(stream=streamed)
    assert "guard_refused" in refused.text
    assert "Once upon" not in refused.text


async def test_answers_can_be_left_on_the_fast_path() -> None:
    seen: list[Any] = []

    class Spy:
        @muxx.hookimpl
        def post_response(self, exchange: muxx.Exchange) -> None:
            seen.append(exchange.skipped)

    async with GuardService(allow) as service, gateway_for(service, {"spy": Spy}, answers=False) as gateway:
        gateway.upstream.script(answers.chat(BAD))
        assert BAD in (await post_chat(gateway.base_url, gateway.key, stream=True)).text
    assert seen == [frozenset({"guard"})]
    assert [question["kind"] for question in service.questions] == ["request"]

"""FAULTS C*: one tenant never gets another's answer, nothing broken is ever kept, a stampede is one call, a hit is free and exact."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from cache_kit import EVERY_FORM, asked, cached, caching, scripted, told
from carrying_kit import (
    ANSWER,
    STREAM,
    both_transports,
    delta,
    finish,
    usage_event,
    without_comment,
    without_usage,
)
from http_kit import add_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thoroughness import examples
from wires_kit import Endpoint, ask, less_comment

from muxx import Chunk, hookimpl
from muxx.testing import DONE, RunningGateway, answers, chat, chat_body, error, event, eventually, fin, post_chat, rst, sse, wait
from muxx_std.cache.key import NOT_COUNTED, prefix
from muxx_std.cache.key import finish as key_of

PLAIN = json.dumps(ANSWER, indent=1).encode()


async def chats(gateway: RunningGateway, key: str | None = None, headers: Mapping[str, str] | None = None, **members: Any) -> Any:
    return await post_chat(gateway.base_url, key or gateway.key, headers=headers, **members)


# ── C01 ──


async def test_C01_what_one_project_asked_no_other_is_answered_with() -> None:
    """Two hundred pairs of projects ask the same: each is answered by a call of its own, and each then from what is its own."""
    async with caching() as gateway:
        gateway.upstream.choose = lambda request: answers.json(ANSWER | {"id": f"c-{len(gateway.upstream.requests)}"})
        keys = [await add_key(gateway, project=f"team-{number}") for number in range(40)]
        pairs = list(itertools.islice(itertools.combinations(keys, 2), 200))
        own: dict[str, str] = {}
        for one, other in pairs:
            first, second = await asyncio.gather(chats(gateway, one), chats(gateway, other))
            for key, response in ((one, first), (other, second)):
                assert response.header("x-muxx-cache") == ("HIT" if key in own else "MISS")
                assert own.setdefault(key, response.json()["id"]) == response.json()["id"]
        assert len(set(own.values())) == len(own) == asked(gateway) == 40


@pytest.mark.parametrize(("endpoint", "stream"), EVERY_FORM, ids=str)
async def test_C01_test_and_live_traffic_of_one_project_are_kept_apart_on_every_endpoint(endpoint: Endpoint, stream: bool) -> None:
    async with caching() as gateway:
        scripted(gateway, endpoint, stream)
        live, gateway.key = gateway.key, await add_key(gateway, "test")
        await ask(gateway, endpoint, stream)
        gateway.key = live
        assert (await ask(gateway, endpoint, stream)).header("x-muxx-cache") == "MISS"
        assert (await ask(gateway, endpoint, stream)).header("x-muxx-cache") == "HIT"
        assert asked(gateway) == 2


# ── C02 ──

LEAVES: Any = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
BODIES = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name not in NOT_COUNTED),
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8),
    min_size=1,
    max_size=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every leaf of a JSON value by its path."""
    if isinstance(value, dict):
        return [place for name, inner in value.items() for place in places(inner, (*path, name))] or [path]
    if isinstance(value, list):
        return [place for number, inner in enumerate(value) for place in places(inner, (*path, number))] or [path]
    return [path]


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    if not path:
        return to
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], to)
    return copy


def reversed_members(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reversed_members(value[name]) for name in reversed(value)}
    return [reversed_members(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES, st.data())
def test_C02_any_leaf_that_changes_makes_another_key_and_no_order_does(body: dict[str, Any], data: st.DataObject) -> None:
    start = prefix(["chat"])
    key = key_of(start, body)
    assert key_of(start, reversed_members(body)) == key
    assert key_of(start, body | dict.fromkeys(NOT_COUNTED, data.draw(LEAVES.filter(lambda leaf: leaf is not True)))) == key
    place = data.draw(st.sampled_from(places(body)))
    other = changed(body, place, data.draw(LEAVES))
    assert (key_of(start, other) == key) == (orjson.dumps(other, option=orjson.OPT_SORT_KEYS) == orjson.dumps(body, option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize(
    "more",
    [
        {"store": True},
        {"background": True},
        {"conversation": "c"},
        {"previous_response_id": "r"},
        {"thread": {"type": "create"}},
        {"thread": {"type": "continue", "previous_message_id": "m"}},
    ],
    ids=repr,
)
def test_C02_what_goes_on_from_or_into_what_the_provider_stores_has_no_key(more: dict[str, Any]) -> None:
    start, body = prefix(["responses"]), {"input": "Hi"}
    assert key_of(start, body | more) is None
    for name in more:
        assert key_of(start, body | {name: None}) is not None


@given(st.lists(st.text(), max_size=6), st.lists(st.text(), max_size=6))
def test_C02_no_two_lists_of_fields_read_as_one(one: list[str], other: list[str]) -> None:
    assert (prefix(one) == prefix(other)) == (one == other)


def test_C02_composed_and_decomposed_letters_are_not_the_same() -> None:
    start = prefix([])
    assert key_of(start, {"input": "é"}) != key_of(start, {"input": "e\u0301"})


@pytest.mark.parametrize(
    ("headers", "members", "expected"),
    [
        ({}, {}, "HIT"),
        ({}, {"user": "ann", "metadata": {"a": "b"}, "store": False, "stream": False}, "HIT"),
        ({"X-Muxx-User-Id": "ann", "X-Muxx-Metadata": '{"a": 1}'}, {}, "HIT"),
        ({}, {"temperature": 0.7}, "MISS"),
        ({}, {"seed": 1}, "MISS"),
        ({}, {"n": 2}, "MISS"),
        ({}, {"model": "gpt-4o-mini"}, "MISS"),
        ({"OpenAI-Beta": "new"}, {}, "MISS"),
        ({"User-Agent": "another"}, {}, "MISS"),
        ({"X-Tenant": "b"}, {}, "MISS"),
        ({"X-Else": "b"}, {}, "HIT"),
    ],
)
async def test_C02_whatever_reaches_the_provider_counts(headers: dict[str, str], members: dict[str, Any], expected: str) -> None:
    config = {"providers": {"openai": {"request_headers": ["x-tenant"]}}}
    async with caching(config) as gateway:
        await chats(gateway, temperature=0.5)
        await chats(gateway)
        assert (await chats(gateway, headers=headers, **members)).header("x-muxx-cache") == expected


async def test_C02_a_header_may_be_left_out_of_account() -> None:
    async with caching({"plugins": {"cache": {"ignore_headers": ["Traceparent"]}}}) as gateway:
        await chats(gateway, headers={"traceparent": "00-1"})
        assert (await chats(gateway, headers={"traceparent": "00-2"})).header("x-muxx-cache") == "HIT"
        assert (await chats(gateway, headers={"traceparent": "00-2", "idempotency-key": "x"})).header("x-muxx-cache") == "MISS"


# ── C03 ──

BROKEN: dict[str, Any] = {
    "an error": error(500),
    "a refusal": error(400, code="context_length_exceeded"),
    "a page": [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"],
    "an error in a 200": answers.json({"error": {"message": "no", "type": "x", "param": None, "code": "y"}}),
    "nothing": answers.json(b""),
    "no JSON": answers.json(b"{"),
    "no choices": answers.json({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}),
    "another 2xx": answers.json(ANSWER, 202),
    "what its provider forbids to store": answers.json(ANSWER, headers={"Cache-Control": "private, No-Store"}),
    "a plain answer cut short": [answers.head(200, {"Content-Type": "application/json", "Content-Length": "500"}), PLAIN, fin()],
}
BROKEN_STREAMS: dict[str, Any] = {
    "an error": error(503),
    "an empty stream": sse(b""),
    "nothing but the end": sse(DONE),
    "a stream cut short": sse(delta("Hi"), end=fin()),
    "a stream that ends too early": sse(delta("Hi")),
    "a stream reset": sse(delta("Hi"), end=rst()),
    "a stream without its DONE": sse(delta("Hi") + finish()),
    "an error event": sse(delta("Hi") + event({"error": {"message": "no", "code": "x"}})),
    "garbage": sse(delta("Hi") + b"data: {\n\n" + DONE),
    "more than an answer": sse(delta("Hi") + finish() + DONE + delta("more")),
    "what its provider forbids to store": sse(STREAM, headers={"Cache-Control": "no-store"}),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_C03_of_plain_answers_nothing_is_kept_that_is(what: str) -> None:
    await is_not_kept(BROKEN[what], stream=False)


@both_transports
@pytest.mark.parametrize("what", BROKEN_STREAMS)
async def test_C03_of_streams_nothing_is_kept_that_is(what: str, transport: str) -> None:
    await is_not_kept(BROKEN_STREAMS[what], stream=True, transport=transport)


async def is_not_kept(script: Any, *, stream: bool, transport: str = "lean") -> None:
    async with caching(transport=transport) as gateway:
        gateway.upstream.script(script, chat("fresh"))
        await chats(gateway, stream=stream)
        response = await chats(gateway, stream=stream)
        assert response.header("x-muxx-cache") == "MISS"
        assert "fresh" in response.text
        assert (await chats(gateway, stream=stream)).header("x-muxx-cache") == "HIT"


async def test_C03_what_a_client_left_half_read_is_not_kept() -> None:
    gate = asyncio.Event()
    async with caching() as gateway:
        gateway.upstream.script([*sse(delta("Hi"))[:2], wait(gate)], chat("fresh"))
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            await client.readuntil(b"Hi")
        await gateway.upstream.last.peer_left()
        gate.set()
        assert "fresh" in (await chats(gateway, stream=True)).text


@pytest.mark.parametrize(
    ("headers", "members", "kept"),
    [
        ({"X-Muxx-Cache-Control": "no-store"}, {}, False),
        ({"X-Muxx-Cache-Control": "no-cache"}, {}, True),
        ({}, {"store": True}, False),
        ({}, {"background": True}, False),
        ({}, {"conversation": "c"}, False),
        ({}, {"previous_response_id": "r"}, False),
    ],
)
async def test_C03_a_request_that_wants_none_is_neither_answered_nor_kept(headers: Any, members: Any, kept: bool) -> None:
    async with caching() as gateway:
        first = await chats(gateway, headers=headers, **members)
        second = await chats(gateway, headers=headers, **members)
        assert asked(gateway) == 2
        assert {await cached(gateway, response) for response in (first, second)} == {"bypass"}
        assert (await chats(gateway, **members)).header("x-muxx-cache") == ("HIT" if kept else "MISS")


async def test_C03_what_a_client_pays_for_itself_is_not_kept() -> None:
    config = {"providers": {"openai": {"forward_client_credentials": True}}}
    async with caching(config) as gateway:
        for expected in ("bypass", "bypass"):
            async with await gateway.connect() as client:
                headers = {"X-Muxx-Api-Key": gateway.key, "Authorization": "Bearer sk-mine", "Content-Type": "application/json"}
                await client.request("POST", "/v1/chat/completions", headers, orjson.dumps(chat_body()))
                assert await cached(gateway, await client.read_response()) == expected
        assert (await chats(gateway)).header("x-muxx-cache") == "MISS"


# ── C04 ──


@both_transports
@pytest.mark.parametrize("stream", [False, True])
async def test_C04_five_hundred_at_once_make_one_call(transport: str, stream: bool) -> None:
    gate = asyncio.Event()
    async with caching(transport=transport) as gateway:
        script = sse(STREAM) if stream else answers.json(PLAIN)
        gateway.upstream.script([wait(gate), *script])
        calls = [asyncio.ensure_future(chats(gateway, stream=stream, within=60.0)) for _ in range(500)]
        await eventually(lambda: len(gateway.gateway.calls) == 500, 30.0)
        gate.set()
        responses = await asyncio.gather(*calls)
        assert asked(gateway) == 1
        bodies = {without_comment(response) if stream else response.body for response in responses}
        assert bodies == {without_usage(STREAM) if stream else PLAIN}
        assert sorted(response.header("x-muxx-cache") for response in responses) == ["HIT"] * 499 + ["MISS"]
        assert (await chats(gateway, stream=stream)).header("age") is not None
        assert asked(gateway) == 1


async def test_C04_those_who_arrive_while_it_ends_find_it_kept_already() -> None:
    """Between a call's end and its answer's being kept there is no moment in which another call would begin."""
    async with caching() as gateway:
        for number in range(20):
            gateway.upstream.requests.clear()
            calls = []
            for _ in range(30):
                calls.append(asyncio.ensure_future(chats(gateway, content=f"question {number}", stream=bool(number % 2))))
                await asyncio.sleep(0.0005)
            await asyncio.gather(*calls)
            assert asked(gateway) == 1


# ── C05 ──


async def test_C05_what_is_held_stays_within_its_bytes_and_the_latest_stays() -> None:
    most = 2**20
    async with caching({"plugins": {"cache": {"max_bytes": most}}}) as gateway:
        gateway.upstream.choose = lambda request: chat("word " * 1000)(request)
        for number in range(400):
            await chats(gateway, content=f"question {number}")
        memory = told(gateway)._memory
        assert 0.9 * most < memory.size <= most
        assert (await chats(gateway, content="question 399")).header("x-muxx-cache") == "HIT"
        assert (await chats(gateway, content="question 0")).header("x-muxx-cache") == "MISS"


async def test_C05_one_answer_too_large_is_not_kept_and_drives_nothing_out() -> None:
    async with caching({"plugins": {"cache": {"max_entry_bytes": 2000}}}) as gateway:
        await chats(gateway, content="small")
        gateway.upstream.script(chat("word " * 1000))
        for stream in (False, True):
            await chats(gateway, content="large", stream=stream)
            assert (await chats(gateway, content="large", stream=stream)).header("x-muxx-cache") == "MISS"
        assert (await chats(gateway, content="small")).header("x-muxx-cache") == "HIT"


async def test_C05_an_answer_is_given_again_for_as_long_as_the_project_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from muxx import again, collecting
    from muxx_std.cache import plugin

    clock = Clock()
    for module in (again, collecting, plugin):
        monkeypatch.setattr(module, "time", clock)
    async with caching({"project": {"cache": {"ttl": "1h"}}}) as gateway:
        await chats(gateway)
        clock.now += 3599
        response = await chats(gateway)
        assert (response.header("x-muxx-cache"), response.header("age")) == ("HIT", "3599")
        assert (await chats(gateway, headers={"X-Muxx-Cache-Control": "max-age=3598"})).header("x-muxx-cache") == "MISS"
        clock.now += 3600
        assert (await chats(gateway)).header("x-muxx-cache") == "MISS"


class Clock:
    """Time as the cache sees it; the wall clock goes backwards, which is nothing to it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return -self.now


# ── C06 ──


@pytest.mark.parametrize(("endpoint", "stream"), EVERY_FORM, ids=str)
async def test_C06_a_hit_is_the_same_answer_byte_for_byte_and_costs_nothing(endpoint: Endpoint, stream: bool) -> None:
    async with caching() as gateway:
        scripted(gateway, endpoint, stream)
        first, second = await ask(gateway, endpoint, stream), await ask(gateway, endpoint, stream)
        assert asked(gateway) == 1
        same = [less_comment(response, endpoint.last) if stream else response.body for response in (first, second)]
        assert same[0] == same[1] == (endpoint.stream if stream else endpoint.plain)
        assert (second.header("x-muxx-cache"), second.header("x-muxx-cost"), second.header("age")) == ("HIT", "0", "0")
        paid, free = [await gateway.get_row(response.request_id) for response in (first, second)]
        assert (paid["cache"], free["cache"]) == ("miss", "hit")
        assert (free["cost_usd"], free["usage_source"], free["attempts"]) == ("0", "cache", 0)
        assert free["saved_usd"] == paid["cost_usd"]
        told = ("input_tokens", "output_tokens", "reasoning_tokens", "provider", "model", "finish_reasons", "output", "status", "phase")
        assert {name: free[name] for name in told} == {name: paid[name] for name in told}
        assert free["input"] is not None


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False)])
async def test_C06_whichever_form_was_kept_is_given_in_the_form_that_is_asked_for(first: bool, second: bool, hooked: bool) -> None:
    async with caching(plugins={"looks": Looks} if hooked else {}) as gateway:
        gateway.upstream.script(sse(STREAM) if first else answers.json(whole()))
        paid = await gateway.get_row((await chats(gateway, stream=first)).request_id)
        response = await chats(gateway, stream=second)
        assert (asked(gateway), response.header("x-muxx-cache"), response.header("x-muxx-cost")) == (1, "HIT", "0")
        if second:
            assert response.done
            assert "".join(item["choices"][0]["delta"].get("content") or "" for item in response.events) == "Hello there."
            assert {item["id"] for item in response.events} == {"c-9"}
            assert response.events[-1]["choices"][0]["finish_reason"] == "stop"
        else:
            [choice] = response.json()["choices"]
            assert choice["message"]["content"] == "Grüß Gott, wie geht es dir? 👋"
            assert choice["finish_reason"] == "stop"
            assert response.json()["usage"]["completion_tokens"] == 5
        row = await gateway.get_row(response.request_id)
        assert (row["cost_usd"], row["saved_usd"]) == ("0", paid["cost_usd"])


def whole() -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}
    used = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"id": "c-9", "object": "chat.completion", "created": 9, "model": "gpt-4o", "choices": [choice], "usage": used}


class Looks:
    """Sees every chunk, and leaves it."""

    @hookimpl
    def on_chunk(self, chunk: Chunk) -> None:
        return None


async def test_C06_who_asks_for_usage_gets_it_from_a_kept_stream_and_who_does_not_does_not() -> None:
    async with caching() as gateway:
        gateway.upstream.script(sse(STREAM))
        await chats(gateway, stream=True)
        assert without_comment(await chats(gateway, stream=True)) == without_usage(STREAM)
        with_it = await chats(gateway, stream=True, stream_options={"include_usage": True})
        assert without_comment(with_it) == STREAM
        assert asked(gateway) == 1


class Shouts:
    @hookimpl
    def on_chunk(self, chunk: Chunk) -> list[Chunk] | None:
        return [Chunk("text", chunk.text + "!", chunk.index)] if chunk.kind == "text" else None


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("first", [False, True])
async def test_C06_a_hit_passes_the_hooks_once_and_never_what_they_made_before(first: bool, second: bool) -> None:
    async with caching(plugins={"shouts": Shouts}) as gateway:
        gateway.upstream.script(sse(delta("Hey") + finish() + usage_event() + DONE) if first else chat("Hey"))
        await chats(gateway, stream=first)
        for _ in range(2):
            response = await chats(gateway, stream=second)
            assert response.header("x-muxx-cache") == "HIT"
            assert response.text.count("Hey!") == 1
            assert "Hey!!" not in response.text


async def test_C06_a_large_stream_is_given_again_whole_and_at_the_readers_pace() -> None:
    stream = delta("word " * 2000) * 100 + finish() + usage_event() + DONE
    async with caching() as gateway:
        gateway.upstream.script(sse(stream))
        await chats(gateway, stream=True)
        async with await gateway.connect(receive_buffer=4096) as client:
            await client.post_chat(gateway.key, chat_body(stream=True))
            response = await client.read_response()
        assert response.header("x-muxx-cache") == "HIT"
        assert without_comment(response) == without_usage(stream)


@pytest.mark.parametrize("reason", [None, "error"])
async def test_C03_an_answer_that_has_failed_or_not_finished_is_not_kept(reason: str | None) -> None:
    answer = ANSWER | {"choices": [{**ANSWER["choices"][0], "finish_reason": reason}]}
    await is_not_kept(answers.json(answer), stream=False)


@pytest.mark.parametrize("status", ["failed", "in_progress", "queued", "cancelled"])
async def test_C03_a_response_that_is_not_completed_is_not_kept(status: str) -> None:
    text = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    answer = {"id": "r", "object": "response", "status": status, "model": "gpt-4o", "output": [text]}
    async with caching() as gateway:
        gateway.upstream.choose = lambda request: answers.json(answer)
        told = [(await gateway.ask("responses")).header("x-muxx-cache") for _ in range(2)]
        assert told == ["MISS", "MISS"]

"""Plugins that answer completions, embeddings and Responses themselves, or change what is asked, through a running gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson
import pytest
from carrying_kit import chunks_of, error_code, events_of, serving
from hooks_kit import each_later, pieces
from wire import responses_kit
from wire.responses_judge import accepted, consistent
from wires_kit import (
    ALL,
    CLEAN,
    COMPLETIONS,
    EMBEDDINGS,
    PLANTED,
    RESPONSES,
    WORD,
    Endpoint,
    Masks,
    ask,
    completion,
    completion_stream,
    each,
    each_streamed,
    less_comment,
    post,
    shown,
    terminal,
    texts,
)

from muxx import Chunk, Exchange, Reply, hookimpl
from muxx.testing import DONE, RawResponse
from muxx.testing.answers import json as plain

# ── a plugin that answers ───────────────────────────────────────────────────────────────────────────────────────────────────


def said() -> list[Chunk]:
    return [Chunk("text", "From a "), Chunk("text", "plugin."), Chunk("end", finish_reason="stop")]


BODIES: dict[str, Callable[[Endpoint, bool], Any]] = {
    "bytes": lambda endpoint, stream: PLAIN[endpoint.name],
    "chunks": lambda endpoint, stream: said(),
    "a generator of chunks": lambda endpoint, stream: iter(said()),
    "an async iterator of chunks": lambda endpoint, stream: each_later(said()),
    "an async iterator of bytes": lambda endpoint, stream: each_later(
        pieces(STREAMS[endpoint.name] if stream else PLAIN[endpoint.name])
    ),
}
MESSAGE = responses_kit.answer(responses_kit.message(0, "From a ", "plugin."))
STREAMS = {"text_completion": completion_stream("From a ", "plugin."), "responses": responses_kit.stream(*MESSAGE)}
PLAIN = {
    "text_completion": completion("From a plugin."),
    "responses": orjson.dumps(terminal(STREAMS["responses"])),
    "embeddings": EMBEDDINGS.plain,
}


class Answers:
    """Answers with the body that the header names."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> Reply:
        endpoint = next(endpoint for endpoint in ALL if endpoint.name == exchange.operation)
        return Reply(BODIES[exchange.request.headers["x-body"]](endpoint, exchange.request.stream), headers={"X-House": "yes"})


def the_text(endpoint: Endpoint, response: RawResponse, stream: bool) -> str:
    if endpoint is COMPLETIONS:
        chunks = chunks_of(response.body) if stream else [response.json()]
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    answer = consistent(response.body)[-1]["response"] if stream else response.json()
    assert answer["status"] == "completed"
    text: str = answer["output"][0]["content"][0]["text"]
    return text


@pytest.mark.parametrize("hooked", [False, True])
@each_streamed
@pytest.mark.parametrize("stream", [False, True])
async def test_a_plugin_answers_with_any_body_in_the_form_asked_for(endpoint: Endpoint, stream: bool, hooked: bool) -> None:
    plugins: dict[str, type] = {"answers": Answers} | ({"masks": Masks} if hooked else {})
    async with serving(plugins=plugins) as gateway:
        for body in BODIES:
            response = await ask(gateway, endpoint, stream, {"X-Body": body})
            assert (response.status, response.complete, response.header("x-house")) == (200, True, "yes"), (body, response.text)
            assert response.header("content-type") == ("text/event-stream" if stream else "application/json")
            assert the_text(endpoint, response, stream) == "From a plugin.", body
            if stream:
                last = DONE if endpoint is COMPLETIONS else events_of(response.body)[-1][0]
                whole = less_comment(response, last)
                assert endpoint is COMPLETIONS or accepted(whole) == "From a plugin."
                assert "bytes" not in body or body == "bytes" or whole == STREAMS[endpoint.name]
            elif "bytes" in body:
                assert response.body == PLAIN[endpoint.name]
            row = await gateway.get_row(response.request_id)
            expected = {
                "endpoint": endpoint.name,
                "status": 200,
                "stream": stream,
                "error_code": None,
                "finish_reasons": ["stop"],
            }
            assert shown(row, expected) == expected, body
            assert float(row["cost_usd"]) == 0
            assert "From a plugin." in texts(row["output"]), body
        assert gateway.upstream.requests == []


@pytest.mark.parametrize("body", BODIES)
async def test_embeddings_are_answered_with_bytes_and_with_nothing_else(body: str) -> None:
    async with serving(plugins={"answers": Answers}) as gateway:
        for members in ({}, {"stream": True}):
            response = await post(gateway, EMBEDDINGS, {"X-Body": body}, **members)
            if "bytes" in body:
                assert (response.status, response.body) == (200, EMBEDDINGS.plain)
            else:
                assert (response.status, error_code(response)) == (500, "plugin_error")
        assert gateway.upstream.requests == []


@each_streamed
async def test_what_a_plugin_answers_goes_through_the_hooks(endpoint: Endpoint) -> None:
    async def later() -> AsyncIterator[Chunk]:
        for text in PLANTED:
            yield Chunk("text", text)

    class Says:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> Reply:
            kinds: dict[str, Any] = {"later": later(), "now": [Chunk("text", text) for text in PLANTED]}
            return Reply(kinds[exchange.request.headers["x-body"]])

    async with serving(plugins={"says": Says, "masks": Masks}) as gateway:
        for stream in (False, True):
            for body in ("later", "now"):
                response = await ask(gateway, endpoint, stream, {"X-Body": body})
                assert the_text(endpoint, response, stream) == CLEAN
                assert WORD not in response.text
                assert CLEAN in texts((await gateway.get_row(response.request_id))["output"])


@each_streamed
async def test_a_plugins_answer_that_breaks_off_ends_with_an_error(endpoint: Endpoint) -> None:
    async def breaks() -> AsyncIterator[Chunk]:
        yield Chunk("text", "so far")
        raise RuntimeError("no more")

    class Breaks:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> Reply:
            return Reply(breaks())

    async with serving(plugins={"breaks": Breaks}) as gateway:
        plain_answer = await ask(gateway, endpoint, stream=False)
        streamed = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(streamed.request_id)
    assert (plain_answer.status, error_code(plain_answer)) == (500, "plugin_error")
    assert b"so far" in streamed.body
    last = json.loads(events_of(streamed.body)[-1][1] or b"")
    assert last["error"]["code"] == "plugin_error"
    assert b"[DONE]" not in streamed.body
    assert b'completed"' not in streamed.body
    assert (row["status"], row["error_code"], row["ended_by"]) == (200, "plugin_error", "muxx")


def answering_with(items: Iterable[bytes]) -> dict[str, type]:
    held = list(items)

    class Says:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> Reply:
            return Reply(each_later(held))

    return {"says": Says}


@each_streamed
async def test_bytes_of_a_plugin_that_end_before_their_answer_does_are_its_crash(endpoint: Endpoint) -> None:
    events = [raw for raw, _ in events_of(STREAMS[endpoint.name])]
    end = 2 if endpoint is COMPLETIONS else len(events) - 1
    async with serving(plugins=answering_with(events[:end])) as gateway:
        response = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(response.request_id)
    *came, (_, told) = events_of(response.body)
    assert [raw for raw, _ in came] == events[:end]
    assert json.loads(told or b"")["error"]["code"] == "plugin_error"
    assert (row["status"], row["error_code"], row["ended_by"]) == (200, "plugin_error", "muxx")


@pytest.mark.parametrize("name", ["text", "many", "unnumbered"])
async def test_bytes_of_a_plugin_begin_a_responses_answer_only_once_though_their_last_line_is_open(name: str) -> None:
    stream = responses_kit.OWN[name].rstrip(b"\n")
    async with serving(plugins=answering_with(pieces(stream, 50))) as gateway:
        response = await post(gateway, RESPONSES, stream=True)
        row = await gateway.get_row(response.request_id)
    assert less_comment(response, events_of(stream)[-1][0]) == stream
    assert row["output"] == terminal(stream)


async def test_bytes_of_a_plugin_without_their_done_are_a_whole_completion() -> None:
    stream = STREAMS["text_completion"]
    async with serving(plugins=answering_with([stream.removesuffix(DONE)])) as gateway:
        response = await post(gateway, COMPLETIONS, stream=True)
    assert less_comment(response, DONE) == stream


# ── a plugin that edits the request ─────────────────────────────────────────────────────────────────────────────────────────


class Shouts:
    """Raises its voice in every text of a request."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        for part in exchange.request.parts():
            part.text = part.text.upper()


EDITED: list[tuple[Endpoint, dict[str, Any], dict[str, Any]]] = [
    (COMPLETIONS, {"prompt": "once", "suffix": "after"}, {"prompt": "ONCE", "suffix": "AFTER"}),
    (COMPLETIONS, {"prompt": ["once", "twice"]}, {"prompt": ["ONCE", "TWICE"], "suffix": "EVER AFTER."}),
    (COMPLETIONS, {"prompt": [[1, 2], [3]], "suffix": ...}, {"prompt": [[1, 2], [3]]}),
    (EMBEDDINGS, {"input": "one"}, {"input": "ONE"}),
    (EMBEDDINGS, {"input": ["one", "two"]}, {"input": ["ONE", "TWO"]}),
    (EMBEDDINGS, {"input": [1, 2]}, {"input": [1, 2]}),
    (RESPONSES, {"input": "hi", "instructions": ...}, {"input": "HI"}),
    (
        RESPONSES,
        {
            "instructions": "be brief",
            "input": [
                {"role": "user", "content": "hi"},
                {"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "u"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":"b"}'},
                {"type": "function_call_output", "call_id": "c", "output": "warm"},
            ],
        },
        {
            "instructions": "BE BRIEF",
            "input": [
                {"role": "user", "content": "HI"},
                {"role": "user", "content": [{"type": "input_text", "text": "LOOK"}, {"type": "input_image", "image_url": "u"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"A":"B"}'},
                {"type": "function_call_output", "call_id": "c", "output": "WARM"},
            ],
        },
    ),
]


@pytest.mark.parametrize(("endpoint", "members", "edited"), EDITED, ids=lambda value: str(value)[:40])
async def test_what_a_plugin_edits_in_parts_is_what_the_provider_gets(
    endpoint: Endpoint, members: dict[str, Any], edited: dict[str, Any]
) -> None:
    async with serving(plugins={"shouts": Shouts}) as gateway:
        gateway.upstream.script(plain(endpoint.plain))
        response = await post(gateway, endpoint, **members)
        sent = gateway.upstream.last.json()
        row = await gateway.get_row(response.request_id)
    assert response.body == endpoint.plain
    sent.pop("model")
    assert sent == edited
    assert {name: row["input"][name] for name in edited} == edited


@each
async def test_a_plugin_that_makes_the_request_wrong_is_told_so_and_nothing_is_sent(endpoint: Endpoint) -> None:
    class Spoils:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.request.body["prompt" if exchange.operation == "text_completion" else "input"] = 7

    async with serving(plugins={"spoils": Spoils}) as gateway:
        response = await ask(gateway, endpoint, stream=False)
        assert (response.status, error_code(response)) == (400, "invalid_type")
        assert gateway.upstream.requests == []

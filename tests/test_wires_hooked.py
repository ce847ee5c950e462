"""Plugins that see, hide and end answers of completions, embeddings and Responses, through a running gateway."""

from __future__ import annotations

import pytest
from carrying_kit import both_transports, chunks_of, cut, events_of, serving
from thoroughness import some
from wire import responses_kit
from wire.recordings import recordings
from wire.responses_judge import accepted, consistent
from wires_kit import (
    CLEAN,
    COMPLETIONS,
    MASK,
    PLANTED,
    RESPONSES,
    USAGE_EVENT,
    WORD,
    Endpoint,
    Looks,
    Masks,
    ask,
    completion,
    completion_recordings,
    completion_stream,
    each_form,
    each_streamed,
    less_comment,
    post,
    response_of,
    response_row,
    response_stream,
    shown,
    terminal,
    texts,
)

from muxx import Chunk, Exchange, PermissionDenied, hookimpl
from muxx.testing import DONE, RawResponse, fin, sse
from muxx.testing.answers import json as plain

# ── a plugin that changes nothing ───────────────────────────────────────────────────────────────────────────────────────────

FORMS_OF_LOOKING = ({}, {"X-Muxx-User-Id": "returned"})
"""The plugin returns nothing, or the chunk it was given."""


async def test_a_plugin_that_only_looks_leaves_every_byte_of_every_recording() -> None:
    async with serving(plugins={"looks": Looks}) as gateway:
        cases = [(RESPONSES, path) for path in some(recordings("openai-responses"), least=8)]
        for seed, (endpoint, path) in enumerate([*cases, *((COMPLETIONS, path) for path in completion_recordings())]):
            stream = path.read_bytes()
            gateway.upstream.script(sse(chunks=cut(stream, seed)))
            response = await post(gateway, endpoint, FORMS_OF_LOOKING[seed % 2], stream=True)
            assert less_comment(response, events_of(stream)[-1][0]) == stream, path.name
            if endpoint is RESPONSES:
                row = await gateway.get_row(response.request_id)
                expected = response_row(stream)
                assert shown(row, expected) == expected, path.name
                assert row["output"] == terminal(stream), path.name


@each_form
async def test_a_plugin_that_only_looks_changes_neither_answer_nor_row(endpoint: Endpoint, stream: bool) -> None:
    script = sse(chunks=cut(endpoint.stream, 3)) if stream else plain(endpoint.plain)
    rows = []
    for plugins in ({"looks": Looks}, {}):
        async with serving(plugins=plugins) as gateway:
            gateway.upstream.script(script if plugins else (sse(endpoint.stream) if stream else plain(endpoint.plain)))
            for headers in FORMS_OF_LOOKING:
                response = await ask(gateway, endpoint, stream, headers)
                got = less_comment(response, endpoint.last) if stream else response.body
                assert got == (endpoint.stream if stream else endpoint.plain)
                row = await gateway.get_row(response.request_id)
                rows.append({name: row[name] for name in (*endpoint.row, "status", "output", "model", "usage_source")})
    assert rows == [rows[0]] * 4


@pytest.mark.parametrize("name", responses_kit.OWN)
async def test_a_plugin_that_only_looks_leaves_responses_of_every_kind(name: str) -> None:
    stream = responses_kit.OWN[name]
    async with serving(plugins={"looks": Looks}) as gateway:
        for headers in FORMS_OF_LOOKING:
            gateway.upstream.script(sse(chunks=cut(stream, 5)))
            response = await post(gateway, RESPONSES, headers, stream=True)
            assert less_comment(response, events_of(stream)[-1][0]) == stream
            assert (await gateway.get_row(response.request_id))["output"] == terminal(stream)
            body = responses_kit.plain(name)
            gateway.upstream.script(plain(body))
            assert (await post(gateway, RESPONSES, headers)).body == body


async def test_usage_nobody_asked_for_is_withheld_from_a_hooked_completion_too() -> None:
    async with serving(plugins={"looks": Looks}) as gateway:
        gateway.upstream.script(sse(COMPLETIONS.stream))
        response = await post(gateway, COMPLETIONS, stream=True)
        assert less_comment(response, DONE) == COMPLETIONS.stream.replace(USAGE_EVENT, b"")
        assert shown(await gateway.get_row(response.request_id), COMPLETIONS.row) == COMPLETIONS.row


# ── a plugin that hides a word ──────────────────────────────────────────────────────────────────────────────────────────────


def said_in(endpoint: Endpoint, response: RawResponse, stream: bool) -> list[str]:
    """Every text of an answer, put together from its pieces where it came in pieces."""
    if endpoint is COMPLETIONS:
        chunks = chunks_of(response.body) if stream else [response.json()]
        return ["".join(choice["text"] for chunk in chunks for choice in chunk["choices"])]
    answer = response.json() if not stream else terminal(response.body)
    summary, text, arguments = (
        answer["output"][0]["summary"][0]["text"],
        answer["output"][1]["content"][0]["text"],
        answer["output"][2]["arguments"],
    )
    if stream:
        deltas: dict[int, str] = {}
        for event in consistent(response.body):
            if event["type"].endswith(".delta"):
                deltas[event["output_index"]] = deltas.get(event["output_index"], "") + event["delta"]
        assert deltas == {0: summary, 1: text, 2: arguments}
    return [summary, text, arguments]


@both_transports
@each_streamed
@pytest.mark.parametrize("stream", [False, True])
async def test_a_hidden_word_is_nowhere_in_the_answer_nor_in_the_row(endpoint: Endpoint, stream: bool, transport: str) -> None:
    streamed, whole = (completion_stream, completion) if endpoint is COMPLETIONS else (response_stream, response_of)
    body = whole("".join(PLANTED)) if endpoint is COMPLETIONS else whole(*PLANTED)
    assert WORD.encode() in body
    async with serving(transport, plugins={"masks": Masks}) as gateway:
        for seed in range(6):
            gateway.upstream.script(sse(chunks=cut(streamed(*PLANTED), seed)) if stream else plain(body))
            response = await ask(gateway, endpoint, stream)
            assert response.status == 200
            assert WORD not in response.text
            assert said_in(endpoint, response, stream) == [CLEAN] * (1 if endpoint is COMPLETIONS else 3)
            row = await gateway.get_row(response.request_id)
            kept = list(texts(row["output"]))
            assert CLEAN in kept
            assert not any(WORD in text for text in kept)
            assert shown(row, endpoint.row) == endpoint.row
            assert (row["status"], row["error_code"]) == (200, None)
            if stream and endpoint is RESPONSES:
                assert row["output"] == terminal(response.body)
                assert accepted(response.body) == CLEAN


@each_streamed
@pytest.mark.parametrize("cut_at", range(1, len(WORD)))
async def test_a_hidden_word_is_found_wherever_it_is_cut(endpoint: Endpoint, cut_at: int) -> None:
    streamed = completion_stream if endpoint is COMPLETIONS else response_stream
    async with serving(plugins={"masks": Masks}) as gateway:
        gateway.upstream.script(sse(streamed("a " + WORD[:cut_at], WORD[cut_at:] + " b")))
        response = await ask(gateway, endpoint, stream=True)
    assert set(said_in(endpoint, response, stream=True)) == {f"a {MASK} b"}
    assert WORD not in response.text


@each_streamed
async def test_a_word_half_said_when_the_stream_breaks_is_not_told(endpoint: Endpoint) -> None:
    streamed = completion_stream if endpoint is COMPLETIONS else response_stream
    stream = streamed("So: hunt", "er", "2!")
    at = stream.index(b"So: hunt")
    broken = stream[: stream.index(b"\n\n", at) + 2]
    async with serving(plugins={"masks": Masks}) as gateway:
        gateway.upstream.script(sse(broken, end=fin()))
        response = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(response.request_id)
    assert b"upstream_disconnected" in response.body
    assert b'completed"' not in response.body
    assert b"hunt" not in response.body
    assert (row["error_code"], row["ended_by"]) == ("upstream_disconnected", "upstream")
    assert not any("hunt" in text for text in texts(row["output"]))


@each_streamed
async def test_an_answer_ended_by_a_plugin_is_whole_and_says_why(endpoint: Endpoint) -> None:
    class Stops:
        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> list[Chunk] | None:
            stops = "STOP" in chunk.text
            return [Chunk("end", finish_reason="content_filter")] if stops else None

    stream = completion_stream("so ", "far", "STOP", "never") if endpoint is COMPLETIONS else RESPONSES_THAT_STOP
    async with serving(plugins={"stops": Stops}) as gateway:
        gateway.upstream.script(sse(stream))
        response = await ask(gateway, endpoint, stream=True)
        row = await gateway.get_row(response.request_id)
    assert (response.status, response.complete) == (200, True)
    assert b"never" not in response.body
    assert b"STOP" not in response.body
    assert response.body.count(b": muxx ") == 1
    if endpoint is COMPLETIONS:
        assert response.body.endswith(DONE)
        choices = [choice for chunk in chunks_of(response.body) for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in choices) == "so far"
        assert choices[-1]["finish_reason"] == "content_filter"
    else:
        last = consistent(response.body)[-1]
        assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": "content_filter"})
        assert last["response"]["output"][0]["content"][0]["text"] == "so far"
        assert row["output"] == last["response"]
    assert row["status"] == 200
    assert "so far" in texts(row["output"])


RESPONSES_THAT_STOP = responses_kit.stream(
    *responses_kit.answer(responses_kit.message(0, "so ", "far", "STOP", "never"), responses_kit.message(1, "never"))
)


@each_form
async def test_a_plugin_that_refuses_in_on_chunk_is_an_error_and_no_success(endpoint: Endpoint, stream: bool) -> None:
    class Refuses:
        @hookimpl
        def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
            if chunk.text or chunk.kind == "end":
                raise PermissionDenied("Not this.", code="not_this")

    async with serving(plugins={"refuses": Refuses}) as gateway:
        gateway.upstream.script(sse(endpoint.stream) if stream else plain(endpoint.plain))
        response = await ask(gateway, endpoint, stream)
        row = await gateway.get_row(response.request_id)
    begun = stream and endpoint is RESPONSES  # its first events hold no text: they are on their way
    assert response.body.count(b'"code":"not_this"') == (2 if begun else 1)
    assert b": muxx" not in response.body
    assert b"[DONE]" not in response.body
    assert b'completed"' not in response.body
    assert (response.status, row["error_code"], row["ended_by"]) == (200 if begun else 403, "not_this", "muxx")

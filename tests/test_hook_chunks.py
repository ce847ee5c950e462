"""`on_chunk`, `tap` and `skip_chunks` through a running gateway: one invariant a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from carrying_kit import ASKED, STREAM, delta, finish, serving, usage_event, without_comment
from hooks_kit import (
    SECRET,
    Seen,
    both_forms,
    delivered,
    each_later,
    watching,
)

from muxx import (
    Chunk,
    Exchange,
    PermissionDenied,
    Reply,
    hookimpl,
)
from muxx.testing import (
    DONE,
    chat,
    error,
    json,
    pause,
    sse,
)


async def test_on_chunk_sees_every_chunk_and_end_is_the_last() -> None:
    seen = Seen()
    async with serving(plugins={"watching": watching(seen)}) as gateway:
        for stream in (False, True):
            response = await gateway.chat(stream=stream)
            assert seen.text(response.request_id) == "Hello there."
            kinds = seen.kinds(response.request_id)
            assert kinds[-1] == "end"
            assert kinds.count("end") == 1
            end = seen.chunks[response.request_id or ""][-1]
            assert end.finish_reason == "stop"
            assert end.usage is not None
            assert (end.usage.input_tokens, end.usage.output_tokens) == (10, 5)


async def test_a_reply_of_chunks_without_an_end_still_ends() -> None:
    seen = Seen()

    class Says:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> Reply:
            texts = [Chunk("text", "no end")]
            return Reply(each_later(texts) if exchange.request.user_id == "later" else texts)

    async with serving(plugins={"says": Says, "watching": watching(seen)}) as gateway:
        for user in ("now", "later"):
            for stream in (False, True):
                response = await gateway.chat(stream=stream, headers={"X-Muxx-User-Id": user})
                assert seen.kinds(response.request_id) == ["text", "end"]
                choice = (response.events[-1] if stream else response.json())["choices"][0]
                assert choice["finish_reason"] == "stop"
                assert response.done or not stream


async def test_on_chunk_sees_nothing_of_an_error() -> None:
    seen = Seen()
    async with serving(plugins={"watching": watching(seen)}) as gateway:
        gateway.upstream.script(error(400, code="bad_thing"))
        response = await gateway.chat()
    assert response.error["code"] == "bad_thing"
    assert seen.kinds(response.request_id) == []


async def test_the_usage_event_the_client_did_not_ask_for_is_withheld_from_it_but_not_from_the_end() -> None:
    seen = Seen()
    async with serving(plugins={"watching": watching(seen)}) as gateway:
        gateway.upstream.script(sse(STREAM))
        response = await gateway.chat(stream=True)
    assert all(item["choices"] for item in response.events)
    end = seen.chunks[response.request_id or ""][-1]
    assert end.usage is not None
    assert end.usage.output_tokens == 5


async def test_untouched_chunks_leave_as_the_providers_own_bytes() -> None:
    odd = b'data:  {"choices" : [ {"delta":{"content":"\\u0041"},"x":1,"index":0} ], "odd":1.10}\r\n\r\n: a comment\n\n'
    stream = odd.replace(b": a comment\n\n", b"") + delta("b") + finish() + usage_event() + DONE
    seen = Seen()
    async with serving(plugins={"watching": watching(seen)}) as gateway:
        gateway.upstream.script(sse(chunks=[stream[i : i + 5] for i in range(0, len(stream), 5)]))
        response = await gateway.chat(**ASKED)
        assert without_comment(response) == stream
        body = b'{ "id" :"x","choices":[{"index":0,"message":{"content":"\\u0041"},"finish_reason":"stop"}] }'
        gateway.upstream.script(json(body))
        assert (await gateway.chat()).body == body


def on_text(change: Callable[[Chunk], Iterable[Chunk] | None]) -> type:
    """A plugin that changes text and nothing else."""

    class Changes:
        @hookimpl
        def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
            return change(chunk) if chunk.kind == "text" else None

    return Changes


@both_forms
async def test_an_iterable_replaces_the_chunk(stream: bool) -> None:
    shouts = on_text(lambda chunk: [replace(chunk, text=chunk.text.upper())])
    async with serving(plugins={"shouts": shouts}) as gateway:
        response = await gateway.chat(stream=stream)
        assert delivered(response) == "HELLO THERE."
        assert response.done or not stream
        row = await gateway.get_row(response.request_id)
    assert row["output"]["choices"][0]["message"]["content"] == "HELLO THERE."


@both_forms
async def test_an_empty_iterable_drops_the_chunk(stream: bool) -> None:
    drops = on_text(lambda chunk: [] if "there" in chunk.text else None)
    async with serving(plugins={"drops": drops}) as gateway:
        gateway.upstream.script(chat("Hello there friend."))
        response = await gateway.chat(stream=stream)
    assert "there" not in response.text
    assert response.done or not stream


@both_forms
async def test_one_chunk_may_become_several(stream: bool) -> None:
    splits = on_text(lambda chunk: [replace(chunk, text=letter, raw=None) for letter in chunk.text])
    async with serving(plugins={"splits": splits}) as gateway:
        response = await gateway.chat(stream=stream)
    assert delivered(response) == "Hello there."
    if stream:
        assert len(response.events) >= len("Hello there.")


async def test_text_may_be_held_back_and_let_go_at_the_end() -> None:
    held: list[str] = []

    class Holds:
        @hookimpl
        def on_chunk(self, chunk: Chunk) -> Iterable[Chunk] | None:
            if chunk.kind == "text":
                held.append(chunk.text)
                return []
            if chunk.kind == "end":
                return [Chunk("text", "".join(held)), chunk]
            return None

    async with serving(plugins={"holds": Holds}) as gateway:
        for stream in (True, False):
            held.clear()
            response = await gateway.chat(stream=stream)
            assert delivered(response) == "Hello there."
            assert response.done or not stream


async def test_chunk_plugins_run_in_order_each_on_what_the_one_before_let_through() -> None:
    adds = on_text(lambda chunk: [replace(chunk, text=chunk.text + "!")] if chunk.text else None)
    doubles = on_text(lambda chunk: [replace(chunk, text=chunk.text * 2)])
    async with serving(plugins={"a": adds, "b": doubles}) as gateway:
        gateway.upstream.script(chat("Hi"))
        assert delivered(await gateway.chat()) == "Hi!Hi!"


async def test_an_early_end_ends_the_answer_cleanly_and_closes_the_upstream() -> None:
    seen = Seen()
    stops = on_text(lambda chunk: [chunk, Chunk("end", finish_reason="content_filter")] if "two" in chunk.text else None)
    endless = [*sse(chunks=[delta("one "), delta("two "), delta("three")])[:-1], pause(60)]
    async with serving(plugins={"stops": stops, "watching": watching(seen)}) as gateway:
        gateway.upstream.script(endless)
        response = await gateway.chat(stream=True)
        assert response.complete
        assert response.done
        assert delivered(response) == "one two "
        assert response.events[-1]["choices"][0]["finish_reason"] == "content_filter"
        await gateway.upstream.last.peer_left()
        row = await gateway.get_row(response.request_id)
    assert (row["status"], row["ended_by"], row["error_code"]) == (200, None, None)
    assert row["output_tokens"] > 0
    assert seen.kinds(response.request_id)[-1] == "end"


async def test_an_early_end_cuts_a_plain_answer_too() -> None:
    stops = on_text(lambda chunk: [replace(chunk, text="cut"), Chunk("end", finish_reason="content_filter")])
    async with serving(plugins={"stops": stops}) as gateway:
        [choice] = (await gateway.chat()).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("cut", "content_filter")


async def test_a_refusal_in_a_stream_keeps_its_type_and_code() -> None:
    def refuse(chunk: Chunk) -> None:
        if "two" in chunk.text:
            raise PermissionDenied("Not that.", code="blocked_words")

    stream = delta("one ") + delta("two ") + delta("three") + finish() + DONE
    async with serving(plugins={"refuses": on_text(refuse)}) as gateway:
        gateway.upstream.script(sse(stream))
        response = await gateway.chat(stream=True)
        assert response.events[-1] == {
            "error": {"message": "Not that.", "type": "permission_error", "param": None, "code": "blocked_words"}
        }
        assert response.complete
        assert not response.done
        assert "two" not in response.text
        gateway.upstream.script(chat("one two"))
        plain = await gateway.chat()
        assert (plain.status, plain.error["code"]) == (403, "blocked_words")
        row = await gateway.get_row(response.request_id)
    assert (row["status"], row["error_code"], row["ended_by"], row["phase"]) == (200, "blocked_words", "muxx", "stream")


async def test_skip_chunks_takes_one_plugin_off_one_exchange() -> None:
    class Chooses:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            if exchange.request.user_id == "calm":
                exchange.skip_chunks("shouts")

    shouts = on_text(lambda chunk: [replace(chunk, text=chunk.text.upper())])
    async with serving(plugins={"chooses": Chooses, "shouts": shouts}) as gateway:
        for stream in (False, True):
            assert delivered(await gateway.chat(stream=stream, headers={"X-Muxx-User-Id": "calm"})) == "Hello there."
            assert delivered(await gateway.chat(stream=stream)) == "HELLO THERE."


@both_forms
async def test_tap_gets_the_bytes_as_delivered_and_leaves_the_fast_path_alone(stream: bool) -> None:
    tapped: list[bytes] = []

    class Taps:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.tap(tapped.append)

    async with serving(plugins={"taps": Taps}) as gateway:
        gateway.upstream.script(sse(STREAM) if stream else chat())
        response = await gateway.chat(**(ASKED if stream else {}))
        assert gateway.gateway.plugins.chain("on_chunk") == ()
    assert b"".join(tapped) == (STREAM if stream else response.body)


async def test_a_tap_that_nobody_awaits_is_told_and_the_answer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def looks(data: bytes) -> None:
        raise AssertionError("it never begins")

    class Taps:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.tap(looks)  # type: ignore[arg-type]

    async with serving(plugins={"taps": Taps}) as gateway:
        assert delivered(await gateway.chat(stream=True)) == "Hello there."
    assert caplog.text.count("a plugin's tap failed") == 1
    assert ".looks: CoroutineNobodyAwaits" in caplog.text


async def test_a_tap_that_crashes_ends_neither_the_answer_nor_the_gateway(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[bytes] = []

    def breaks(data: bytes) -> None:
        calls.append(data)
        raise RuntimeError(SECRET)

    class Taps:
        @hookimpl
        def pre_request(self, exchange: Exchange) -> None:
            exchange.tap(breaks)

    async with serving(plugins={"taps": Taps}) as gateway:
        for stream in (False, True):
            response = await gateway.chat(stream=stream)
            assert response.status == 200
            assert delivered(response) == "Hello there."
            assert response.done or not stream
    assert calls
    assert len(calls) == 2, "one answer, one crash: after it the tap is called no more, not even for the last event"
    assert SECRET not in caplog.text

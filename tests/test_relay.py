"""The relay's invariants, sentence by sentence, without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest
from carrying_kit import (
    STREAM,
    TEXT,
    WORDS,
    Bench,
    chunks_of,
    cut,
    delta,
    events_of,
    finish,
    prefixes,
    usage_event,
    without_usage,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import MuxxError, PluginError, UpstreamDisconnected
from muxx.hookedrelay import QUEUED_BYTES, Delivered, HookedRelay
from muxx.relay import FIRST_EVENTS, MOST_LIKENESSES
from muxx.reply import Chunk
from muxx.testing import DONE, event, eventually
from muxx.wire.openai.stream import ChatStream
from muxx.wire.sse import Event
from muxx.wire.wire import Verdict

BEFORE_DONE = STREAM.removesuffix(DONE)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Events of chat completions that were parsed."""
    events: list[bytes] = []
    observe = ChatStream.observe

    def counted(self: ChatStream, one: Event, value: Any = None) -> Verdict:
        events.append(one[0])
        return observe(self, one, value)

    monkeypatch.setattr(ChatStream, "observe", counted)
    return events


def code(bench: Bench) -> str | None:
    return bench.error.code if bench.error is not None else None


# ── the fast path ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_unfinished_event_is_never_sent() -> None:
    for position in range(1, len(BEFORE_DONE)):
        bench = Bench()
        bench.feed(BEFORE_DONE[:position])
        assert bench.down.body in prefixes(BEFORE_DONE)
        assert BEFORE_DONE.startswith(bench.down.body)
        assert len(BEFORE_DONE[:position]) - len(bench.down.body) < max(len(raw) for raw, _ in events_of(STREAM))


async def test_what_one_read_brings_leaves_in_one_write() -> None:
    bench = Bench()
    bench.feed(BEFORE_DONE)
    assert bench.down.pieces == [BEFORE_DONE]


async def test_events_that_only_say_more_are_passed_on_by_their_likeness_and_not_parsed(observed: list[bytes]) -> None:
    bench = Bench()
    words = [delta(f" word{number}") for number in range(20)]
    bench.feed(delta("a"), words[0], *words[1:9], words[9] + words[10], words[11][:30], words[11][30:], *words[12:], finish(), DONE)
    assert bench.down.pieces == [delta("a"), *words[:9], words[9] + words[10], *words[11:], finish()]
    assert observed == [delta("a"), words[0], words[11], finish(), DONE]
    assert bench.relay.stream.text == "a" + "".join(f" word{number}" for number in range(20))


async def test_of_many_events_in_one_read_the_first_tell_how_the_others_look(observed: list[bytes]) -> None:
    words = [delta(f" word{number}") for number in range(40)]
    others = [b": hm\n\n", delta("", logprobs={})]
    bench = Bench()
    bench.feed(b"".join([*words[:20], *others, *words[20:], finish(), DONE, DONE]))
    assert bench.down.body == b"".join([*words[:20], *others, *words[20:], finish()])
    assert observed == [*words[:4], *others, *words[20:22], finish(), DONE]
    assert bench.relay.stream.text == "".join(f" word{number}" for number in range(40))
    assert (bench.relay.last, code(bench), bench.relay.surplus) == (DONE, None, True)


async def test_the_last_event_of_a_complete_answer_is_held_for_who_records_the_row() -> None:
    bench = Bench()
    bench.feed(STREAM)
    assert (bench.down.body, bench.relay.last, code(bench)) == (BEFORE_DONE, DONE, None)


async def test_nothing_is_sent_after_the_end() -> None:
    for end in (DONE, b'data: {"error": "no"}\n\n', b"data: garbage\n\n"):
        bench = Bench()
        bench.feed(delta("a") + end + delta("b"), delta("c"), DONE)
        assert bench.over
        assert bench.down.body in (delta("a"), delta("a") + end)
        bench.end()
        assert bench.down.body in (delta("a"), delta("a") + end)


async def test_bytes_after_the_end_cost_the_provider_its_connection_and_line_ends_do_not() -> None:
    for after, distrusted in ((b"\n", False), (b"\r\n\r\n", False), (b": hm\n\n", True), (b"d", True), (DONE, True)):
        together, apart = Bench(), Bench()
        together.feed(STREAM + after)
        apart.feed(STREAM, after)
        for bench in (together, apart):
            assert (bench.provider.closed, bench.relay.surplus) == (distrusted, distrusted)


@pytest.mark.parametrize("choices", [1, 2])
async def test_the_end_of_the_body_is_the_end_of_the_answer_only_after_every_finish_reason(choices: int) -> None:
    for came in prefixes(BEFORE_DONE):
        bench = Bench(choices=choices)
        if came:
            bench.feed(came)
        bench.end()
        whole = finish() in came and choices == 1
        assert code(bench) == (None if whole else "upstream_truncated")
        assert (bench.down.body, bench.relay.last) == (came, b"")


async def test_an_error_after_every_finish_reason_changes_nothing() -> None:
    bench = Bench()
    bench.feed(delta("a") + finish())
    bench.end(UpstreamDisconnected())
    assert code(bench) is None


async def test_a_transport_that_crashes_is_a_provider_that_disconnects() -> None:
    for error, expected in ((UpstreamDisconnected(), "upstream_disconnected"), (ValueError(), "upstream_disconnected")):
        bench = Bench()
        bench.feed(delta("a"))
        bench.end(error)
        assert code(bench) == expected


async def test_a_tail_without_its_blank_line_is_sent_only_where_it_completes_the_answer() -> None:
    for stream, sent, last, expected in (
        (delta("a") + finish() + b"data: [DONE]", delta("a") + finish(), b"data: [DONE]", None),
        (delta("a") + finish()[:-2], delta("a") + finish()[:-2], b"", None),
        (delta("a") + delta("b")[:-2], delta("a"), b"", "upstream_truncated"),
        (delta("a") + delta("b")[:-9], delta("a"), b"", "upstream_truncated"),
        (delta("a") + b"\n\n\n", delta("a") + b"\n\n\n", b"", "upstream_truncated"),
    ):
        bench = Bench()
        bench.feed(stream)
        bench.end()
        assert (bench.down.body.rstrip(b"\n"), bench.relay.last, code(bench)) == (sent.rstrip(b"\n"), last, expected)


async def test_time_runs_from_event_to_event_and_shortens_after_the_finish_reason() -> None:
    bench = Bench(between_events=60.0, finish_grace=5.0)
    for _ in range(3):
        bench.limits.due = 0
        bench.feed(delta("a"))
        assert 59 < bench.limits.due - time.monotonic() <= 60
    bench.feed(finish())
    assert 4 < bench.limits.due - time.monotonic() <= 5
    bench.feed(DONE)
    assert bench.limits.due == float("inf")


async def test_out_of_time_is_an_error_before_the_finish_reason_and_an_end_after_it() -> None:
    early, late = Bench(), Bench()
    early.feed(delta("a"))
    late.feed(delta("a") + finish())
    early.relay.timed_out()
    late.relay.timed_out()
    assert (code(early), code(late)) == ("upstream_timeout", None)


@pytest.mark.parametrize("before", [0, 5])
async def test_a_client_that_does_not_read_pauses_the_provider_and_its_clock(before: int) -> None:
    bench = Bench()
    bench.feed(*[delta("a")] * before)
    bench.down.stop_reading()
    bench.feed(delta("a"))
    assert not bench.provider.reading
    assert bench.limits.due == float("inf")
    bench.down.read_again()
    assert bench.provider.reading
    assert bench.limits.due < float("inf")
    bench.feed(STREAM)
    assert bench.down.body == delta("a") * (before + 1) + BEFORE_DONE


async def test_taps_see_what_the_client_gets() -> None:
    seen: list[bytes] = []
    bench = Bench(asked=False, taps=[seen.append])
    bench.feed(delta("a"), delta("b"), delta("c"))
    bench.feed(*cut(STREAM, 3))
    assert b"".join(seen) == bench.down.body == delta("a") + delta("b") + delta("c") + without_usage(BEFORE_DONE)


async def test_an_event_over_the_limit_ends_the_answer_after_those_before_it() -> None:
    for pieces in ([delta("a") + delta("bb"), DONE], [delta("a") + delta("bb")], [delta("a"), delta("bbb")[:-1]]):
        bench = Bench(most=len(delta("a")))
        bench.feed(*pieces)
        bench.end()
        assert (bench.down.body, code(bench)) == (delta("a"), "upstream_event_too_large")


EVENTS = [delta("a"), delta("b"), delta('"c" \u00e9'), finish(), usage_event(), DONE, event({"error": {"message": "no"}}), event([]), event({})]
PIECES = st.sampled_from([*EVENTS[:3] * 8, *EVENTS, b": hm\n\n", b"id: 1\n\n", b"data: x\n\n", b"data: {", b"\n"])


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(PIECES, max_size=40), st.booleans(), st.integers(0, 2**32), st.booleans())
def test_any_stream_whatever_ends_one_way_and_is_relayed_alike_however_it_is_cut(
    pieces: list[bytes], asked: bool, seed: int, clean: bool
) -> None:
    stream = b"".join(pieces)

    async def outcome(*cuts: bytes) -> tuple[bytes, bytes, str | None, str]:
        bench = Bench(asked=asked)
        bench.feed(*cuts)
        bench.end(None if clean else UpstreamDisconnected())
        assert bench.over
        return bench.down.body, bench.relay.last, code(bench), bench.relay.stream.text

    whole = asyncio.run(outcome(stream))
    assert asyncio.run(outcome(*cut(stream, seed))) == asyncio.run(outcome(*pieces)) == whole
    body, last, _, _ = whole
    assert b"[DONE]" not in body
    assert set(body) <= set(stream)
    assert last in (b"", DONE) or b"[DONE]" in last


# ── the path through chunk plugins ──────────────────────────────────────────────────────────────────────────────────────────

Hook = Callable[[Chunk], Any]


def hooked(hook: Hook, **options: Any) -> Bench:
    async def hooks(chunk: Chunk) -> list[Chunk]:
        result = hook(chunk)
        if asyncio.iscoroutine(result):
            result = await result
        return [chunk] if result is None else list(result)

    return Bench(hooks=hooks, **options)


async def run(bench: Bench, *pieces: bytes, end: bool = True) -> MuxxError | None:
    """Feed everything, then take through the hooks what is left to be."""
    bench.feed(*pieces)
    if end:
        bench.end()
    assert isinstance(bench.relay, HookedRelay)
    return await bench.relay.run()


either = pytest.mark.parametrize("waits", [False, True], ids=["hooks that do not wait", "hooks that may"])


@either
@pytest.mark.parametrize("asked", [True, False])
async def test_a_hook_that_changes_nothing_leaves_the_providers_bytes(asked: bool, waits: bool) -> None:
    for seed in range(8):
        bench = hooked(lambda chunk: None, asked=asked, waits=waits)
        assert await run(bench, *cut(STREAM, seed)) is None
        assert bench.down.body + bench.relay.last == (STREAM if asked else without_usage(STREAM))


@either
async def test_what_one_read_brings_through_the_hooks_leaves_in_one_write(waits: bool) -> None:
    bench = hooked(lambda chunk: None, waits=waits)
    assert await run(bench, BEFORE_DONE + DONE) is None
    assert bench.down.pieces == [BEFORE_DONE]


CALL = b'"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]'
MORE = b'"tool_calls":[{"index":0,"function":{"arguments":"{"}}]'
SAID = [
    *map(delta, ("a", " b", "drop", "twice", "upper", "\u00e9")),
    delta("c").replace(b'"index":0', b'"index":1'),
    *(delta("").replace(b'"content":""', member) for member in (CALL, MORE, MORE, b'"reasoning_content":"Hm"', b'"reasoning_content":"upper"')),
]
ENDS = [delta("end"), delta("crash"), finish(), DONE, event({"error": {"message": "no"}})]


def whimsical(chunk: Chunk) -> list[Chunk] | None:
    """Does with a Chunk what its text says."""
    if chunk.text == "crash":
        raise PluginError()
    if chunk.text == "upper":
        chunk.text = "UPPER"
    changed = {"drop": [], "twice": [chunk, replace(chunk, raw=None)], "end": [Chunk("end")]}
    return changed.get(chunk.text)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.sampled_from(SAID * 3 + ENDS), max_size=40), st.integers(0, 2**32), st.sampled_from(["pieces", "events", "all"]))
def test_with_hooks_as_well_it_makes_no_difference_how_events_are_known(events: list[bytes], seed: int, reads: str) -> None:
    stream = b"".join(events)
    cuts = {"pieces": list(cut(stream, seed)), "events": events, "all": [stream]}[reads]

    async def outcome(likenesses: int) -> tuple[Any, ...]:
        seen: list[tuple[str, str, int]] = []

        def hook(chunk: Chunk) -> list[Chunk] | None:
            seen.append((chunk.kind, chunk.text, chunk.index))
            return whimsical(chunk)

        delivered = Delivered(ChatStream(client_asked_usage=True, choices=2), 2**20)
        bench = hooked(hook, choices=2, waits=False, readback=delivered)
        bench.relay._likenesses = likenesses
        try:
            error = await run(bench, *cuts)
        except MuxxError as raised:
            error = raised
        said = bench.relay.stream.text, delivered.facts.text, delivered.facts.finish_reasons
        return bench.down.body, bench.relay.last, error and error.code, seen, said

    assert asyncio.run(outcome(MOST_LIKENESSES)) == asyncio.run(outcome(0))


async def test_what_hooks_are_shown_of_events_known_by_their_likeness_is_not_parsed(observed: list[bytes]) -> None:
    delivered = Delivered(ChatStream(client_asked_usage=True), 2**20)
    bench = hooked(lambda chunk: None, waits=False, readback=delivered)
    words = [delta(f" word{number}") for number in range(20)]
    bench.feed(delta("a"), words[0], *words[1:9], words[9] + words[10], *words[11:])
    assert bench.down.pieces == [delta("a"), *words[:9], words[9] + words[10], *words[11:]]
    assert observed == [delta("a")] * 2 + [words[0]] * 2
    assert bench.relay.stream.text == delivered.facts.text == "a" + "".join(f" word{number}" for number in range(20))


async def test_hooks_are_shown_many_events_of_one_read_without_parsing_each(observed: list[bytes]) -> None:
    shown: list[str] = []
    delivered = Delivered(ChatStream(client_asked_usage=True), 2**20)
    bench = hooked(lambda chunk: shown.append(chunk.text), waits=False, readback=delivered)
    words = [f" word{number}" for number in range(20)]
    bench.feed(b"".join(map(delta, words)))
    assert bench.down.body == b"".join(map(delta, words))
    assert len(observed) == 2 * FIRST_EVENTS
    assert shown == words
    assert bench.relay.stream.text == delivered.facts.text == "".join(words)


async def test_hooks_that_do_not_wait_let_through_what_comes_in_the_same_step() -> None:
    bench = hooked(lambda chunk: None, waits=False)
    for raw, _ in events_of(BEFORE_DONE):
        bench.feed(raw)
        assert bench.down.pieces[-1] == raw
    assert not bench.over


async def test_what_comes_before_an_event_whose_hook_waits_does_not_wait_with_it() -> None:
    go_on = asyncio.Event()

    async def slow(chunk: Chunk) -> None:
        if chunk.text == WORDS[2]:
            await go_on.wait()

    bench = hooked(slow)
    running = asyncio.ensure_future(run(bench, STREAM))
    await eventually(lambda: bench.down.pieces == [delta(WORDS[0]) + delta(WORDS[1])])
    go_on.set()
    assert await running is None
    assert bench.down.body == BEFORE_DONE


@either
async def test_hooks_see_every_chunk_in_order_and_the_end_last(waits: bool) -> None:
    seen: list[Chunk] = []
    bench = hooked(seen.append, waits=waits)
    await run(bench, STREAM)
    assert "".join(chunk.text for chunk in seen if chunk.kind == "text") == TEXT
    assert [chunk.kind for chunk in seen].count("end") == 1
    assert seen[-1].kind == "end"


@either
async def test_an_end_returned_early_ends_the_answer_and_nothing_follows(waits: bool) -> None:
    bench = hooked(lambda chunk: [Chunk("end", finish_reason="content_filter")] if chunk.text == WORDS[2] else None, waits=waits)
    assert await run(bench, STREAM) is None
    assert bench.down.body.startswith(delta(WORDS[0]) + delta(WORDS[1]))
    assert WORDS[3].strip().encode() not in bench.down.body
    assert bench.relay.last == DONE
    bench.feed(delta("late"))
    assert b"late" not in bench.down.body


@either
@pytest.mark.parametrize("raised", [PluginError(), KeyError("of our own")], ids=repr)
async def test_what_a_hook_raises_ends_the_answer(raised: Exception, waits: bool) -> None:
    def crash(chunk: Chunk) -> None:
        if chunk.text == WORDS[1]:
            raise raised

    bench = hooked(crash, waits=waits)
    with pytest.raises(type(raised)):
        await run(bench, STREAM)
    bench.feed(delta("late"))
    assert bench.down.body == delta(WORDS[0])
    assert bench.over


async def test_hooks_that_do_not_wait_find_what_the_exchanges_task_has_set() -> None:
    """They are called by the provider's connection, which knows nothing of the task."""
    whose = ContextVar("whose", default="nobody's")
    found = []

    async def exchange() -> Bench:
        whose.set("the exchange's")
        return hooked(lambda chunk: found.append(whose.get()), waits=False)

    bench = await asyncio.create_task(exchange())
    bench.feed(BEFORE_DONE)
    assert set(found) == {"the exchange's"}


async def test_events_that_come_while_a_hook_is_at_work_keep_their_order_and_end_with_done() -> None:
    async def slow(chunk: Chunk) -> list[Chunk]:
        await asyncio.sleep(0.001)
        return [replace(chunk, text=chunk.text.upper())] if chunk.kind == "text" else [chunk]

    bench = hooked(slow)
    assert isinstance(bench.relay, HookedRelay)
    running = asyncio.ensure_future(bench.relay.run())
    for raw, _ in events_of(STREAM):
        bench.feed(raw)
        await asyncio.sleep(0)
    bench.feed(delta("after the end"))
    assert await running is None
    texts = [choice["delta"].get("content") for choice in choices_of(bench.down.body)]
    assert "".join(filter(None, texts)) == TEXT.upper()
    assert bench.provider.closed, "bytes after the end"


def choices_of(stream: bytes) -> list[dict[str, Any]]:
    return [choice for chunk in chunks_of(stream) for choice in chunk["choices"]]


async def test_a_queue_that_fills_pauses_the_provider_until_it_is_taken() -> None:
    bench = hooked(lambda chunk: None)
    bench.feed(delta("x" * (QUEUED_BYTES + 1)))
    assert not bench.provider.reading
    assert isinstance(bench.relay, HookedRelay)
    running = asyncio.ensure_future(bench.relay.run())
    await asyncio.sleep(0.01)
    assert bench.provider.reading
    bench.feed(finish() + DONE)
    assert await running is None


@either
async def test_out_of_time_is_told_after_what_came_before(waits: bool) -> None:
    bench = hooked(lambda chunk: None, waits=waits)
    bench.feed(delta("a"))
    bench.relay.timed_out()
    assert isinstance(bench.relay, HookedRelay)
    error = await bench.relay.run()
    assert error is not None
    assert (bench.down.body, error.code) == (delta("a"), "upstream_timeout")

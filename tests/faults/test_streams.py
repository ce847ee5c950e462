"""FAULTS S01 to S04: what the provider sends is what the client gets, byte for byte, however the network cuts it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import (
    ASKED,
    STREAM,
    WORDS,
    Bench,
    booking,
    both_transports,
    broken_with,
    cut,
    delta,
    error_code,
    events_of,
    finish,
    is_usage_event,
    part_of,
    sample,
    serving,
    usage_event,
    without_comment,
    without_usage,
)
from hooks_kit import Sees
from process_kit import Upstream, forget_peak, gateway_process, peak, workers_of
from thoroughness import some
from wire.recordings import recordings

from muxx.testing import DONE, RunningGateway, chat_body, cuts, event, sse

# ── S01: identity ───────────────────────────────────────────────────────────────────────────────────────────────────────────


ASKING = [ASKED, {"stream": True}]


async def pass_through(gateway: RunningGateway, stream: bytes, seed: int, clients: Sequence[dict[str, Any]] = ASKING) -> None:
    """One stream to a client that asks for usage and one that does not: same bytes, less the usage event; booked alike."""
    for options in clients:
        gateway.upstream.script(sse(chunks=cut(stream, seed), chunked=seed % 3 > 0))
        response = await gateway.chat(**options)
        assert response.complete
        assert without_comment(response) == (stream if options is ASKED else without_usage(stream))
        expected = booking(stream) | {"status": 200, "ended_by": None, "phase": None, "error_code": None, "attempts": 1}
        row = await gateway.get_row(response.request_id)
        assert part_of(row, expected) == expected
        assert 0 < row["first_token_ms"] <= row["duration_ms"]


@both_transports
async def test_S01_every_recording_passes_byte_for_byte_and_is_booked_as_reported_or_estimated(transport: str) -> None:
    async with serving(transport) as gateway:
        for seed, path in enumerate(recordings()):
            clients = ASKING if transport == "lean" else [ASKING[seed % 2]]
            await pass_through(gateway, path.read_bytes(), seed, clients)


@pytest.mark.soak
@both_transports
async def test_S01_every_recording_in_many_chunkings(transport: str) -> None:
    async with serving(transport) as gateway:
        for number, path in enumerate(recordings()):
            for seed in range(20):
                await pass_through(gateway, path.read_bytes(), 1000 * seed + number)


async def test_S01_without_the_comment_nothing_at_all_is_added() -> None:
    async with serving(config={"server": {"stream_cost_comment": False}}) as gateway:
        for seed, path in enumerate(some(recordings())):
            stream = path.read_bytes()
            gateway.upstream.script(sse(chunks=cut(stream, seed)))
            assert (await gateway.chat(**ASKED)).body == stream


@both_transports
async def test_S01_the_head_of_a_stream_says_how_it_is_to_be_read(transport: str) -> None:
    async with serving(transport) as gateway:
        gateway.upstream.script(sse(STREAM, headers={"OpenAI-Processing-Ms": "12", "Set-Cookie": "a=b"}))
        response = await gateway.chat(stream=True)
        expected = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        expected |= {"Transfer-Encoding": "chunked", "X-Muxx-Cache": "MISS", "openai-processing-ms": "12"}
        assert {name: response.header(name) for name in expected} == expected
        assert {name.lower() for name, _ in response.headers} == {
            *(name.lower() for name in expected),
            *("date", "x-muxx-request-id", "x-request-id", "server-timing"),
        }


# ── S02: segmentation ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Whole:
    """A stream and, for each of its events, how much a client must have got once that event is complete."""

    def __init__(self, stream: bytes, *, asked: bool) -> None:
        self.stream, self.asked = stream, asked
        self.starts = [0, *accumulate(len(raw) for raw, _ in events_of(stream))]
        sent = [0 if data == b"[DONE]" or (is_usage_event(data) and not asked) else len(raw) for raw, data in events_of(stream)]
        self.due = [0, *accumulate(sent)]
        self.body = (stream if asked else without_usage(stream)).removesuffix(DONE)

    def fed(self, cuts: list[int]) -> None:
        """Cut there, the same bytes come out, and each event as soon as its last byte is there."""
        bench = Bench(asked=self.asked)
        for start, end in pairwise([0, *cuts, len(self.stream)]):
            bench.feed(self.stream[start:end])
            got = sum(map(len, bench.down.pieces))
            assert got == self.due[bisect_right(self.starts, end) - 1]
        assert bench.down.body == self.body
        assert bench.relay.last == DONE
        assert bench.error is None


@pytest.mark.parametrize("asked", [True, False])
async def test_S02_twenty_recordings_survive_a_cut_at_every_byte_of_every_event(asked: bool) -> None:
    for stream in sample(20, seed=2, most=(24 if asked else 8) * 1024):
        whole = Whole(stream, asked=asked)
        ends = list(pairwise(whole.starts))
        for offset in some(range(1, max(end - start for start, end in ends)), 0.1):
            whole.fed([start + offset for start, end in ends if start + offset < end])


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("asked", [True, False])
async def test_S02_twenty_recordings_survive_every_single_cut(asked: bool) -> None:
    for stream in sample(20, seed=20):
        whole = Whole(stream, asked=asked)
        for position in range(1, len(stream)):
            whole.fed([position])


async def test_S02_each_event_leaves_before_the_next_one_comes() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(chunks=[raw for raw, _ in events_of(STREAM)], gap=0.02))
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **ASKED})
            pieces = [piece async for piece in client.body(await client.read_head())]
        assert pieces[:-1] == [raw for raw, _ in events_of(STREAM)][:-1]
        assert pieces[-1].endswith(DONE)


# ── S03: dialects ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def many_lines(stream: bytes) -> bytes:
    """Each event's JSON on several `data:` lines."""
    return stream.replace(b',"choices"', b',\ndata: "choices"')


DIALECTS = {
    "CRLF": STREAM.replace(b"\n", b"\r\n"),
    "CR": STREAM.replace(b"\n", b"\r"),
    "BOM": b"\xef\xbb\xbf" + STREAM,
    "no space": STREAM.replace(b"data: ", b"data:"),
    "comments": b": OPENROUTER PROCESSING\n\n" + STREAM.replace(b"\n\ndata: [DONE]", b"\n\n: one\n: two\n\ndata: [DONE]"),
    "comment inside an event": STREAM.replace(b"data: {", b": hm\ndata: {"),
    "several lines": many_lines(STREAM),
    "named events": STREAM.replace(b"data: {", b"event: chunk\ndata: {"),
    "unknown fields": STREAM.replace(b"data: {", b"nonce: 1\ndata: {"),
    "an unfinished [DONE]": STREAM.removesuffix(b"\n\n"),
    "no [DONE], an unfinished finish": b"".join(map(delta, WORDS)) + finish().removesuffix(b"\n\n"),
    "a space around [DONE]": STREAM.removesuffix(DONE) + b"data:  [DONE] \n\n",
}


@both_transports
@pytest.mark.parametrize("name", DIALECTS)
async def test_S03_every_dialect_passes_untouched(transport: str, name: str) -> None:
    stream = DIALECTS[name]
    async with serving(transport, {"server": {"stream_cost_comment": False}}) as gateway:
        for seed in range(6):
            gateway.upstream.script(sse(chunks=cuts(stream, seed), chunked=seed % 2 > 0))
            response = await gateway.chat(**ASKED)
            assert (response.complete, response.body) == (True, stream)
            row = await gateway.get_row(response.request_id)
            assert (row["ended_by"], row["finish_reasons"]) == (None, ["stop"])
            assert "".join(choice["message"]["content"] for choice in row["output"]["choices"]) == "".join(WORDS)


DATALESS = [b"retry: 3000\n\n", b"id: 7\n\n", b"event: ping\n\n", b"data\n\n", b"data:\n\n", b"nonsense\n\n"]


@pytest.mark.parametrize("dataless", DATALESS)
async def test_S03_events_without_data_are_not_sent(dataless: bytes) -> None:
    stream = dataless + STREAM.replace(b"\n\ndata", b"\n\n" + dataless + b"data", 2)
    async with serving(config={"server": {"stream_cost_comment": False}}) as gateway:
        for seed in range(4):
            gateway.upstream.script(sse(chunks=cuts(stream, seed)))
            assert (await gateway.chat(**ASKED)).body == STREAM


async def test_S03_where_events_have_ids_no_comment_is_added() -> None:
    stream = STREAM.replace(b"data: {", b"id: 7\ndata: {", 1)
    async with serving() as gateway:
        gateway.upstream.script(sse(stream))
        assert (await gateway.chat(**ASKED)).body == stream


async def test_S03_usage_is_withheld_in_every_dialect() -> None:
    async with serving(config={"server": {"stream_cost_comment": False}}) as gateway:
        for name, stream in DIALECTS.items():
            gateway.upstream.script(sse(chunks=cuts(stream, 3)))
            found = [data for _, data in events_of((await gateway.chat(stream=True)).body) if data]
            expected = [data for _, data in events_of(without_usage(stream)) if data]
            assert found == expected, name


# ── S04: large events ───────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
async def test_S04_an_event_of_four_mebibytes_passes(transport: str) -> None:
    stream = delta("x" * 2**22) + finish() + DONE
    async with serving(transport) as gateway:
        gateway.upstream.script(sse(stream))
        assert without_comment(await gateway.chat(**ASKED)) == stream


FIXED = 6 * 2**20
"""Bytes that any event may take beside its own: what the cache holds of an answer before that has become too large for it."""


@pytest.mark.parametrize(
    ("transport", "member", "stored", "times"),
    [("lean", "content", False, 2), ("aiohttp", "content", False, 2), ("lean", "image", True, 2), ("lean", "content", True, 3)],
)
async def test_S04_an_event_of_fifteen_mebibytes_takes_no_more_than_twice_its_size(
    tmp_path: Path, transport: str, member: str, stored: bool, times: int
) -> None:
    """And its text once more at the end, where that is stored: as JSON, for the row."""
    large = event({"choices": [{"index": 0, "delta": {member: "x" * 15 * 2**20}}]})
    config = {"server": {"transport": transport}, "project": {"store_content": stored}}
    async with Upstream() as upstream, gateway_process(tmp_path, upstream, config) as gateway:
        for _ in range(3):
            await gateway.chat(stream=True)
        [pid] = workers_of(gateway)
        forget_peak(pid)
        before = peak(pid)
        upstream.choose = lambda _: sse(delta("first") + large + finish() + DONE)
        async with await gateway.connect() as client:
            await client.post_chat(gateway.key, chat_body("Draw", stream=True))
            head = await client.read_head()
            got = 0
            async for piece in client.body(head):
                got += len(piece)
        assert got > len(large)
        assert peak(pid) - before < times * len(large) + FIXED


@pytest.mark.parametrize("plugins", [{}, {"sees": Sees}], ids=["as it comes", "through a plugin"])
async def test_S04_small_events_beside_a_large_one_stay_in_their_order(
    plugins: dict[str, type], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = delta("first") + delta("x" * 200) + delta("last") + finish() + DONE
    monkeypatch.setattr("muxx.relay.LARGE", 200)
    async with serving(plugins=plugins) as gateway:
        gateway.upstream.script(sse(stream))
        response = await gateway.chat(**ASKED)
        assert without_comment(response) == stream
        row = await gateway.get_row(response.request_id)
        assert row["output"]["choices"][0]["message"]["content"] == f"first{'x' * 200}last"


@both_transports
@pytest.mark.parametrize("seed", range(3))
async def test_S04_an_event_over_the_limit_ends_the_stream(transport: str, seed: int) -> None:
    frame = len(delta(""))
    fitting, over = delta("x" * (65536 - frame)), delta("x" * (65537 - frame))
    async with serving(transport, {"server": {"max_event_bytes": 65536}}) as gateway:
        gateway.upstream.script(sse(chunks=cut(delta("first") + fitting + over + finish() + DONE, seed)))
        response = await gateway.chat(**ASKED)
        assert broken_with(response.body, "upstream_event_too_large") == delta("first") + fitting
        row = await gateway.get_row(response.request_id)
        expected = {"status": 200, "ended_by": "upstream", "phase": "stream", "error_code": "upstream_event_too_large"}
        assert part_of(row, expected) == expected
        assert row["output_tokens"] > 0


@pytest.mark.soak
@both_transports
async def test_S04_the_default_limit_is_sixteen_mebibytes(transport: str) -> None:
    frame = len(delta(""))
    async with serving(transport) as gateway:
        gateway.upstream.script(sse(delta("x" * (2**24 - frame)) + finish() + DONE), sse(delta("x" * (2**24 + 1 - frame)) + DONE))
        assert (await gateway.chat(**ASKED)).done
        response = await gateway.chat(**ASKED)
        assert (response.status, error_code(response)) == (502, "upstream_event_too_large")


# ── M05: usage muxx asked for ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_M05_the_provider_is_asked_for_usage_and_the_client_never_sees_it() -> None:
    async with serving() as gateway:
        gateway.upstream.script(sse(STREAM))
        for options in ({}, None, {"include_usage": False}, {"include_obfuscation": False}):
            response = await gateway.chat(stream=True, stream_options=options)
            assert without_comment(response) == without_usage(STREAM)
            assert gateway.upstream.last.json()["stream_options"] == {**(options or {}), "include_usage": True}


async def test_M05_usage_beside_choices_goes_to_everybody() -> None:
    stream = delta("a") + finish(usage={"prompt_tokens": 1, "completion_tokens": 1}) + DONE
    async with serving() as gateway:
        gateway.upstream.script(sse(stream))
        assert without_comment(await gateway.chat(stream=True)) == stream


async def test_M05_a_provider_that_must_not_be_asked_is_not() -> None:
    stream = delta("a") + finish() + usage_event() + DONE
    async with serving(config={"providers": {"openai": {"ask_usage": False}}}) as gateway:
        gateway.upstream.script(sse(stream))
        response = await gateway.chat(stream=True)
        assert "stream_options" not in gateway.upstream.last.json()
        assert without_comment(response) == stream


async def test_M05_an_event_with_no_choices_and_no_usage_is_not_withheld() -> None:
    stream = event({"choices": [], "prompt_filter_results": [1]}) + event({"choices": [], "usage": None}) + STREAM
    async with serving() as gateway:
        gateway.upstream.script(sse(stream))
        assert without_comment(await gateway.chat(stream=True)) == without_usage(stream)


@both_transports
async def test_S01_of_a_stream_cut_within_its_last_line_end_every_byte_is_there(transport: str) -> None:
    whole = STREAM.replace(b"\n", b"\r\n")
    async with serving(transport, {"server": {"stream_cost_comment": False}}) as gateway:
        gateway.upstream.script(sse(chunks=[whole[:-1], whole[-1:]], gap=0.02))
        assert (await gateway.chat(**ASKED)).body == whole
